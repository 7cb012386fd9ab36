#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "gateway/request/ports.h"
#include "proto/cluster_key.h"

namespace gateway {

/// WorkerPort over gRPC: one Serve stream for each life of a worker, opened when first needed or when the scheduler
/// lists it, gone when it ends, is silent too long, or answers for another life. Used on the gateway's thread; gRPC's
/// threads fill a bounded inbox for each stream (worker_stream.h) and post.
class WorkerClient final : public WorkerPort {
public:
    struct Options {
        std::vector<std::string> models;              // served names: workers of others are not expected
        proto::ClusterKey key = proto::ClusterKey();  // shown to the workers
        std::string name;                             // of this gateway, for workers' logs
        /// No event for so long, or for four heartbeats if that is longer, but never for longer than the lease that the
        /// scheduler gives its workers.
        base::Duration lost_after;
        base::Duration hello_timeout;           // from opening to HelloReply
        std::size_t commands_max = 1 << 16;     // waiting for one stream; more means that the worker does not read
        std::size_t inbox_bytes_max = 1 << 20;  // of one stream's events that wait for the gateway's thread
    };
    WorkerClient(Options options, Post post, Wake wake, const base::Clock& clock);
    ~WorkerClient() override;

    void attach(ClusterEvents& events);
    void send(const std::string& model, const proto::WorkerEndpoint& to, proto::WorkerCommand command) override;
    void drop_prefixes(base::Duration timeout, std::function<void(const Dropped&)> done) override;
    /// Opens streams to workers that are listed and have none yet.
    void expect(const proto::DescribeReply& cluster);
    /// Gives up who is silent too long. When the next may be; empty when nobody is listened to.
    std::optional<base::TimePoint> tick(base::TimePoint now);
    void stop();

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace gateway
