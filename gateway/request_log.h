#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <thread>

#include "base/bounded_queue.h"
#include "base/clock.h"
#include "gateway/http/exchange.h"
#include "gateway/keys/quota.h"
#include "gateway/metrics.h"
#include "gateway/openai/errors.h"
#include "gateway/options.h"
#include "gateway/request/session_hints.h"
#include "gateway/trace/request_trace.h"

namespace gateway {

struct CacheAsk;
struct RoutedAsk;

/// What names a request from its arrival to its end.
struct RequestTag {
    std::string method;
    std::string path;                                // as sent, without its query
    std::string id;                                  // for x-request-id
    base::TimePoint received_at;                     // last byte
    std::shared_ptr<const ApiKey> key = {};          // whose request it is, where there are keys
    std::shared_ptr<QuotaBook::Hold> quota = {};     // of the key, where a model answers; settled at the end
    ErrorStyle style = ErrorStyle::openai;           // of its route
    bool is_batch = false;                           // of a batch: nobody waits for it
    std::string session = {};                        // the client's name of its conversation, where one is captured
    SessionHints hints = {};                         // its header's
    std::shared_ptr<CacheAsk> cache = {};            // its way through the cache, where there is one
    std::shared_ptr<RoutedAsk> routed = {};          // which of two models answers, where two answer to the name
    std::shared_ptr<const RequestTrace> trace = {};  // null: it is not traced
};

/// What every answer to the request has in its head: its id, how long it has been in work (of a stream: until then),
/// what became of it at the cache, and what its key may still use.
HttpFields answer_fields(const RequestTag& tag, base::TimePoint now);

/// How long a request of tokens took for what; empty: it did not come so far.
struct StageTimes {
    std::optional<base::Duration> prepare = {};      // from its last byte until its prompts were tokens
    std::optional<base::Duration> place = {};        // from there until its sequences had workers
    std::optional<base::Duration> first_token = {};  // from its last byte
    std::optional<base::Duration> tpot = {};         // mean gap of the later ones; of several sequences the largest
};

/// How a request ended.
struct RequestEnd {
    std::string_view endpoint;  // the route's name in metrics
    std::string_view model;     // a served name, kNoModel or kOtherModel
    unsigned status = 200;      // 499: the client was gone
    bool stream = false;
    std::uint64_t prompt_tokens = 0;
    std::uint64_t cached_tokens = 0;
    std::uint64_t completion_tokens = 0;
    StageTimes stages = {};
    std::string_view answer_id = {};
    std::string_view finish_reason = {};    // of its first sequence
    std::string_view kv = {};               // GenerationEnd::kv
    std::optional<bool> kept_targets = {};  // of latency; nothing where it had none
};

/// One line of the access log.
struct AccessLine {
    RequestTag tag;
    std::string endpoint;
    std::string model;
    std::string kv = {};      // how KV came from another worker; empty: it did not
    std::string cache = {};   // HIT, MISS and so on; empty: it did not pass one
    std::string routed = {};  // small, small+3 and so on; empty: one model answers to the name
    RequestEnd end;           // its views name nothing here
    base::Duration took{};

    /// One JSON object: method, path, status, stream, model, tokens, milliseconds, request id. No text of a prompt.
    std::string json() const;
};

/// Where each request is told about when it is over, however it ended: a metrics row, and a line of the access log.
/// Lines are written by a thread of their own from a bounded queue, so that whoever reads them slowly holds up no
/// request: what does not fit is counted and left out. ended(): any thread.
class RequestLog {
public:
    /// Takes a finished line; "info" of the process's log in production.
    using Sink = std::function<void(const std::string& line)>;
    struct Setup {
        AccessLogKind kind = AccessLogKind::all;
        GatewayMetrics& metrics;
        const base::Clock& clock;
        Sink sink;
        std::size_t lines_max = 8192;     // waiting
        base::SpanSink* spans = nullptr;  // of requests that are traced; borrowed
        /// Hears of each, on the thread that tells it; may be empty.
        std::function<void(const RequestTag&, const RequestEnd&)> observer = {};
    };
    explicit RequestLog(Setup setup);
    /// Writes what waits.
    ~RequestLog();

    void ended(const RequestTag& tag, const RequestEnd& end);
    /// Where spans go; null: nowhere.
    base::SpanSink* spans() const { return setup_.spans; }
    /// The sink of production.
    static void write_to_log(const std::string& line);

private:
    void write();

    Setup setup_;
    base::BoundedQueue<AccessLine> lines_;
    std::jthread writer_;
};

}  // namespace gateway
