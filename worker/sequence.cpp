#include "worker/sequence.h"

#include "worker/plan_memory.h"

namespace worker {

std::optional<base::TimePoint> Sequence::next_due(base::TimePoint step_end) const {
    const base::Duration tpot = request.slo.tpot;
    if (schedule) { return due_at(schedule->begin, tpot, generated_after_step() + 1 - schedule->generated); }
    if (!step_samples) { return request.slo.first_token; }
    if (tpot == base::Duration::zero()) { return std::nullopt; }
    return step_end + tpot;
}

}  // namespace worker
