#include "text/grammar.h"

#include <algorithm>
#include <cstring>
#include <mutex>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>

#include "base/log_limit.h"
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

/// How a model cuts the texts that grammars force: few different ones (names of members, mostly), so those that were
/// asked for are kept. Thread-safe.
class Cuts {
public:
    explicit Cuts(std::shared_ptr<const Tokenizer> tokenizer) : tokenizer_(std::move(tokenizer)) {}

    /// As SluiceCutter::cut.
    static std::ptrdiff_t cut(const void* context, const std::uint8_t* text, std::size_t bytes, std::uint32_t* out,
                              std::size_t most) noexcept {
        auto& self = *static_cast<Cuts*>(const_cast<void*>(context));
        const auto ids = self.ids({reinterpret_cast<const char*>(text), bytes});
        if (!ids || ids->size() > most) { return -1; }
        std::copy(ids->begin(), ids->end(), out);
        return static_cast<std::ptrdiff_t>(ids->size());
    }
    static void release(const void* context) noexcept { delete static_cast<const Cuts*>(context); }

private:
    static constexpr std::size_t kTextsMax = 4096;
    static constexpr std::size_t kTextBytesMax = 256;  // longer ones are asked for each time

    std::optional<std::vector<base::TokenId>> ids(std::string_view text) {
        const std::string key(text);
        {
            const std::scoped_lock lock(mutex_);
            if (const auto at = kept_.find(key); at != kept_.end()) { return at->second; }
        }
        auto encoded = tokenizer_->encode(text, {});
        if (!encoded) {
            base::warn_limited("forced text not cut", "a text that a grammar forces goes by the longest tokens: {}",
                               encoded.error().message);
            return std::nullopt;
        }
        if (key.size() <= kTextBytesMax) {
            const std::scoped_lock lock(mutex_);
            if (kept_.size() >= kTextsMax) { kept_.clear(); }
            kept_.emplace(key, *encoded);
        }
        return std::move(*encoded);
    }

    const std::shared_ptr<const Tokenizer> tokenizer_;
    std::mutex mutex_;
    std::unordered_map<std::string, std::vector<base::TokenId>> kept_;  // guarded by mutex_
};

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

std::vector<base::TokenId> GrammarMatcher::forced() {
    ShimBuffer ids;
    if (sluice_matcher_forced(handle_, ids.out()) != SLUICE_OK) { return {}; }
    std::vector<base::TokenId> tokens(ids.view().size() / sizeof(base::TokenId));
    if (!tokens.empty()) { std::memcpy(tokens.data(), ids.view().data(), tokens.size() * sizeof(base::TokenId)); }
    return tokens;
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

base::Result<std::shared_ptr<const GrammarVocabulary>> GrammarVocabulary::make(
    const Tokenizer& tokenizer, std::span<const base::TokenId> eos, std::uint32_t vocabulary,
    std::shared_ptr<const Tokenizer> cutter) {
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
    SluiceCutter cuts{.context = nullptr, .cut = &Cuts::cut, .release = &Cuts::release};
    if (cutter != nullptr) { cuts.context = new Cuts(std::move(cutter)); }  // the shim deletes it by release()
    const SluiceCutter* const given = cuts.context == nullptr ? nullptr : &cuts;
    if (auto made = outcome(sluice_vocabulary_new(&tokens, given, &handle, message.out()), message); !made) {
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
