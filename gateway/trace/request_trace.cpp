#include "gateway/trace/request_trace.h"

#include <chrono>
#include <utility>

namespace gateway {
namespace {

std::int64_t count(std::uint64_t number) {
    return static_cast<std::int64_t>(number);
}

double seconds(base::Duration duration) {
    return std::chrono::duration<double>(duration).count();
}

/// As GenAI's conventions call what an endpoint does.
std::string operation_of(std::string_view endpoint) {
    if (endpoint == "completions") { return "text_completion"; }
    return endpoint == "embeddings" ? "embeddings" : "chat";
}

std::string worker_text(std::uint64_t worker) {
    return base::span_id_text(worker);  // as logs write it: 16 digits
}

/// Writes the spans of one sequence.
class SequenceSpans {
public:
    SequenceSpans(const RequestTrace& trace, const SequenceTimeline& sequence, const WallTime& wall)
        : trace_(trace), sequence_(sequence), wall_(wall) {}

    std::vector<base::Span> all() {
        add("prepare", sequence_.received_at, sequence_.opened_at);
        for (const Attempt& attempt : sequence_.attempts) {
            add_attempt(attempt);
        }
        return std::move(spans_);
    }

private:
    base::Span& add(std::string name, base::TimePoint begin, base::TimePoint end) {
        base::Span& span = spans_.emplace_back();
        span.context = trace_.context;
        span.parent = std::exchange(span.context.span, base::random_span_id());
        span.name = std::move(name);
        span.begin_unix_us = wall_.unix_us(begin);
        span.end_unix_us = wall_.unix_us(end);
        span.attributes.push_back({"sluice.sequence", worker_text(sequence_.id)});
        return span;
    }

    static void add_times(base::Span& span, const std::optional<proto::PartTrace>& times) {
        if (!times) { return; }
        const auto us = [&](const char* name, std::uint32_t value) {
            if (value > 0) { span.attributes.push_back({name, std::int64_t{value}}); }
        };
        us("sluice.wait.memory_us", times->memory_us());
        us("sluice.wait.turn_us", times->turn_us());
        us("sluice.wait.kv_us", times->kv_us());
        us("sluice.preempted_us", times->preempted_us());
        us("sluice.steps_us", times->steps_us());
        us("sluice.steps", times->steps());
    }

    void add_attempt(const Attempt& attempt) {
        const base::TimePoint over = attempt.lost_at.value_or(sequence_.ended_at);
        base::Span& place = add("place", attempt.asked_at, attempt.placed_at.value_or(over));
        place.kind = base::Span::Kind::client;
        if (!attempt.placed_at) {
            place.error = "no placement";
            return;
        }
        place.attributes.push_back({"sluice.predicted.ttft", seconds(attempt.predicted_ttft)});
        place.attributes.push_back({"sluice.predicted.tpot", seconds(attempt.predicted_tpot)});
        add_phase("prefill", *attempt.placed_at, attempt.first_token_at, attempt, attempt.prefill_worker);
        if (!attempt.first_token_at) { return; }
        base::Span& prefill = spans_.back();
        prefill.attributes.push_back({"sluice.cached_tokens", count(attempt.cached_tokens)});
        add_times(prefill, attempt.prefill);
        base::TimePoint decode_begin = *attempt.first_token_at;
        if (attempt.is_split && (attempt.second_token_at || sequence_.completion_tokens > 1)) {
            add_phase("hand-off", decode_begin, attempt.second_token_at, attempt, attempt.decode_worker);
            add_times(spans_.back(), attempt.decode);
            spans_.back().attributes.push_back({"sluice.kv_recomputed", attempt.kv_recomputed});
            if (!attempt.second_token_at) { return; }
            decode_begin = *attempt.second_token_at;
        }
        if (over > decode_begin) { add_phase("decode", decode_begin, over, attempt, attempt.decode_worker); }
    }

    /// `end` empty: it was cut off.
    void add_phase(std::string name, base::TimePoint begin, std::optional<base::TimePoint> end, const Attempt& attempt,
                   std::uint64_t worker) {
        const base::TimePoint over = attempt.lost_at.value_or(sequence_.ended_at);
        base::Span& span = add(std::move(name), begin, end.value_or(over));
        span.attributes.push_back({"sluice.worker_id", worker_text(worker)});
        const bool is_where_it_ended = !end || *end == over;
        if (attempt.lost_at && is_where_it_ended) { span.error = "the worker was lost or failed the sequence"; }
    }

    const RequestTrace& trace_;
    const SequenceTimeline& sequence_;
    const WallTime& wall_;
    std::vector<base::Span> spans_;
};

}  // namespace

std::shared_ptr<const RequestTrace> begin_trace(const RequestHead& head, const Tracing& tracing) {
    if (tracing.spans == nullptr) { return nullptr; }
    const std::string* const given = head.only_field("traceparent");
    const auto parent = given == nullptr ? std::nullopt : base::parse_traceparent(*given);
    RequestTrace trace;
    if (parent) {
        trace.context = *parent;
        trace.parent = std::exchange(trace.context.span, base::random_span_id());
    } else {
        trace.context = base::new_trace(tracing.sampled_share);
    }
    return trace.context.is_sampled ? std::make_shared<const RequestTrace>(trace) : nullptr;
}

base::Span request_span(const RequestTrace& trace, const TracedRequest& request, const WallTime& wall) {
    const std::string operation = operation_of(request.endpoint);
    base::Span span;
    span.context = trace.context;
    span.parent = trace.parent;
    span.name = operation + " " + std::string(request.model);
    span.kind = base::Span::Kind::server;
    span.begin_unix_us = wall.unix_us(request.began_at);
    span.end_unix_us = wall.unix_us(request.ended_at);
    span.attributes = {{"gen_ai.operation.name", operation},
                       {"gen_ai.provider.name", std::string("sluice")},
                       {"gen_ai.request.model", std::string(request.model)},
                       {"gen_ai.usage.input_tokens", count(request.prompt_tokens)},
                       {"gen_ai.usage.output_tokens", count(request.completion_tokens)},
                       {"gen_ai.usage.cache_read.input_tokens", count(request.cached_tokens)},
                       {"http.request.method", std::string(request.method)},
                       {"url.path", std::string(request.path)},
                       {"http.response.status_code", count(request.status)},
                       {"sluice.endpoint", std::string(request.endpoint)},
                       {"sluice.request_id", std::string(request.request_id)},
                       {"sluice.stream", request.stream}};
    if (!request.answer_id.empty()) {
        span.attributes.push_back({"gen_ai.response.id", std::string(request.answer_id)});
    }
    if (!request.finish_reason.empty()) {
        span.attributes.push_back(
            {"gen_ai.response.finish_reasons", std::vector<std::string>{std::string(request.finish_reason)}});
    }
    if (request.time_to_first_token) {
        // vLLM's name: the conventions have one for metrics only.
        span.attributes.push_back({"gen_ai.latency.time_to_first_token", seconds(*request.time_to_first_token)});
    }
    if (request.status >= 400) { span.attributes.push_back({"error.type", std::to_string(request.status)}); }
    if (request.status >= 500) { span.error = "answered with " + std::to_string(request.status); }
    return span;
}

std::vector<base::Span> sequence_spans(const RequestTrace& trace, const SequenceTimeline& sequence,
                                       const WallTime& wall) {
    return SequenceSpans(trace, sequence, wall).all();
}

}  // namespace gateway
