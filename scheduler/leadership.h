#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>

#include "base/clock.h"
#include "base/metrics.h"
#include "scheduler/election.h"
#include "scheduler/leader_lease.h"

namespace scheduler {

/// How often a scheduler began to lead, and what went wrong with its lease. One that is alone has them, too.
struct LeaderMetrics {
    explicit LeaderMetrics(base::Metrics& metrics);
    prometheus::Gauge& leads;
    prometheus::Gauge& epoch;
    prometheus::Counter& terms;
    prometheus::Counter& lease_errors;
};

/// Keeps looking at the lease, on a thread of its own: so that a disk or a network that is slow delays nobody who waits
/// for a placement. Thread-safe.
class Leadership {
public:
    /// `changed` is called on that thread when the standing has changed, and must not wait. `clock` and `metrics` are
    /// borrowed.
    Leadership(Election::Options options, std::unique_ptr<LeaderLease> lease, const base::Clock& clock,
               LeaderMetrics& metrics, std::function<void()> changed);
    ~Leadership();

    /// As it was at the last look: whether it still holds, its `until` says.
    Standing standing() const;
    /// What goes into the record at the next renewal, which comes soon where the number of workers is another one: who
    /// leads next awaits as many.
    void tell(const Election::Told& told);
    /// Gives the lease back and looks no more. May be called twice.
    void stop();

private:
    void run(std::stop_token stop);

    const Election::Options options_;
    const std::unique_ptr<LeaderLease> lease_;
    const base::Clock& clock_;
    LeaderMetrics& metrics_;
    const std::function<void()> changed_;
    mutable std::mutex mutex_;          // guards the next three
    std::condition_variable_any news_;  // other workers were told
    Standing standing_;
    Election::Told told_;
    std::jthread thread_;
};

}  // namespace scheduler
