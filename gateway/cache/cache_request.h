#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/block_hash.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/openai/prepare.h"
#include "gateway/stages.h"

namespace gateway {

/// Reads from a request's texts what the cache must know of them, before they become tokens. Pure but for the form's
/// `cache_texts`.
class CacheTextReader final : public FormRewriter {
public:
    struct Options {
        caching::CacheRules rules = {};
        bool similarity = false;  // keep the texts, for questions that are alike
    };
    explicit CacheTextReader(Options options) : options_(options) {}
    ApiResult<void> rewrite(RequestForm& form, const RewriteContext& context) const override;

private:
    Options options_;
};

/// Weights as operators see them: 16 hexadecimal digits.
std::string revision_name(std::uint64_t numerics_id);

/// The sentence encoder that questions are compared by.
struct QuestionEncoder {
    const TextPort* text = nullptr;  // null: none; what needs no model is used
    std::uint64_t numerics_id = 0;   // of its workers
    std::uint32_t tokens_max = 0;    // of a text; a longer one is compared by its beginning
};

/// What a request is named with at the cache.
struct CacheNaming {
    caching::CacheRules rules = {};
    bool similarity = false;
    bool common = false;  // the tenant's answers may become others', and theirs its own
    base::HashKey key{};
    std::string_view tenant;
    std::string_view model;         // served name
    std::uint64_t numerics_id = 0;  // of the workers that would answer
    std::string_view routed = {};   // where two models answer to the name: what stands for both and for the prompt
    QuestionEncoder encoder = {};
};

/// Whether the prepared request may be answered from what was said before, and its name there: everything that its
/// answer depends on, under the cache's key, the tenant first. Pure; takes as long as its prompt is.
void name_request(CacheAsk& ask, const PreparedRequest& prepared, const TextPort& text, const CacheNaming& naming);

}  // namespace gateway
