#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "gateway/request/ports.h"
#include "proto/cluster_key.h"

namespace gateway {

/// SchedulerPort over gRPC, to the one of the schedulers that leads (leader_view.h). All of them are asked for a
/// description; what is asked of one that leads no more is given up. Calls are made and answered on the gateway's
/// thread; gRPC's threads only post.
class SchedulerClient final : public SchedulerPort {
public:
    struct Options {
        std::vector<std::string> addresses;           // host:port of each scheduler; at least one
        proto::ClusterKey key = proto::ClusterKey();  // shown to the scheduler
        std::uint64_t life = 0;                       // of this gateway: whose placements are
        std::vector<std::string> models;              // served names
        base::Duration describe_interval;             // five times as often while not ready
        std::size_t releases_max = 65536;             // endings that wait to be told; older ones are forgotten
        std::size_t release_batch_max = 4096;         // of one call
    };
    SchedulerClient(Options options, Post post, Wake wake);
    ~SchedulerClient() override;

    /// `on_cluster` of `events` gets every description. Before anything else.
    void attach(ClusterEvents& events);
    void place(const proto::PlaceRequest& request, base::Duration timeout) override;
    void release(const proto::ReleaseRequest::Ended& ended) override;
    /// Asks for descriptions if that is due. When the next are; empty while one is awaited of the only scheduler.
    std::optional<base::TimePoint> tick(base::TimePoint now);
    /// Cancels what is outstanding and waits for gRPC to let go of it.
    void stop();

private:
    struct State;
    std::shared_ptr<State> state_;
};

}  // namespace gateway
