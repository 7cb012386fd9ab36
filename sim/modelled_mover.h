#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>

#include "base/clock.h"
#include "kv_transfer/tier/tier.h"

namespace sim {

/// What copies of KV between a pool and a level below it take: the time of the link, or that of their launches,
/// whichever is more.
struct CopyCosts {
    double block_bytes = 0;
    double load_bytes_per_second = 0;    // > 0
    double save_bytes_per_second = 0;    // > 0
    double launch_seconds = 0;           // of one copy: what starting it takes
    std::uint32_t copies_per_block = 0;  // 0: one for each run of neighbours
    /// A load ends when its job says that nobody waits for it any more, as one from a disk does; what has begun by then
    /// comes. False: it never looks, as host memory does.
    bool gives_up = false;
};

struct CopyCounts {
    std::uint64_t copies_out = 0;
    std::uint64_t copies_in = 0;
    std::uint64_t blocks_out = 0;
    std::uint64_t blocks_in = 0;  // of a load that was given up: those that came
    std::uint64_t saves = 0;      // jobs
    std::uint64_t loads = 0;
    std::uint64_t given_up = 0;  // loads
    double seconds = 0;          // of all copies

    bool operator==(const CopyCounts&) const = default;
    CopyCounts& operator+=(const CopyCounts& other);
    /// Counts the copies of a job and what they take, which is the result.
    double add(const kv_transfer::TierJob& job, const CopyCosts& costs);
};

/// A level whose bytes are nowhere: its jobs take time on a clock that somebody moves. As kv_transfer::TierCopier: one
/// job after the other, loads before what else waits.
class ModelledMover final : public kv_transfer::TierMover {
public:
    /// Called by deliver(), once for each job.
    using OnEvent = std::function<void(kv_transfer::TierEvent)>;

    /// `jobs_max` (> 0) loads, and as many other jobs, may wait. Borrows the clock.
    ModelledMover(const CopyCosts& costs, std::uint32_t jobs_max, const base::Clock& clock, OnEvent on_event);

    bool submit(kv_transfer::TierJob job) override;
    std::uint32_t blocks_loading() const override { return blocks_loading_; }

    /// Of the job that runs; empty: none does.
    std::optional<base::TimePoint> next_end() const { return ends_; }
    /// Tells of all that have ended by now.
    void deliver();
    const CopyCounts& counts() const { return counts_; }

private:
    struct Job {
        kv_transfer::TierEvent event;  // at its end, if nobody gives it up
        kv_transfer::TierJob::Kind kind = kv_transfer::TierJob::Kind::save;
        std::uint32_t blocks = 0;
        std::optional<base::TimePoint> until;
        base::TimePoint submitted{};
    };
    void start_next(base::TimePoint from);
    void give_up(Job& job, base::TimePoint begins) const;

    const CopyCosts costs_;
    const std::uint32_t jobs_max_;
    const base::Clock& clock_;
    const OnEvent on_event_;
    std::deque<Job> loads_;
    std::deque<Job> others_;
    Job current_;
    std::optional<base::TimePoint> ends_;  // of the current one
    std::uint32_t blocks_loading_ = 0;
    CopyCounts counts_;
};

}  // namespace sim
