#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <string>

#include "base/result.h"

namespace scheduler {

/// Somebody's time as the leader of the schedulers of a cluster.
struct LeaderTerm {
    std::uint64_t serial = 0;   // of the terms of one lease, without gaps; 0: nobody has led yet
    std::uint64_t epoch = 0;    // that the leader's commands carry; rises from term to term
    std::string holder;         // address of the scheduler
    std::uint64_t beat = 0;     // raised with every renewal
    std::uint32_t workers = 0;  // that the leader had at its last renewal
    bool over = false;          // known to have ended (the holder has resigned, or is no more), not merely silent

    bool operator==(const LeaderTerm&) const = default;
};

/// What schedulers agree by on who of them leads: a record that all can read, and that one of them at a time may
/// replace. When a term ends by silence is the reader's judgement (election.h), so no two clocks need to agree. Used by
/// one thread.
class LeaderLease {
public:
    virtual ~LeaderLease() = default;

    /// The latest term as it stands. Error: unavailable (the record cannot be reached), invalid_argument (it is none).
    virtual base::Result<LeaderTerm> look() = 0;
    /// Begins `ours` (serial one above that of `seen`), which is then renewed. False: the record is not as `seen` any
    /// more: its holder has renewed it, or somebody else was quicker. Error: unavailable; then it has not begun.
    virtual base::Result<bool> begin(const LeaderTerm& seen, const LeaderTerm& ours) = 0;
    /// Our term, begun here, goes on as `ours` says. False: another one has begun, and ours is over. Error:
    /// unavailable.
    virtual base::Result<bool> renew(const LeaderTerm& ours) = 0;
    /// Our term is over. No effect where none was begun here.
    virtual void resign() = 0;
    /// How long to wait between two renewals, of a lease that lasts so long: a leader that misses one or two still
    /// leads. Who stands by looks twice as often.
    virtual std::chrono::milliseconds pause(std::chrono::milliseconds lease) const {
        return std::clamp<std::chrono::milliseconds>(lease / 8, std::chrono::milliseconds(5),
                                                     std::chrono::milliseconds(250));
    }
};

}  // namespace scheduler
