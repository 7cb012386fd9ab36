// What loading from a level below the pool takes, and whether it is worth it; the contract stands in kv_tiers.h.
#include <algorithm>
#include <chrono>

#include "worker/kv_tiers.h"

namespace worker {

using kv_transfer::TierEvent;

namespace {

/// So many loads are left out in turn because computing is quicker.
constexpr std::uint32_t kTriedAgainAfter = 16;
/// Of each load in what is learned of a tier.
constexpr double kLearningStep = 0.25;
/// A load that takes no longer than this goes on whatever is predicted: a busy machine takes as long for anything.
constexpr base::Duration kPatience = std::chrono::seconds(2);

/// A load that takes no longer than this is worth its save whatever is predicted: nobody notices it, and on a busy
/// machine such times say little.
constexpr double kUnnoticedSeconds = 0.25;

double seconds_of(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

}  // namespace

/// Whether blocks [first, end) come sooner from the tier than they would be computed. Unknown: yes, which teaches it;
/// so does one now and then of a tier that was slow.
bool KvTiers::is_worth_loading(std::size_t tier, std::uint32_t first, std::uint32_t end) {
    const std::uint32_t block_tokens = control_.cache().options().block_tokens;
    const auto computing = control_.predict_prefill(first * block_tokens, (end - first) * block_tokens);
    const std::optional<double>& seconds_per_block = load_seconds_per_block_[tier];
    if (!computing || !seconds_per_block) { return true; }
    const std::uint32_t blocks = tiers_[tier].mover->blocks_loading() + end - first;
    if (*seconds_per_block * blocks < seconds_of(*computing)) { return true; }
    if (++left_out_[tier] < kTriedAgainAfter) { return false; }
    left_out_[tier] = 0;
    return true;
}

/// Whether anything of blocks [first, end) would come back from the tier: not where it is so slow that even both ends
/// together save too little. Unknown: yes, and so does one now and then.
bool KvTiers::is_worth_saving(std::size_t tier, std::uint32_t first, std::uint32_t end) {
    const std::optional<double>& seconds_per_block = load_seconds_per_block_[tier];
    if (!seconds_per_block) { return true; }
    const auto computing = seconds_to_compute(first, end);
    if (!computing) { return true; }
    const double loading = *seconds_per_block * (end - first);
    if (loading <= kUnnoticedSeconds) { return true; }
    // Both take loading * computing / (loading + computing), which has to be so much below computing.
    const double most = both_ends_ ? *computing * (1 - kv_transfer::kBothSave) / kv_transfer::kBothSave : *computing;
    if (loading <= most) { return true; }
    if (++unsaved_[tier] < kTriedAgainAfter) { return false; }
    unsaved_[tier] = 0;
    return true;
}

/// When the load of blocks [first, end) that begins now has taken so long that all of it would be computed: it is given
/// up then, so a level that has become slow costs no more than as much again. Empty: nobody knows what that would take.
std::optional<base::TimePoint> KvTiers::load_limit(const TierSequence& sequence, std::uint32_t first,
                                                   std::uint32_t end) const {
    const auto computing = seconds_to_compute(first, end);
    if (!computing) { return std::nullopt; }
    const auto taken = std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(*computing));
    const base::TimePoint limit = control_.clock().now() + std::max(taken, kPatience);
    // What was loaded because it would be in time may take as long as that.
    return std::max(limit, sequence.first_token_due.value_or(limit));
}

/// What a level is expected to take before anything came from it.
void KvTiers::expect(std::size_t tier, base::Duration of_block) {
    load_seconds_per_block_[tier] = seconds_of(of_block);
    is_expected_[tier] = true;
    control_.tell_load_price(tier, *load_seconds_per_block_[tier] / control_.cache().options().block_tokens);
}

void KvTiers::learn(std::size_t tier, const TierEvent& event) {
    if (event.blocks_done == 0 && !event.given_up) { return; }
    const double seconds = seconds_of(event.duration) / std::max(event.blocks_done, 1u);
    std::optional<double>& learned = load_seconds_per_block_[tier];
    const bool is_known = learned && !is_expected_[tier];
    learned = is_known ? *learned + kLearningStep * (seconds - *learned) : seconds;
    is_expected_[tier] = false;
    control_.tell_load_price(tier, *learned / control_.cache().options().block_tokens);
}

}  // namespace worker
