#pragma once
// C interface of the Rust library in this folder. Everything is UTF-8. No entry unwinds, and none keeps what it is
// given by `SluiceBytes`. Handles may be used from many threads at once, except while they are freed.

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

typedef struct SluiceTokenizer SluiceTokenizer;
typedef struct SluiceTemplate SluiceTemplate;

/// Borrowed for one call. `data` may be null when `size` is 0.
typedef struct {
    const uint8_t* data;
    size_t size;
} SluiceBytes;

/// Filled by an entry (also when it fails) and given back with sluice_buffer_free.
typedef struct {
    uint8_t* data;
    size_t size;
    size_t capacity;
} SluiceBuffer;

/// What an entry returns. With anything but SLUICE_OK its buffer holds the message.
enum {
    SLUICE_OK = 0,
    SLUICE_INVALID = 1,        ///< the input is wrong
    SLUICE_RAISED = 2,         ///< the template called raise_exception; the message is its argument
    SLUICE_EXHAUSTED = 3,      ///< a bound was reached
    SLUICE_UNIMPLEMENTED = 4,  ///< the file asks for something that is not built
    SLUICE_PANICKED = 5        ///< a bug in the library; contained
};

void sluice_buffer_free(SluiceBuffer* buffer);

/// Kinds of tokenizer files for sluice_tokenizer_load.
enum {
    SLUICE_HUGGING_FACE_JSON = 0,  ///< tokenizer.json
    SLUICE_RANKS = 1,              ///< lines of "BASE64 RANK" (tiktoken)
    SLUICE_SENTENCE_PIECE = 2,     ///< tokenizer.model
    SLUICE_VOCAB_AND_MERGES = 3,   ///< vocab.json, and merges.txt as `second`
    SLUICE_WORD_LIST = 4,          ///< BERT's vocab.txt
    SLUICE_PIECE_LINES = 5         ///< JSON lines of id, piece, score
};

/// Loads a tokenizer. `options_json`: an object with any of pattern, bos, eos (texts), add_bos, add_eos, lower_case,
/// legacy (booleans or null), added_tokens ([{id, content, special, lstrip, rstrip}]), special_texts (texts of tokens
/// that are special whatever the tokenizer file says, where it has them).
int32_t sluice_tokenizer_load(int32_t kind, SluiceBytes first, SluiceBytes second, SluiceBytes options_json,
                              SluiceTokenizer** out, SluiceBuffer* message);

/// The vocabulary in a GGUF file's metadata (tokenizer.ggml.*). Lists are as in the file: strings with 8 bytes length
/// before each, numbers of 4 bytes; empty where the file has none.
typedef struct {
    SluiceBytes model;
    SluiceBytes pre;
    SluiceBytes tokens;  ///< strings
    SluiceBytes merges;  ///< strings
    SluiceBytes scores;  ///< floats
    SluiceBytes types;   ///< 32-bit integers
    int64_t bos;         ///< -1: none known
    int64_t eos;
    int64_t unknown;
    int32_t adds_bos;  ///< 0 or 1; -1: the file does not say
    int32_t adds_eos;
    int32_t adds_space;
} SluiceGgufVocabulary;

int32_t sluice_tokenizer_load_gguf(const SluiceGgufVocabulary* vocabulary, SluiceTokenizer** out,
                                   SluiceBuffer* message);

void sluice_tokenizer_free(SluiceTokenizer* tokenizer);

enum {
    SLUICE_ADD_SPECIAL = 1,   ///< BOS and EOS as the model wants them
    SLUICE_PARSE_SPECIAL = 2  ///< the text of a special token becomes that token
};

/// Text to ids; `out` receives native-endian uint32_t, one after another. `text_starts`: places (bytes) of the text,
/// ascending, at which no token of a fixed text begins; may be null when there are none.
int32_t sluice_tokenizer_encode(const SluiceTokenizer* tokenizer, SluiceBytes text, const size_t* text_starts,
                                size_t text_starts_count, uint32_t flags, SluiceBuffer* out);

/// The id of a token by its text, -1 when there is none. Slow.
int64_t sluice_tokenizer_id(const SluiceTokenizer* tokenizer, SluiceBytes token);

/// Flags of a token in SluiceTokenTable.
enum {
    SLUICE_TOKEN_SPECIAL = 1,
    SLUICE_TOKEN_BYTE = 2,          ///< one byte of a character that the vocabulary lacks
    SLUICE_TOKEN_SPACED = 4,        ///< begins with a space that is dropped when the token is the first
    SLUICE_TOKEN_CONTINUATION = 8,  ///< gets the continuation prefix back when it is the first
    SLUICE_TOKEN_ABSENT = 16,       ///< the id is not used
    SLUICE_TOKEN_SUFFIXED = 32      ///< ends with a space that is dropped when the token is the last
};

/// What happens at the start of a decoded text.
enum {
    SLUICE_FIRST_NOTHING = 0,
    SLUICE_FIRST_STRIP_TEXT = 1,  ///< up to `leading_spaces` spaces go
    SLUICE_FIRST_BY_FLAGS = 2,    ///< SPACED and CONTINUATION of the first token apply
    SLUICE_FIRST_STRIP_TOKEN = 3  ///< every space of the first token goes
};

/// How tokens become text. The pointers are the tokenizer's and live as long as it.
typedef struct {
    size_t tokens;
    const uint8_t* bytes;     ///< token i is bytes[offsets[i] .. offsets[i + 1])
    const uint32_t* offsets;  ///< tokens + 1 of them
    const uint8_t* flags;
    int32_t first_rule;
    uint32_t leading_spaces;
    int32_t replaces_each_byte;  ///< broken UTF-8: one U+FFFD a byte (1) or a broken sequence (0)
    SluiceBytes continuation_prefix;
    int64_t bos;  ///< -1: none known
    int64_t eos;  ///< -1: none known
    /// A text of n bytes has at least n / this tokens, whatever it is; 0: nothing is known of the kind, as where text
    /// is dropped or a whole word can be one unknown token.
    uint64_t text_bytes_per_token;
} SluiceTokenTable;

void sluice_tokenizer_table(const SluiceTokenizer* tokenizer, SluiceTokenTable* out);

/// Bounds of one render.
typedef struct {
    uint64_t fuel;  ///< instructions
    uint64_t output_bytes;
    uint32_t recursion;  ///< depth of macros and includes
} SluiceTemplateLimits;

/// A wall-clock time in the zone that the template shall see.
typedef struct {
    int32_t year;   ///< 1..9999
    int32_t month;  ///< 1..12
    int32_t day;    ///< 1..31
    int32_t hour;
    int32_t minute;
    int32_t second;
    int32_t microsecond;
} SluiceCivilTime;

int32_t sluice_template_compile(SluiceBytes source, SluiceTemplateLimits limits, SluiceTemplate** out,
                                SluiceBuffer* message);
void sluice_template_free(SluiceTemplate* source);

/// Renders with the variables of one JSON object; `out` receives the text.
int32_t sluice_template_render(const SluiceTemplate* source, SluiceBytes context_json, SluiceCivilTime now,
                               SluiceBuffer* out);

/// What the text of a grammar is.
enum {
    SLUICE_GRAMMAR_JSON_SCHEMA = 0,
    SLUICE_GRAMMAR_JSON_OBJECT = 1,  ///< any JSON object; the text does not count
    SLUICE_GRAMMAR_REGEX = 2,        ///< in the syntax of Rust's regex crate; the whole answer matches it
    SLUICE_GRAMMAR_CHOICE = 3,       ///< a JSON list of strings, of which the answer is one
    SLUICE_GRAMMAR_LARK = 4          ///< llguidance's form of Lark
};

/// Whether a grammar compiles within all bounds, whatever the vocabulary. SLUICE_INVALID names what is wrong or cannot
/// be done; SLUICE_EXHAUSTED: too large or too deep.
int32_t sluice_grammar_check(int32_t kind, SluiceBytes source, SluiceBuffer* message);

typedef struct SluiceVocabulary SluiceVocabulary;
typedef struct SluiceGrammar SluiceGrammar;
typedef struct SluiceMatcher SluiceMatcher;

/// The tokens that grammars are about; the first four as in SluiceTokenTable. Borrowed for one call.
typedef struct {
    size_t tokens;
    const uint8_t* bytes;
    const uint32_t* offsets;
    const uint8_t* flags;
    uint32_t vocabulary;  ///< ids that the model knows: may be more than `tokens` or fewer
    const uint32_t* eos;  ///< at least one; each ends a text that may end
    size_t eos_count;
} SluiceTokens;

/// How the model's tokenizer cuts a text, so that what a grammar forces comes as the tokens that the model knows it by.
/// Taken over: `release` is called once, when nobody asks any more. Any thread; several at once.
typedef struct {
    const void* context;
    /// Writes the ids of `text` (`bytes` long, maybe no UTF-8) and gives their number; negative, or more than `most`:
    /// it has none to give.
    ptrdiff_t (*cut)(const void* context, const uint8_t* text, size_t bytes, uint32_t* out, size_t most);
    void (*release)(const void* context);
} SluiceCutter;

/// `cutter` null: nothing is forced.
int32_t sluice_vocabulary_new(const SluiceTokens* tokens, const SluiceCutter* cutter, SluiceVocabulary** out,
                              SluiceBuffer* message);
void sluice_vocabulary_free(SluiceVocabulary* vocabulary);

/// The vocabulary may be freed before what was made from it.
int32_t sluice_grammar_compile(const SluiceVocabulary* vocabulary, int32_t kind, SluiceBytes source,
                               SluiceGrammar** out, SluiceBuffer* message);
void sluice_grammar_free(SluiceGrammar* grammar);

/// A matcher stands at the beginning of a text, and is used by one thread at a time. The grammar may be freed before
/// it.
int32_t sluice_matcher_new(const SluiceGrammar* grammar, SluiceMatcher** out, SluiceBuffer* message);
void sluice_matcher_free(SluiceMatcher* matcher);
/// SLUICE_INVALID: a token cannot come there; the matcher is of no more use.
int32_t sluice_matcher_consume(SluiceMatcher* matcher, const uint32_t* tokens, size_t count, SluiceBuffer* message);
/// Bit t % 32 of word t / 32: token t may come next; where the text is complete and cannot go on, those that end it.
/// SLUICE_EXHAUSTED: it takes too much; the matcher is of no more use.
int32_t sluice_matcher_mask(SluiceMatcher* matcher, uint32_t* words, size_t count, SluiceBuffer* message);
/// The tokens that have to come next (uint32_t each), whatever the model would choose; mostly none. The mask then has
/// the first of them only.
int32_t sluice_matcher_forced(SluiceMatcher* matcher, SluiceBuffer* out);

/// Panics inside, for the test that panics stay inside.
int32_t sluice_text_panic_for_test(SluiceBuffer* out);

#ifdef __cplusplus
}
#endif
