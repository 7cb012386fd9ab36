#include "gateway/explain/explain_json.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string_view>
#include <utility>
#include <vector>

#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

double ms_of(base::Duration duration) {
    return std::chrono::duration<double, std::milli>(duration).count();
}

void write_ms(JsonWriter& json, std::string_view name, base::Duration duration) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3f", ms_of(duration));
    json.key(name).raw(text);
}

void write_worker(JsonWriter& json, std::string_view name, std::uint64_t worker) {
    if (worker != 0) { json.key(name).string(hex_id(worker)); }
}

/// One thing that happened, and what is to be said of it besides.
struct Event {
    base::TimePoint at;
    std::string_view what;
    std::uint64_t worker = 0;
    std::string_view error = {};  // worker_lost
    std::string_view kv = {};     // handed_over: how it came
    const proto::PartTrace* trace = nullptr;
};

void write_trace(JsonWriter& json, const proto::PartTrace& trace) {
    const auto ms = [&](std::string_view name, std::uint32_t us, bool always = false) {
        if (us > 0 || always) { write_ms(json, name, std::chrono::microseconds(us)); }
    };
    json.key("worker_says").begin_object();
    ms("total_ms", trace.total_us(), true);
    ms("waited_memory_ms", trace.memory_us());
    ms("waited_turn_ms", trace.turn_us());
    ms("waited_kv_ms", trace.kv_us());
    ms("preempted_ms", trace.preempted_us());
    ms("recomputed_ms", trace.recomputed_us());
    ms("steps_ms", trace.steps_us(), true);
    ms("others_ms", trace.others_us());
    ms("expected_alone_ms", trace.alone_us());
    json.key("steps").integer(trace.steps());
    json.key("prompt_tokens").integer(trace.prompt_tokens());
    json.key("decoding").integer(trace.batch());
    json.end_object();
}

std::vector<Event> events_of(const SequenceTimeline& sequence) {
    std::vector<Event> events;
    events.push_back({.at = sequence.received_at, .what = "received"});
    events.push_back({.at = sequence.opened_at, .what = "parsed"});
    for (const Attempt& attempt : sequence.attempts) {
        events.push_back({.at = attempt.asked_at, .what = "asked_for_place"});
        if (attempt.placed_at) {
            events.push_back({.at = *attempt.placed_at, .what = "placed", .worker = attempt.prefill_worker});
        }
        if (attempt.first_token_at) {
            events.push_back({.at = *attempt.first_token_at,
                              .what = "first_token",
                              .worker = attempt.prefill_worker,
                              .trace = attempt.prefill ? &*attempt.prefill : nullptr});
        }
        if (attempt.second_token_at) {
            events.push_back({.at = *attempt.second_token_at,
                              .what = attempt.kv_recomputed ? "kv_recomputed" : "handed_over",
                              .worker = attempt.decode_worker,
                              .kv = attempt.kv,
                              .trace = attempt.decode ? &*attempt.decode : nullptr});
        }
        if (attempt.lost_at) {
            events.push_back({.at = *attempt.lost_at,
                              .what = "worker_lost",
                              .worker = attempt.lost_worker,
                              .error = base::error_code_name(attempt.lost_code)});
        }
    }
    events.push_back({.at = sequence.ended_at, .what = "ended"});
    std::stable_sort(events.begin(), events.end(), [](const Event& a, const Event& b) { return a.at < b.at; });
    return events;
}

void write_event(JsonWriter& json, const Event& event, base::TimePoint begin) {
    json.begin_object();
    write_ms(json, "at_ms", event.at - begin);
    json.key("event").string(event.what);
    write_worker(json, "worker", event.worker);
    if (!event.error.empty()) { json.key("error").string(event.error); }
    if (!event.kv.empty()) { json.key("kv").string(event.kv); }
    if (event.trace != nullptr) { write_trace(json, *event.trace); }
    json.end_object();
}

void write_late_token(JsonWriter& json, const LateToken& late) {
    json.begin_object().key("token").integer(late.token);
    write_ms(json, "gap_ms", late.gap);
    write_worker(json, "worker", late.worker);
    json.key("cause").string(name_of(late.cause));
    if (late.trace) { write_trace(json, *late.trace); }
    json.end_object();
}

void write_shares(JsonWriter& json, std::string_view name, const Shares& shares) {
    json.key(name).begin_object();
    for (std::size_t i = 0; i < kCauses; ++i) {
        if (shares.spent[i] > base::Duration::zero()) {
            write_ms(json, name_of(static_cast<Cause>(i)), shares.spent[i]);
        }
    }
    json.end_object();
}

/// Predicted and actual from the last placement that gave a token on.
void write_predictions(JsonWriter& json, const SequenceTimeline& sequence) {
    const auto& attempts = sequence.attempts;
    const auto at = std::find_if(attempts.rbegin(), attempts.rend(),
                                 [](const Attempt& attempt) { return attempt.first_token_at && attempt.placed_at; });
    if (at == attempts.rend()) { return; }
    json.key("predicted").begin_object();
    write_ms(json, "ttft_ms", at->predicted_ttft);
    write_ms(json, "tpot_ms", at->predicted_tpot);
    json.key("cached_tokens").integer(at->cached_believed);
    json.end_object().key("actual").begin_object();
    write_ms(json, "ttft_ms", *at->first_token_at - *at->placed_at);
    if (sequence.completion_tokens > 1) { write_ms(json, "tpot_ms", sequence.tpot); }
    json.key("cached_tokens").integer(at->cached_tokens);
    json.end_object();
}

void write_sequence(JsonWriter& json, const SequenceTimeline& sequence) {
    json.begin_object().key("id").string(hex_id(sequence.id));
    json.key("prompt_tokens").integer(sequence.prompt_tokens);
    json.key("completion_tokens").integer(sequence.completion_tokens);
    json.key("placements").integer(sequence.placements);
    if (sequence.first_token_at) { write_ms(json, "ttft_ms", *sequence.first_token_at - sequence.received_at); }
    if (sequence.completion_tokens > 1) { write_ms(json, "tpot_ms", sequence.tpot); }
    write_predictions(json, sequence);
    json.key("events").begin_array();
    for (const Event& event : events_of(sequence)) {
        write_event(json, event, sequence.received_at);
    }
    json.end_array();
    write_shares(json, "ttft_spent_ms", ttft_shares(sequence));
    json.key("late_tokens").integer(sequence.late_count);
    if (sequence.late_count > 0) {
        write_shares(json, "late_spent_ms", sequence.late);
        json.key("latest_tokens").begin_array();
        for (const LateToken& late : sequence.late_tokens) {
            write_late_token(json, late);
        }
        json.end_array();
    }
    json.end_object();
}

void write_miss(JsonWriter& json, std::string_view name, const std::optional<Miss>& miss) {
    if (!miss) { return; }
    json.key(name).begin_object().key("cause").string(name_of(miss->cause));
    write_worker(json, "worker", miss->worker);
    json.key("meaning").string(meaning_of(miss->cause)).key("helps").string(help_for(miss->cause)).end_object();
}

}  // namespace

std::string hex_id(std::uint64_t id) {
    char text[20];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(id));
    return text;
}

std::string timeline_json(const RequestTimeline& request) {
    JsonWriter json;
    json.begin_object().key("request_id").string(request.request_id).key("id").string(request.answer_id);
    json.key("endpoint").string(request.endpoint).key("model").string(request.model);
    json.key("slo_class").string(request.slo_class).key("stream").boolean(request.stream);
    if (!request.routed.empty()) { json.key("routed").string(request.routed); }
    if (!request.cache.empty()) { json.key("cache").string(request.cache); }
    json.key("status").integer(request.outcome.status);
    json.key("received_unix_ms").integer(request.received_unix_us / 1000);
    write_ms(json, "took_ms", request.ended_at - request.received_at);
    json.key("targets").begin_object();
    const SloTargets& targets = request.outcome.targets;
    if (targets.ttft > base::Duration::zero()) { write_ms(json, "ttft_ms", targets.ttft); }
    if (targets.tpot > base::Duration::zero()) { write_ms(json, "tpot_ms", targets.tpot); }
    if (targets.e2e > base::Duration::zero()) { write_ms(json, "e2e_ms", targets.e2e); }
    json.end_object();
    const Explanation& why = request.explanation;
    json.key("missed").begin_object();
    write_miss(json, "ttft", why.ttft);
    write_miss(json, "tpot", why.tpot);
    write_miss(json, "e2e", why.e2e);
    write_miss(json, "all", why.all);
    json.end_object();
    json.key("sequences_total").integer(static_cast<std::int64_t>(request.sequences_total));
    json.key("sequences").begin_array();
    for (const auto& sequence : request.sequences) {
        write_sequence(json, *sequence);
    }
    return json.end_array().end_object().take();
}

std::string summary_json(const MissSummary& summary) {
    JsonWriter json;
    json.begin_object();
    json.key("since_s").integer(std::chrono::duration_cast<std::chrono::seconds>(summary.window).count());
    json.key("requests").integer(static_cast<std::int64_t>(summary.requests));
    json.key("with_targets").integer(static_cast<std::int64_t>(summary.with_targets));
    json.key("missed").integer(static_cast<std::int64_t>(summary.missed));
    std::vector<Cause> order;
    for (std::size_t i = 0; i < kCauses; ++i) {
        if (summary.causes[i] > 0) { order.push_back(static_cast<Cause>(i)); }
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](Cause a, Cause b) { return summary.causes[index_of(a)] > summary.causes[index_of(b)]; });
    const auto bottleneck = std::find_if(order.begin(), order.end(), [](Cause c) { return c != Cause::client; });
    json.key("bottleneck");
    bottleneck == order.end() ? json.null() : json.string(name_of(*bottleneck));
    json.key("causes").begin_array();
    for (const Cause cause : order) {
        json.begin_object().key("cause").string(name_of(cause));
        json.key("count").integer(static_cast<std::int64_t>(summary.causes[index_of(cause)]));
        json.key("meaning").string(meaning_of(cause)).key("helps").string(help_for(cause)).end_object();
    }
    json.end_array().key("workers").begin_array();
    for (const MissSummary::OfWorker& of : summary.workers) {
        json.begin_object();
        write_worker(json, "worker", of.worker);
        json.key("cause").string(name_of(of.cause)).key("count").integer(static_cast<std::int64_t>(of.count));
        json.key("example").string(of.example).end_object();
    }
    json.end_array().key("latest_missed").begin_array();
    for (const std::string& id : summary.latest) {
        json.string(id);
    }
    return json.end_array().end_object().take();
}

}  // namespace gateway
