#pragma once

#include <chrono>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "base/metrics.h"

namespace gateway {

/// The rows `sluice_gateway_*`. Labels hold only configured names and values of fixed lists, so that no client can make
/// series. Thread-safe, like base::Metrics.
class GatewayMetrics {
public:
    /// `model` is the served name; all requests of this gateway carry it, unknown models carry "other".
    GatewayMetrics(base::Metrics& metrics, std::string model);

    /// A request was answered (or its client was gone: code 499). `endpoint` is the route's name.
    void request_ended(bool known_model, std::string_view endpoint, unsigned code, bool stream);
    /// outcome: admitted, rejected_capacity, rejected_draining, rejected_invalid, rejected_too_large,
    /// rejected_unavailable.
    void admission(std::string_view outcome);
    /// phase: queued, prefill, transfer, decode. cause: client_gone, slow_client, stop_string, deadline,
    /// sibling_failed, drain.
    void cancelled(std::string_view phase, std::string_view cause);
    /// A request is placed again; reason: the name of the error code.
    void retried(std::string_view reason);
    void retries_exhausted(std::string_view reason);
    /// path: local, disagg, prefix_hit.
    void first_token(std::string_view path, base::Duration ttft);
    void time_per_output_token(base::Duration tpot) { tpot_.Observe(seconds(tpot)); }
    void inter_token(base::Duration gap) { inter_token_.Observe(seconds(gap)); }
    void request_duration(base::Duration took) { duration_.Observe(seconds(took)); }
    void tokens(std::uint64_t prompt, std::uint64_t cached, std::uint64_t completion);
    void in_flight(double change) { in_flight_.Increment(change); }
    void connections(double open, double send_buffer_bytes, double slow_clients);

    base::Metrics& registry() { return metrics_; }

private:
    static double seconds(base::Duration duration) { return std::chrono::duration<double>(duration).count(); }

    base::Metrics& metrics_;
    std::string model_;
    prometheus::Gauge& in_flight_;
    prometheus::Histogram& tpot_;
    prometheus::Histogram& inter_token_;
    prometheus::Histogram& duration_;
    prometheus::Counter& prompt_tokens_;
    prometheus::Counter& cached_tokens_;
    prometheus::Counter& completion_tokens_;
    prometheus::Gauge& connections_;
    prometheus::Gauge& send_buffer_bytes_;
    prometheus::Gauge& slow_clients_;
};

}  // namespace gateway
