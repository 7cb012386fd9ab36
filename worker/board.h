#pragma once

#include <atomic>
#include <cstdint>
#include <mutex>
#include <optional>
#include <vector>

#include "base/clock.h"
#include "kv_cache/prefix_index.h"
#include "proto/scheduler.pb.h"

namespace worker {

/// What the worker has to tell the scheduler, between the step thread that writes it and the registration thread that
/// sends it. Thread-safe. Bounded: samples beyond the bound are dropped, the oldest first; block events beyond it
/// become a gap that the next snapshot closes.
class ReportBoard {
public:
    explicit ReportBoard(std::size_t samples_max = 256, std::size_t block_events_max = 64);

    void set_load(const sluice::proto::WorkerLoad& load);
    void add_step(const sluice::proto::StepSample& sample);
    void add_transfer(const sluice::proto::TransferSample& sample);
    void add_block_events(const kv_cache::BlockEvents& events);

    /// Moves everything that waits into `heartbeat` (header and number are the caller's); the load is copied.
    void take(sluice::proto::Heartbeat& heartbeat);
    sluice::proto::WorkerLoad load() const;

    /// The scheduler (a new one, or one that saw a gap) needs all of the prefix index; the step thread answers with
    /// add_block_events(snapshot).
    void want_snapshot();
    /// True once per wish; called by the step thread.
    bool take_snapshot_wish();

    /// The step thread is alive. A long step counts as alive until the stall limit (WorkerOptions).
    void note_progress(base::TimePoint now);
    base::TimePoint last_progress() const;

    void set_draining() { draining_ = true; }
    bool draining() const { return draining_; }

private:
    const std::size_t samples_max_;
    const std::size_t block_events_max_;
    mutable std::mutex mutex_;  // guards all below up to the atomics
    sluice::proto::WorkerLoad load_;
    std::vector<sluice::proto::StepSample> steps_;
    std::vector<sluice::proto::TransferSample> transfers_;
    std::vector<sluice::proto::BlockEvents> events_;
    bool snapshot_wanted_ = true;  // a new worker begins with one
    std::atomic<base::TimePoint::rep> last_progress_{0};
    std::atomic<bool> draining_{false};
};

}  // namespace worker
