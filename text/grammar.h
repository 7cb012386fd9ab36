#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

struct SluiceGrammar;
struct SluiceMatcher;
struct SluiceVocabulary;

namespace text {

class Tokenizer;

/// What the text of a grammar is (sluice_text.h).
enum class GrammarKind : std::uint32_t { json_schema, json_object, regex, choice, lark };

/// What a text has to keep to.
struct GrammarSource {
    GrammarKind kind = GrammarKind::json_schema;
    std::string text;
    bool operator==(const GrammarSource&) const = default;
};

/// Whether a grammar can be compiled within the library's bounds, whatever the vocabulary; in this process, so for
/// tests and for what TextProcess::check_grammar() has let pass. Error: invalid_argument naming what is wrong or not
/// supported; resource_exhausted: too large or too deep.
base::Result<void> check_grammar(const GrammarSource& source);

/// Where one text stands in its grammar. A function of the tokens it was given, so a text that goes on elsewhere is
/// replayed from them. One thread at a time.
class GrammarMatcher {
public:
    GrammarMatcher(GrammarMatcher&& other) noexcept;
    GrammarMatcher& operator=(GrammarMatcher&& other) noexcept;
    ~GrammarMatcher();

    /// The text goes on with these. Error: invalid_argument: the grammar does not allow one of them; then nothing can
    /// be asked any more.
    base::Result<void> consume(std::span<const base::TokenId> tokens);
    /// Bit t % 32 of word t / 32: token t may come next. Where the text is complete and cannot go on: the tokens that
    /// end one. ceil(vocabulary / 32) words. Error: resource_exhausted: the grammar is too ambiguous here.
    base::Result<void> mask(std::span<std::uint32_t> words);
    /// The tokens that have to come next, whatever the model would choose; mostly none. Where there are some, mask()
    /// allows the first of them only. None where the vocabulary does not know how the model cuts texts.
    std::vector<base::TokenId> forced();

private:
    friend class Grammar;
    explicit GrammarMatcher(SluiceMatcher* handle) : handle_(handle) {}
    SluiceMatcher* handle_;
};

/// A grammar compiled for a vocabulary. Immutable; thread-safe.
class Grammar {
public:
    ~Grammar();
    Grammar(const Grammar&) = delete;
    Grammar& operator=(const Grammar&) = delete;

    /// At the beginning of a text. Error: internal.
    [[nodiscard]] base::Result<GrammarMatcher> matcher() const;

private:
    friend class GrammarVocabulary;
    explicit Grammar(SluiceGrammar* handle) : handle_(handle) {}
    SluiceGrammar* handle_;
};

/// The tokens of a model as grammars see them. Immutable; thread-safe.
class GrammarVocabulary {
public:
    /// `vocabulary`: tokens that the model chooses from, > 0; those that the tokenizer does not know are never allowed.
    /// `eos`: each ends a text that may end. Takes about 0.1 s and 30 MB for 150,000 tokens. Error: invalid_argument:
    /// nothing ends a text, or what does is no token of the model.
    /// `cutter`: asked how the model cuts what a grammar forces, by whoever uses the vocabulary, and kept as long;
    /// null: nothing is forced.
    [[nodiscard]] static base::Result<std::shared_ptr<const GrammarVocabulary>> make(
        const Tokenizer& tokenizer, std::span<const base::TokenId> eos, std::uint32_t vocabulary,
        std::shared_ptr<const Tokenizer> cutter = nullptr);
    ~GrammarVocabulary();
    GrammarVocabulary(const GrammarVocabulary&) = delete;
    GrammarVocabulary& operator=(const GrammarVocabulary&) = delete;

    std::uint32_t vocabulary() const { return vocabulary_; }
    /// Takes milliseconds; bounded. Errors: as check_grammar().
    [[nodiscard]] base::Result<std::shared_ptr<const Grammar>> compile(const GrammarSource& source) const;

private:
    GrammarVocabulary(SluiceVocabulary* handle, std::uint32_t vocabulary) : handle_(handle), vocabulary_(vocabulary) {}
    SluiceVocabulary* handle_;
    std::uint32_t vocabulary_;
};

}  // namespace text
