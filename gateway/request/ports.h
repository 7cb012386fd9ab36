#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "proto/scheduler.pb.h"
#include "proto/version.h"
#include "proto/worker.pb.h"

namespace gateway {

/// The way to the scheduler. Calls return at once; answers come back as events (RequestTable). Called and answered on
/// the thread that owns the RequestTable.
class SchedulerPort {
public:
    virtual ~SchedulerPort() = default;
    /// Asks for a placement. RequestTable::on_place_answered is called later (never from inside this call) exactly once
    /// for the pair (request_id, epoch), at the latest `timeout` from now with deadline_exceeded.
    virtual void place(const proto::PlaceRequest& request, base::Duration timeout) = 0;
    /// Tells that phases have ended. Delivered in batches, best effort: a lost one only makes predictions worse.
    virtual void release(const proto::ReleaseRequest::Ended& ended) = 0;
};

/// The way to the workers. Same rules as SchedulerPort.
class WorkerPort {
public:
    virtual ~WorkerPort() = default;
    /// Sends Start, Continue or Cancel in order to the life of the worker that `to` names, which serves `model`. What
    /// becomes of it shows in RequestTable::on_output, or in on_worker_lost(to.incarnation) when the worker cannot be
    /// reached or is gone; never from inside this call.
    virtual void send(const std::string& model, const proto::WorkerEndpoint& to, proto::WorkerCommand command) = 0;

    struct Dropped {
        std::size_t workers = 0;   // that were asked
        std::size_t answered = 0;  // that have done it
        std::uint64_t blocks = 0;  // of all of them together
    };
    /// Lets every worker that this gateway knows forget its prefixes. `done` is called once, not from inside this call,
    /// when all have answered, are gone, or `timeout` has passed.
    virtual void drop_prefixes(base::Duration timeout, std::function<void(const Dropped&)> done) = 0;
};

/// Where the answers of both ports arrive; RequestTable implements it. One thread.
class ClusterEvents {
public:
    virtual ~ClusterEvents() = default;
    virtual void on_place_answered(base::RequestId id, base::Epoch epoch,
                                   const base::Result<proto::PlaceReply>& reply) = 0;
    virtual void on_output(base::Incarnation worker, const proto::SequenceOutput& output) = 0;
    virtual void on_worker_lost(base::Incarnation worker, const base::Error& error) = 0;
    virtual void on_cluster(const base::Result<proto::DescribeReply>& reply) = 0;
};

/// Runs a function later on the gateway's thread; callable from any thread.
using Post = std::function<void(std::function<void()>)>;

/// Asks for a turn of the timers (`tick`) at the latest then; a later time than one asked for before changes nothing.
/// On the gateway's thread; the turn comes never from inside this call.
using Wake = std::function<void(base::TimePoint at)>;

/// Both ports of a gateway with what keeps them going. Made for one thread, like the ports.
class ClusterPorts {
public:
    virtual ~ClusterPorts() = default;
    virtual SchedulerPort& scheduler() = 0;
    virtual WorkerPort& workers() = 0;
    /// Before anything else; `events` must stay until `stop`.
    virtual void attach(ClusterEvents& events) = 0;
    /// What is due: polls, silence of workers. When it wants to be called again at the latest; empty: when it asks for
    /// it. Called once at the start, and maybe too early.
    virtual std::optional<base::TimePoint> tick(base::TimePoint now) = 0;
    /// Ends all calls; no event comes afterwards.
    virtual void stop() = 0;
};

/// What the scheduler said last about the workers of one model.
struct ClusterView {
    bool known = false;  // a description has arrived
    bool ready = false;  // every phase can be placed
    std::uint64_t numerics_id = 0;
    std::uint32_t block_tokens = 0;    // of the last workers there were; 0: none yet
    std::uint32_t context_tokens = 0;  // likewise
};

}  // namespace gateway
