#pragma once

#include <chrono>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/metrics.h"
#include "base/result.h"
#include "base/trace.h"

namespace cli {

/// Section `tracing` of the configuration.
struct TracingOptions {
    std::string otlp_endpoint;         // http(s)://host:port of an OTLP/HTTP receiver; empty: nothing is traced
    std::vector<std::string> headers;  // NAME=VALUE, sent with each batch
    double sampled_share = 1;          // of requests whose client does not say
    std::size_t spans_max = 8192;      // that wait; more are left out

    bool is_on() const { return !otlp_endpoint.empty(); }
    /// Bad values are reported by Config::finish().
    static TracingOptions read(base::Config& config);
};

/// The address that spans are sent to: the endpoint with /v1/traces behind it, unless it ends so. Error:
/// invalid_argument.
base::Result<std::string> traces_url(const std::string& endpoint);

/// Spans as OTLP's JSON has them (ExportTraceServiceRequest). `service`: the resource's service.name. Pure.
std::string otlp_json(const std::vector<base::Span>& spans, const std::string& service, const std::string& instance,
                      const std::string& version);

/// Sends spans to an OTLP/HTTP receiver, as JSON, in batches, from a thread of its own. Whoever adds one never waits:
/// what finds no room is left out and counted. A batch that the receiver does not take is tried again a few times.
class OtlpExporter final : public base::SpanSink {
public:
    /// Posts one body; unavailable: it may be tried again.
    using PostBody = std::function<base::Result<void>(const std::string& body, std::chrono::milliseconds timeout)>;
    struct Setup {
        std::string service;   // sluice-gateway, ...
        std::string instance;  // of this process
        std::string version;
        std::size_t spans_max = 8192;
        std::size_t batch_max = 512;
        base::Duration gather = std::chrono::seconds(1);       // so long a batch waits for more
        base::Duration patience = std::chrono::seconds(2);     // at the end, for what still waits
        std::chrono::milliseconds post_timeout{5000};          // of one try
        std::vector<std::chrono::milliseconds> retry_after{};  // pauses between tries; by default 1 s, 2 s
        PostBody post;
        base::Metrics& metrics;
    };
    explicit OtlpExporter(Setup setup);
    /// Sends what waits, for no longer than `patience` and one try.
    ~OtlpExporter() override;

    void add(base::Span span) override;

private:
    void run();
    void send(const std::vector<base::Span>& batch);
    bool is_over() const;

    Setup setup_;
    prometheus::Counter& exported_;
    prometheus::Counter& dropped_;
    prometheus::Counter& failed_;
    base::BoundedQueue<base::Span> queue_;
    mutable std::mutex mutex_;
    std::condition_variable closing_;
    bool is_closing_ = false;       // guarded by mutex_
    base::TimePoint give_up_at_{};  // guarded by mutex_; once it is closing
    bool is_failing_ = false;       // the thread's
    std::jthread thread_;
};

/// The exporter that the configuration asks for; null: nothing is traced. `service`: see OtlpExporter. Error:
/// invalid_argument.
base::Result<std::unique_ptr<OtlpExporter>> start_exporter(const TracingOptions& options, const std::string& service,
                                                           base::Metrics& metrics);

}  // namespace cli
