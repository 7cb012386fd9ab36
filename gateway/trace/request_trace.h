#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/trace.h"
#include "gateway/explain/timeline.h"
#include "gateway/http/gate.h"

namespace gateway {

/// Where spans of requests go. Without `spans` nothing is traced, and that costs a comparison.
struct Tracing {
    base::SpanSink* spans = nullptr;  // borrowed
    double sampled_share = 1;         // of requests whose client does not say
};

/// A request's place in its trace.
struct RequestTrace {
    base::TraceContext context;  // of its own span
    std::uint64_t parent = 0;    // the client's span; 0: it has none
};

/// Goes on with the client's trace (its field `traceparent`), or begins one. Null: the request is not traced.
std::shared_ptr<const RequestTrace> begin_trace(const RequestHead& head, const Tracing& tracing);

/// From the monotonic time line to the wall clock.
class WallTime {
public:
    explicit WallTime(const base::Clock& clock) : now_(clock.now()), now_unix_us_(clock.unix_us()) {}
    std::int64_t unix_us(base::TimePoint at) const {
        return now_unix_us_ - std::chrono::duration_cast<std::chrono::microseconds>(now_ - at).count();
    }

private:
    base::TimePoint now_;
    std::int64_t now_unix_us_;
};

/// What a request was, for its own span.
struct TracedRequest {
    std::string_view method;
    std::string_view path;
    std::string_view request_id;
    std::string_view endpoint;  // the route's name in metrics
    std::string_view model;
    std::string_view answer_id;
    std::string_view finish_reason;
    unsigned status = 200;
    bool stream = false;
    std::uint64_t prompt_tokens = 0;
    std::uint64_t cached_tokens = 0;
    std::uint64_t completion_tokens = 0;
    std::optional<base::Duration> time_to_first_token = {};
    base::TimePoint began_at{};
    base::TimePoint ended_at{};
};
/// Names and attributes are those of OpenTelemetry's conventions for GenAI and HTTP. Nothing that a client wrote but
/// the path and ids is in it. Pure.
base::Span request_span(const RequestTrace& trace, const TracedRequest& request, const WallTime& wall);

/// The stages of one sequence as spans below its request's: prepare, and for each attempt place, prefill, hand-off and
/// decode. Pure but for the new ids.
std::vector<base::Span> sequence_spans(const RequestTrace& trace, const SequenceTimeline& sequence,
                                       const WallTime& wall);

}  // namespace gateway
