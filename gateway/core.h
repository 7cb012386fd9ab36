#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "gateway/options.h"
#include "gateway/request/models.h"
#include "gateway/request/ports.h"
#include "gateway/trace/request_trace.h"

namespace gateway {

/// What of GatewayOptions may change while a gateway runs.
struct GatewayChange {
    SloClasses slo = {};
    std::vector<std::string> cors_origins = {};
};

/// Whether the files that `options` name can be used: API keys, certificate, key. GatewayCore::start looks, too; this
/// is for who does much before. Error: invalid_argument.
base::Result<void> check_files(const GatewayOptions& options);

/// A running gateway over any cluster ports: one I/O thread that owns connections, requests and ports, and text threads
/// that parse and tokenize. GatewayServer is this with gRPC ports; tests give it others.
class GatewayCore {
public:
    struct Setup {
        GatewayOptions options;
        std::vector<ServedModel> models;  // `options.aliases` are added to theirs
        base::HashKey hash_key;
        const base::Clock& clock;  // borrowed, like metrics
        base::Metrics& metrics;
        Tracing tracing = {};  // its sink outlives the gateway
        /// Makes the ports; called on the caller's thread, used on the I/O thread only.
        std::function<std::unique_ptr<ClusterPorts>(const Models& models, Post post, Wake wake)> make_ports;
    };
    /// Listens and serves when it returns. Errors as Models::make and HttpServer::start.
    static base::Result<std::unique_ptr<GatewayCore>> start(Setup setup);
    /// Stops at once if drain_and_stop() was not called.
    ~GatewayCore();
    GatewayCore(const GatewayCore&) = delete;
    GatewayCore& operator=(const GatewayCore&) = delete;

    std::uint16_t port() const;
    /// `tell` is called once, on the I/O thread, as soon as requests for every model can be placed (/health). Never
    /// when the gateway stops before. One at a time. Any thread but the gateway's own, before it is stopped.
    void when_ready(std::function<void()> tell);
    /// Whether they can be placed now: true for whoever was told so by /health before, unless that has changed since.
    /// Waits for the I/O thread. Any thread but the gateway's own, before it is stopped.
    bool is_ready() const;
    /// Metrics of what is open now are written anew, soon. Any thread, before it is stopped.
    void refresh_metrics();
    /// Requests that come from now on are promised what these classes say, and pages of these origins may ask. All of
    /// it is taken, or with an error nothing. Any thread, before it is stopped. Errors: invalid_argument (as
    /// Cors::make), failed_precondition (other names of classes than at the start, by which metrics are told).
    base::Result<void> change(const GatewayChange& change);
    /// /ready and new requests get 503 from now on. Lets requests in work finish for at most the drain timeout, ends
    /// the rest with an error, joins the threads. Any thread but the gateway's own; the first call counts.
    void drain_and_stop();
    /// The same without waiting for requests in work: they end with an error now.
    void give_up_and_stop();

private:
    struct State;
    explicit GatewayCore(std::unique_ptr<State> state);
    void stop(base::Duration drain_timeout);
    std::unique_ptr<State> state_;
};

}  // namespace gateway
