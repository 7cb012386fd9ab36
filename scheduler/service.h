#pragma once

#include <memory>
#include <string>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "proto/cluster_key.h"
#include "proto/version.h"
#include "scheduler/class_rules.h"
#include "scheduler/leader_lease.h"
#include "scheduler/options.h"

namespace scheduler {

/// The scheduler behind gRPC: Place, Release, Describe, Attach, and the standard health service.
///
/// One thread owns all state (scheduler::Scheduler); another one looks at the lease, where there is one. gRPC's threads
/// only push commands to it: a unary call is answered, and a stream is read, written and ended, from that thread.
/// Thread-safe.
class SchedulerServer {
public:
    /// Listens on `listen_address` ("127.0.0.1:0" takes a free port), without TLS, to those who have `key`. A stream on
    /// which no worker registers within a lease is ended; where too many of those are open, the oldest is. `clock` and
    /// `metrics` must outlive it. Error: unavailable when the address cannot be bound.
    ///
    /// With a `lease` it stands by until that makes it the leader: calls and streams end with `unavailable`, and its
    /// service is not healthy. Then it takes workers in, and places requests when those of the leader before it have
    /// reported, or after `gather_max`. When its lease is over, by its own clock, it stands by again.
    static base::Result<std::unique_ptr<SchedulerServer>> start(SchedulerOptions options,
                                                                const std::string& listen_address,
                                                                const base::Clock& clock, base::Metrics& metrics,
                                                                const proto::ClusterKey& key = proto::ClusterKey(),
                                                                std::unique_ptr<LeaderLease> lease = nullptr);
    /// Stops at once what drain_and_stop() has not ended.
    ~SchedulerServer();
    SchedulerServer(const SchedulerServer&) = delete;
    SchedulerServer& operator=(const SchedulerServer&) = delete;

    /// host:port that was bound.
    std::string address() const;
    /// Whether it places requests, or will as soon as workers have reported. Any thread.
    bool leads() const;
    /// `SchedulerOptions::classes` of requests that come from now on, in this term and in later ones. Before
    /// drain_and_stop().
    void set_class_rules(ClassRules rules);
    /// Turns unhealthy, answers the calls that are there, ends all worker streams with `unavailable` (workers attach to
    /// the next scheduler) and returns when everything has ended. May be called twice.
    void drain_and_stop();

private:
    class Impl;
    explicit SchedulerServer(std::unique_ptr<Impl> impl);
    std::unique_ptr<Impl> impl_;
};

}  // namespace scheduler
