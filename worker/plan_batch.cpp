#include "worker/plan_batch.h"

#include <algorithm>

#include "base/check.h"

namespace worker {

std::vector<PlanEntry> plan_batch(std::span<const PlanCandidate> candidates, const PlanLimits& limits) {
    CHECK(limits.sequences_max > 0 && limits.tokens_max > 0 && limits.chunk_tokens_max > 0);
    std::vector<PlanEntry> plan;
    const auto count = static_cast<std::uint32_t>(candidates.size());
    std::uint32_t decodes_max = std::min(limits.sequences_max, limits.tokens_max);
    const bool has_prompt = std::any_of(candidates.begin(), candidates.end(),
                                        [](const PlanCandidate& candidate) { return candidate.tokens_left > 1; });
    if (has_prompt && decodes_max > 1) { --decodes_max; }  // decodes alone could fill every step for ever
    for (std::uint32_t offset = 0; offset < count && plan.size() < decodes_max; ++offset) {
        const std::uint32_t index = (limits.decode_rotation + offset) % count;
        CHECK(candidates[index].tokens_left > 0);
        if (candidates[index].tokens_left == 1) { plan.push_back({index, 1}); }
    }
    const auto decodes = static_cast<std::uint32_t>(plan.size());
    std::uint32_t budget = limits.tokens_max - decodes;
    if (decodes > 0) { budget = std::min(budget, limits.chunk_tokens_max); }
    for (std::uint32_t index = 0; index < count && budget > 0 && plan.size() < limits.sequences_max; ++index) {
        if (candidates[index].tokens_left == 1) { continue; }
        const std::uint32_t tokens = std::min(budget, candidates[index].tokens_left);
        plan.push_back({index, tokens});
        budget -= tokens;
    }
    return plan;
}

}  // namespace worker
