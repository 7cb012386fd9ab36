#pragma once

#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "proto/cluster_key.h"
#include "proto/scheduler.pb.h"
#include "proto/version.h"
#include "worker/board.h"
#include "worker/options.h"

namespace worker {

/// How often a worker reports to the scheduler that took it in: as that one says, but at least three times a lease,
/// which else would end between two reports. Pure.
std::chrono::milliseconds report_interval(const sluice::proto::Registered& registered);
/// The same of reports that say nothing new: not more often than the others. Pure.
std::chrono::milliseconds idle_report_interval(const sluice::proto::Registered& registered);

/// Keeps the worker known to the scheduler: registers, sends heartbeats from the board, comes back after a break. A
/// thread of its own, and one more that reads while a stream is open; the step loop never waits for the scheduler.
class Registration {
public:
    /// `scheduler_addresses`: of the schedulers of the cluster (at least one), of which one leads: they are tried in
    /// turns until one takes this worker in. `registration` is sent at each (re)connect, with what has become known
    /// since. `on_drain` is called (on a thread of this class, maybe more than once) when the scheduler asks for a
    /// drain. References must outlive this. `key`: shown to the scheduler.
    Registration(std::vector<std::string> scheduler_addresses, sluice::proto::RegisterWorker registration,
                 const WorkerOptions& options, ReportBoard& board, const base::Clock& clock, base::Metrics& metrics,
                 std::function<void()> on_drain, proto::ClusterKey key = proto::ClusterKey());
    ~Registration();

    /// The scheduler knows this worker now (or did a moment ago).
    bool is_registered() const { return is_registered_; }
    /// The highest epoch of a scheduler that took this worker in; 0: none has. One that leads by a lease is left when
    /// its epoch is lower: it leads no more, and does not know. One that is alone is served all the same: what runs
    /// here runs on, and who is in charge is for schedulers and gateways to find out.
    std::uint64_t scheduler_epoch() const { return scheduler_epoch_; }
    /// Any thread: something on the board should not wait for the next heartbeat.
    void report_soon();
    /// Any thread: the scheduler is told at once that this worker is of that role from now on, by a registration on the
    /// stream that is there; what is on the board then follows it.
    void register_as(Role role);
    void stop();

private:
    void run(std::stop_token stop);
    void attach_once(std::stop_token stop, const std::string& address, std::chrono::milliseconds patience);
    bool follow(const std::string& address, const sluice::proto::WorkerDirective& directive);
    bool is_superseded(const sluice::proto::WorkerDirective& directive) const;
    sluice::proto::WorkerReport registration();

    const std::vector<std::string> scheduler_addresses_;
    const proto::ClusterKey key_;
    const sluice::proto::RegisterWorker registration_;  // but for the role, which may change
    const WorkerOptions options_;
    ReportBoard& board_;
    const base::Clock& clock_;
    prometheus::Counter& fenced_commands_;
    const std::function<void()> on_drain_;
    std::atomic<bool> is_registered_{false};
    std::atomic<std::uint64_t> scheduler_epoch_{0};

    std::mutex mutex_;  // guards all up to the thread
    std::condition_variable_any changed_;
    bool is_open_ = false;                                  // the stream that is there now
    std::optional<std::chrono::milliseconds> interval_;     // of its reports; empty until the scheduler has answered
    std::chrono::milliseconds idle_interval_{};             // of those that say nothing new
    std::optional<std::chrono::milliseconds> silence_max_;  // of a scheduler that leads by a lease
    base::TimePoint heard_at_{};                            // when that one spoke last
    bool report_soon_ = false;
    sluice::proto::WorkerRole role_;
    bool is_role_told_ = true;  // to the scheduler that the stream goes to

    std::jthread thread_;
};

}  // namespace worker
