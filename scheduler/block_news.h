#pragma once

#include <cstdint>
#include <optional>

#include "base/clock.h"
#include "proto/scheduler.pb.h"
#include "scheduler/block_index.h"
#include "scheduler/level_index.h"

namespace scheduler {

/// Follows what one life of a worker says of its prefix index: events numbered without gaps, of which a snapshot
/// replaces all before it. Late and doubled ones have no effect. After a gap nothing is taken in until a snapshot
/// comes; what is believed until then stays: mostly still true, and wrong only at the price of a missed prefix.
class BlockNews {
public:
    /// Takes events into the worker's `slot` of the index, and of `levels` where somebody wants to know.
    void take(const sluice::proto::BlockEvents& events, BlockIndex& index, std::uint32_t slot,
              LevelIndex* levels = nullptr);

    /// Whether to ask the worker for a snapshot now: after a gap, or when it holds blocks and has never said which (it
    /// was there before this scheduler). Asked once, and again when nothing came for `patience`.
    bool ask_for_snapshot(bool holds_blocks, base::TimePoint now, base::Duration patience);

private:
    // All events up to `applied_` are in the index, when `in_step_`.
    bool in_step_ = false;
    bool any_ = false;
    bool gap_ = false;
    std::uint64_t applied_ = 0;
    std::uint64_t seen_ = 0;  // highest number
    std::optional<base::TimePoint> asked_at_;
};

}  // namespace scheduler
