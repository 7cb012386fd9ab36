#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/config.h"
#include "gateway/batch/batch_options.h"
#include "gateway/cache/cache_options.h"
#include "gateway/explain/timeline_book.h"
#include "gateway/http/server.h"
#include "gateway/openai/request_form.h"
#include "gateway/openai/response_form.h"
#include "gateway/request/generation.h"
#include "gateway/slo.h"
#include "gateway/trace_capture.h"

namespace gateway {

/// Which requests have a line in the access log: all; those of the API (not /health, /ready, /live and /metrics); none.
enum class AccessLogKind { all, api, off };

/// Whether the fleet page is on the admin port of `serve`. automatic: where there is a file of API keys.
enum class FleetPage : std::uint8_t { automatic, on, off };

/// Every setting of a gateway; section `gateway` of the configuration.
struct GatewayOptions {
    std::string model = "model";       // served name of the only model
    std::vector<std::string> aliases;  // further names for clients: ALIAS=MODEL, or an alias alone of the first model
    std::string tenant_header;         // field, in lower case, by which a trusted proxy names the tenant; empty: none
    std::size_t tenants_named_max = 200;    // that have metrics by their name; those who come later share one
    std::vector<std::string> cors_origins;  // web pages whose scripts may ask: exact origins, or "*"; none: no page
    AccessLogKind access_log = AccessLogKind::all;
    bool has_page = false;                  // for people, at /
    bool allow_reset_prefix_cache = false;  // POST /reset_prefix_cache makes all workers forget their prefixes
    bool usage_in_streams = false;          // every stream ends with its usage, also where the client did not ask
    ReasoningFields reasoning_fields = ReasoningFields::both;
    FleetPage fleet_page = FleetPage::automatic;
    HttpServerOptions http;
    FormLimits form;
    RequestOptions request;
    SloClasses slo;
    base::Duration attainment_window = std::chrono::minutes(5);  // of sluice_gateway_slo_attainment_ratio
    std::string keys_file;                                       // of API keys; empty: everybody may ask
    std::string tls_certificate_file;  // PEM, with its chain; empty: connections are in the clear
    std::string tls_key_file;          // PEM
    base::Duration files_look_interval = std::chrono::seconds(1);  // at these, for what has changed
    ExplainOptions explain;
    CaptureOptions capture;
    CacheOptions cache;
    BatchOptions batch;

    std::size_t inflight_requests_max = 1024;  // client requests between arrival and answer; more get 429
    std::size_t embedding_texts_at_once = 64;  // of one request for vectors, at the workers at a time
    std::size_t text_threads = 1;              // parse, render and tokenize
    std::size_t prefix_tokens_max = 8 << 20;   // of a model's chats, kept so that the next turn need not encode them
    bool tenants_share_prefixes = false;       // else what one has cached no other finds, or can measure
    base::Duration request_timeout = std::chrono::minutes(10);
    base::Duration ping_interval = std::chrono::seconds(15);  // silence of a stream until a keep-alive; 0: none
    base::Duration drain_timeout = std::chrono::seconds(30);

    // The way to the cluster.
    std::string name = "gateway";                                   // in workers' logs
    base::Duration worker_lost_after = std::chrono::seconds(2);     // without any event of it
    base::Duration worker_hello_timeout = std::chrono::seconds(5);  // from opening a stream to its HelloReply
    std::size_t worker_inbox_bytes_max =
        1 << 20;  // of a worker's events, waiting for the I/O thread; then it is held back
    base::Duration describe_interval = std::chrono::seconds(1);  // five times as often while not ready

    bool has_fleet_page() const {
        return fleet_page == FleetPage::on || (fleet_page == FleetPage::automatic && !keys_file.empty());
    }
    /// Reads `gateway.*`; bad values are reported by Config::finish().
    static GatewayOptions read(base::Config& config);
};

}  // namespace gateway
