#pragma once

#include <atomic>
#include <functional>
#include <stop_token>
#include <string>
#include <thread>

#include "base/clock.h"
#include "proto/scheduler.pb.h"
#include "worker/board.h"
#include "worker/messages.h"
#include "worker/options.h"

namespace worker {

/// Keeps the worker known to the scheduler: registers, sends heartbeats from the board, comes back after a break. A
/// thread of its own; the step loop never waits for the scheduler.
class Registration {
public:
    /// `registration` is sent at each (re)connect. `on_drain` is called (on a thread of this class) when the
    /// scheduler asks for a drain. References must outlive this.
    Registration(std::string scheduler_address, sluice::proto::RegisterWorker registration,
                 const WorkerOptions& options, ReportBoard& board, const base::Clock& clock,
                 std::function<void()> on_drain);
    ~Registration();

    /// The scheduler knows this worker now (or did a moment ago).
    bool is_registered() const { return is_registered_; }
    void stop();

private:
    void run(std::stop_token stop);
    void attach_once(std::stop_token stop);

    const std::string scheduler_address_;
    const sluice::proto::RegisterWorker registration_;
    const WorkerOptions options_;
    ReportBoard& board_;
    const base::Clock& clock_;
    const std::function<void()> on_drain_;
    std::atomic<bool> is_registered_{false};
    std::jthread thread_;
};

}  // namespace worker
