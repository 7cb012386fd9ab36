#pragma once

#include <cstddef>
#include <cstdint>

#include "base/clock.h"

namespace gateway {

/// How many requests of batches may be at the workers: all while nobody else asks, and beside others only as many as
/// their latency targets have been seen to bear. One more a second while others keep their targets, half as soon as one
/// misses or is refused, none for a while after the last one was taken away (as TCP finds its rate: additive increase,
/// multiplicative decrease). Beside requests without targets, of which nothing can be seen, one. Pure; not thread-safe.
class BatchPace {
public:
    explicit BatchPace(std::size_t at_once_max) : at_once_max_(at_once_max) {}

    /// Another request ended: it kept its targets, or missed one (or was refused for want of room).
    void ended(bool kept, base::TimePoint now);
    /// One of a batch was refused for want of room: none before `until`.
    void refused(base::TimePoint until) { not_before_ = until; }
    /// Of batches, with `others` requests of others in work and `running` of batches.
    std::size_t allowed(std::size_t others, std::size_t running, base::TimePoint now);

private:
    static constexpr base::Duration kGrowInterval = std::chrono::seconds(1);
    static constexpr base::Duration kPause = std::chrono::seconds(2);  // after a miss, until one more may come

    std::size_t at_once_max_;
    std::size_t beside_ = 1;  // others
    std::uint64_t kept_ = 0;  // since it grew
    base::TimePoint grown_at_{};
    base::TimePoint not_before_{};
};

}  // namespace gateway
