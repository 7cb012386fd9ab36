#include "worker/sequence.h"

namespace worker {
namespace {

/// A schedule that ends exactly at the target is missed by what the last step, or the way to the client, takes longer.
constexpr int kTargetPercent = 99;

}  // namespace

std::optional<base::TimePoint> Sequence::next_due(base::TimePoint step_end) const {
    const base::Duration tpot = request.slo.tpot;
    if (schedule) {
        return schedule->begin + tpot / 100 * kTargetPercent * (generated_after_step() + 1 - schedule->generated);
    }
    if (!step_samples) { return request.slo.first_token; }
    if (tpot == base::Duration::zero()) { return std::nullopt; }
    return step_end + tpot;
}

}  // namespace worker
