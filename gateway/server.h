#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "gateway/core.h"
#include "gateway/options.h"
#include "gateway/request/models.h"
#include "proto/cluster_key.h"

namespace gateway {

/// The gateway role: HTTP in front, gRPC to the scheduler and the workers behind. Starts its threads and serves until
/// drain_and_stop(). All public functions: any thread but the gateway's own.
class GatewayServer {
public:
    struct Setup {
        GatewayOptions options;
        std::vector<ServedModel> models;               // text e.g. from make_text_port(model_text)
        std::vector<std::string> scheduler_addresses;  // host:port of each scheduler, of which one leads; at least one
        base::HashKey hash_key;                        // of the cluster
        proto::ClusterKey control = proto::ClusterKey();  // shown to the scheduler and the workers
        const base::Clock& clock;                         // borrowed, as metrics
        base::Metrics& metrics;
        Tracing tracing = {};  // its sink outlives the gateway
    };
    /// Listens when it returns; ready (/health) once the scheduler says so.
    /// Error: invalid_argument (also names that are given twice), permission_denied (not loopback without
    /// listen_public), unavailable (address in use).
    static base::Result<std::unique_ptr<GatewayServer>> start(Setup setup);

    /// The HTTP port, also where 0 was asked for.
    std::uint16_t port() const { return core_->port(); }
    /// As GatewayCore::when_ready.
    void when_ready(std::function<void()> tell) { core_->when_ready(std::move(tell)); }
    /// As GatewayCore::is_ready.
    bool is_ready() const { return core_->is_ready(); }
    /// As GatewayCore::refresh_metrics.
    void refresh_metrics() { core_->refresh_metrics(); }
    /// As GatewayCore::change.
    base::Result<void> change(const GatewayChange& change) { return core_->change(change); }
    /// /ready and new requests get 503, what is in work is finished within the drain timeout, then it stops.
    void drain_and_stop() { core_->drain_and_stop(); }
    /// The same without waiting: what is in work ends with an error now. For when nobody can do it.
    void give_up_and_stop() { core_->give_up_and_stop(); }

private:
    explicit GatewayServer(std::unique_ptr<GatewayCore> core) : core_(std::move(core)) {}
    std::unique_ptr<GatewayCore> core_;
};

}  // namespace gateway
