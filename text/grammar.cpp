#include "text/grammar.h"

#include <utility>

#include "text/shim_call.h"
#include "text/tokenizer.h"
#include "text/tokenizer_parts.h"

namespace text {
namespace {

base::Result<void> outcome(std::int32_t code, const ShimBuffer& message) {
    if (code == SLUICE_OK) { return {}; }
    return tl::unexpected(shim_error(code, message.view()));
}

static_assert(sizeof(base::TokenId) == sizeof(std::uint32_t));

}  // namespace

base::Result<void> check_grammar(const GrammarSource& source) {
    ShimBuffer message;
    return outcome(sluice_grammar_check(static_cast<std::int32_t>(source.kind), shim_bytes(source.text), message.out()),
                   message);
}

base::Result<void> Tokenizer::check_grammar(const GrammarSource& source) const {
    if (!parts_->process) { return text::check_grammar(source); }
    std::string message;
    const std::int32_t code =
        parts_->process->check_grammar(static_cast<std::int32_t>(source.kind), source.text, message);
    if (code == SLUICE_OK) { return {}; }
    if (code == kNoTextProcess) { return base::fail(base::ErrorCode::unavailable, message); }
    return tl::unexpected(shim_error(code, message));
}

GrammarMatcher::GrammarMatcher(GrammarMatcher&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}

GrammarMatcher& GrammarMatcher::operator=(GrammarMatcher&& other) noexcept {
    std::swap(handle_, other.handle_);
    return *this;
}

GrammarMatcher::~GrammarMatcher() {
    sluice_matcher_free(handle_);
}

base::Result<void> GrammarMatcher::consume(std::span<const base::TokenId> tokens) {
    ShimBuffer message;
    const auto* ids = reinterpret_cast<const std::uint32_t*>(tokens.data());
    return outcome(sluice_matcher_consume(handle_, ids, tokens.size(), message.out()), message);
}

base::Result<void> GrammarMatcher::mask(std::span<std::uint32_t> words) {
    ShimBuffer message;
    return outcome(sluice_matcher_mask(handle_, words.data(), words.size(), message.out()), message);
}

Grammar::~Grammar() {
    sluice_grammar_free(handle_);
}

base::Result<GrammarMatcher> Grammar::matcher() const {
    ShimBuffer message;
    SluiceMatcher* handle = nullptr;
    if (auto made = outcome(sluice_matcher_new(handle_, &handle, message.out()), message); !made) {
        return base::pass_on(made);
    }
    return GrammarMatcher(handle);
}

base::Result<std::shared_ptr<const GrammarVocabulary>> GrammarVocabulary::make(const Tokenizer& tokenizer,
                                                                               std::span<const base::TokenId> eos,
                                                                               std::uint32_t vocabulary) {
    std::vector<std::uint32_t> ends;
    for (const base::TokenId token : eos) {
        if (token >= 0 && static_cast<std::uint32_t>(token) < vocabulary) {
            ends.push_back(static_cast<std::uint32_t>(token));
        }
    }
    const SluiceTokenTable& table = tokenizer.parts_->table;
    const SluiceTokens tokens{.tokens = table.tokens,
                              .bytes = table.bytes,
                              .offsets = table.offsets,
                              .flags = table.flags,
                              .vocabulary = vocabulary,
                              .eos = ends.data(),
                              .eos_count = ends.size()};
    ShimBuffer message;
    SluiceVocabulary* handle = nullptr;
    if (auto made = outcome(sluice_vocabulary_new(&tokens, &handle, message.out()), message); !made) {
        return base::pass_on(made);
    }
    return std::shared_ptr<const GrammarVocabulary>(new GrammarVocabulary(handle, vocabulary));
}

GrammarVocabulary::~GrammarVocabulary() {
    sluice_vocabulary_free(handle_);
}

base::Result<std::shared_ptr<const Grammar>> GrammarVocabulary::compile(const GrammarSource& source) const {
    ShimBuffer message;
    SluiceGrammar* handle = nullptr;
    const std::int32_t code = sluice_grammar_compile(handle_, static_cast<std::int32_t>(source.kind),
                                                     shim_bytes(source.text), &handle, message.out());
    if (auto made = outcome(code, message); !made) { return base::pass_on(made); }
    return std::shared_ptr<const Grammar>(new Grammar(handle));
}

}  // namespace text
