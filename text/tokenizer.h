#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace text {

struct GrammarSource;
class TextProcess;

struct TokenizerOptions {
    /// For vocabularies that are bare lists of ranks or words: how text is cut ("gpt2", "cl100k", "o200k", "llama3",
    /// "qwen2"; "bert-uncased", "bert-cased"). Empty: recognised by the size of the vocabulary or its words.
    std::string pattern{};
    std::size_t file_bytes_max = std::size_t{256} << 20;  // largest tokenizer.json today: about 35 MB
    std::size_t text_bytes_max = std::size_t{16} << 20;   // of one text to encode
    /// Where the tokenizer, and the templates of ModelText, do their work: for files and texts of strangers. Null: in
    /// this process, for files that are trusted. A process holds one tokenizer.
    std::shared_ptr<TextProcess> process = {};
};

struct EncodeOptions {
    /// BOS and EOS as the model wants them. Off for rendered chat templates: these contain their own.
    bool add_special = false;
    /// The text of a special token ("<|im_end|>") becomes that token. On for rendered chat templates and, as Hugging
    /// Face does it, for prompts; off where text must not reach the model's control tokens.
    bool parse_special = false;
    /// With parse_special: bytes of the text, ascending, at which no token of a fixed text begins: what stands there is
    /// text, and is read as if it were so without that token. Borrowed for the call.
    std::span<const std::size_t> text_starts = {};
    /// More tokens than this are refused; 0: any number. A text that is too long for it whatever it holds is refused
    /// before it is looked at (Tokenizer::check_length()).
    std::uint64_t tokens_max = 0;
};

struct DecodeOptions {
    /// Leaves special tokens out.
    bool skip_special = true;
    /// Takes out the space before "." and the like as transformers' `clean_up_tokenization_spaces` does.
    bool clean_up_spaces = false;
};

/// Text to tokens and back, for any of the file forms that models come with: `tokenizer.json`, SentencePiece's
/// `tokenizer.model`, tiktoken ranks, `vocab.json` + `merges.txt`, BERT's `vocab.txt`, piece lists, GGUF vocabularies.
/// Immutable; used from many threads at once.
class Tokenizer {
public:
    /// `path`: a model's folder, or one tokenizer file (a `tokenizer_config.json` beside it is honoured too, but not
    /// beside a GGUF file, which says all of it itself).
    /// Errors: not_found with the names looked for; invalid_argument for a broken file or a pattern that is missing or
    /// unknown; unimplemented for a kind that is not built.
    [[nodiscard]] static base::Result<std::shared_ptr<const Tokenizer>> load(const std::filesystem::path& path,
                                                                             const TokenizerOptions& options = {});

    ~Tokenizer();
    Tokenizer(const Tokenizer&) = delete;
    Tokenizer& operator=(const Tokenizer&) = delete;

    /// Errors: invalid_argument when `utf8` is not UTF-8, cannot be expressed, or is one that the tokenizer cannot deal
    /// with; resource_exhausted beyond `text_bytes_max` or `tokens_max`, and beyond the bounds of the text process.
    [[nodiscard]] base::Result<std::vector<base::TokenId>> encode(std::string_view utf8,
                                                                  const EncodeOptions& options = {}) const;

    /// Whether answers can keep to a grammar (text/grammar.h); in the text process where there is one, so that one that
    /// takes too much hurts nobody. Errors: as text::check_grammar().
    [[nodiscard]] base::Result<void> check_grammar(const GrammarSource& source) const;

    /// Whether a text of so many bytes can have as few tokens as `tokens_max`; takes no time. Where the tokenizer drops
    /// nothing, no token stands for more bytes than the longest of the vocabulary; of other kinds (a word list has one
    /// token for any unknown word) kUnprovenBytesPerToken are believed. Error: resource_exhausted with both numbers.
    [[nodiscard]] base::Result<void> check_length(std::size_t bytes, std::uint64_t tokens_max) const;
    static constexpr std::uint64_t kUnprovenBytesPerToken = 1024;
    /// See check_length(). 0: nothing is known.
    std::uint64_t text_bytes_per_token() const;

    /// The text of `tokens`: equal to what a StreamDetokenizer gives in pieces. Ids outside the vocabulary (models pad
    /// theirs) are nothing; broken UTF-8 becomes U+FFFD.
    std::string decode(std::span<const base::TokenId> tokens, const DecodeOptions& options = {}) const;

    /// The bytes that `token` adds in the middle of a text: may be part of a character. Empty for unknown ids. For a
    /// special token its name. Borrowed: lives as long as the tokenizer.
    std::string_view token_bytes(base::TokenId token) const;

    /// One more than the largest id. The model's own vocabulary may be larger (padding).
    std::size_t vocabulary_size() const;
    bool is_special(base::TokenId token) const;
    /// The id of a token by its exact text ("<|im_end|>"). Slow: for load time.
    std::optional<base::TokenId> token_of(std::string_view token) const;
    std::optional<base::TokenId> bos() const;
    std::optional<base::TokenId> eos() const;
    /// TokenizerOptions::process.
    const std::shared_ptr<TextProcess>& process() const;

private:
    friend class StreamDetokenizer;
    friend class GrammarVocabulary;
    struct Parts;
    explicit Tokenizer(std::unique_ptr<Parts> parts);
    template <class Load>
    static base::Result<std::shared_ptr<const Tokenizer>> make(const std::filesystem::path& path,
                                                               const TokenizerOptions& options, const Load& load);
    std::unique_ptr<Parts> parts_;
};

}  // namespace text
