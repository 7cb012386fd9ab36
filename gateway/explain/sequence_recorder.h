#pragma once

#include <cstdint>
#include <memory>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "gateway/explain/timeline.h"
#include "gateway/request/slo_targets.h"
#include "proto/scheduler.pb.h"
#include "proto/version.h"
#include "proto/worker.pb.h"

namespace gateway {

/// Writes the timeline of one sequence while its Generation moves it on. Until begin() every call does nothing and
/// costs a comparison. The Generation's thread.
class SequenceRecorder {
public:
    void begin(base::RequestId id, base::TimePoint received_at, base::TimePoint now, std::uint32_t prompt_tokens,
               const SloTargets& targets);
    bool is_on() const { return timeline_ != nullptr; }

    /// The scheduler is asked for a place; asking again for the same one changes nothing.
    void asks(base::TimePoint now);
    void placed(base::TimePoint now, const proto::Placement& placement, bool is_split);
    /// It has the last word: no place.
    void refused(bool can_retry);
    /// A worker (by its incarnation) failed the sequence.
    void lost(base::TimePoint now, base::Incarnation worker, base::ErrorCode code);
    /// The `number`-th token of all (from 1), with the output that brought it; `gap`: since the one before.
    void token(base::TimePoint now, std::uint32_t number, base::Duration gap, const proto::SequenceOutput& output);

    /// What it waited for when it ended: only of one that failed.
    enum class Doing { nothing, placing, prefill, handoff, decode };
    /// The whole of it; is_on() is false then. Null where it was never begun.
    std::shared_ptr<const SequenceTimeline> end(base::TimePoint now, std::uint32_t tokens, base::Duration tpot,
                                                Doing doing);

private:
    /// The worker stood still although the tokens before this one were handed over in time: so they were held up there,
    /// too, all in its hands already.
    void move_unexplained(base::Duration gap, const proto::PartTrace& trace);
    void late_token(std::uint32_t number, base::Duration gap, bool is_after_loss, const proto::PartTrace* trace);

    std::shared_ptr<SequenceTimeline> timeline_;
    base::Duration tpot_target_{};
    // Of a late token whose worker accounts for less than it took, until another account comes, or tokens for as long:
    base::Duration unexplained_{};
    std::uint32_t unexplained_token_ = 0;
    base::Duration since_unexplained_{};
    base::TimePoint changed_at_{};      // its last step forward
    std::uint32_t attempt_tokens_ = 0;  // of the attempt under way
    std::uint64_t prefill_life_ = 0;    // incarnations of that attempt
    std::uint64_t decode_life_ = 0;
};

}  // namespace gateway
