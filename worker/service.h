#pragma once

#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "base/clock.h"
#include "proto/cluster_key.h"
#include "proto/version.h"
#include "worker/messages.h"
#include "worker/options.h"
#include "worker/step_loop.h"

namespace worker {

/// The gRPC side of a worker (proto Worker.Serve): one stream per gateway. Turns commands into step-loop commands and
/// outputs into one event per step. Holds no request state: the step loop owns all of it.
///
/// Threads: deliver() on the step thread; reactors on gRPC's threads; one timer thread for heartbeats.
class WorkerServer final : public OutputSink {
public:
    /// Listens at `address` (host:port, port 0: any), to those who have `key`. The loop is attached later, since it
    /// needs this as its sink. A stream that says no Hello for kHelloPatience is ended; where there are `gateways_max`
    /// streams, the oldest of those makes room for another. `beside`: another service on the same port, which must
    /// outlive this; null: none. Error: unavailable when the address cannot be bound.
    static base::Result<std::unique_ptr<WorkerServer>> listen(const std::string& address, const WorkerOptions& options,
                                                              const base::Clock& clock,
                                                              const proto::ClusterKey& key = proto::ClusterKey(),
                                                              grpc::Service* beside = nullptr);
    static constexpr std::chrono::seconds kHelloPatience{5};
    ~WorkerServer() override;

    /// The port that is bound.
    std::uint16_t port() const;

    /// From here on streams are served (before, they get unavailable).
    void serve(const WorkerIdentity& identity, StepLoop& loop, const ReportBoard& board);

    void deliver(GatewayId gateway, std::vector<SequenceOutput> outputs) override;

    /// From here on the health service says NOT_SERVING. Gateways hear of a drain from the scheduler, and by the
    /// refusal of a start that was under way. Any thread; again is no harm.
    void announce_drain();
    /// Ends all streams and the server. The loop must still run or have ended; it is not touched afterwards.
    void stop();

private:
    WorkerServer();
    struct Impl;
    std::unique_ptr<Impl> impl_;
};

}  // namespace worker
