#pragma once

namespace scheduler::planner {

/// Processor time of what is beside the engines on cores that all share: workers' other threads, scheduler, gateways,
/// and clients on the same machine. It is done one after the other, by a thread that has its part of the cores as
/// others do.
struct HostWork {
    double step_seconds = 0;          // of each step, from its end on: its tokens go to their clients
    double handed_token_seconds = 0;  // of each token whose KV is handed over, at both ends, from when it can leave
    bool operator==(const HostWork&) const = default;

    bool is_none() const { return *this == HostWork{}; }
};

}  // namespace scheduler::planner
