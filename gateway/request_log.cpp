#include "gateway/request_log.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <cstdio>
#include <utility>

#include "base/log.h"
#include "gateway/cache/cache_ask.h"
#include "gateway/cache/routed_ask.h"
#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

constexpr std::size_t kPathBytesMax = 200;

/// Routes that machines ask for all the time.
bool is_probe(std::string_view endpoint) {
    static constexpr std::array<std::string_view, 3> kProbes = {"health", "live", "metrics"};
    return std::find(kProbes.begin(), kProbes.end(), endpoint) != kProbes.end();
}

/// As OpenAI writes it: 120ms, 6s, 1m0s.
std::string reset_text(base::Duration duration) {
    const auto milliseconds = std::chrono::ceil<std::chrono::milliseconds>(duration).count();
    if (milliseconds < 1000) { return std::to_string(milliseconds) + "ms"; }
    const auto seconds = (milliseconds + 999) / 1000;
    return (seconds >= 60 ? std::to_string(seconds / 60) + "m" : "") + std::to_string(seconds % 60) + "s";
}

std::int64_t whole_milliseconds(base::Duration duration) {
    return std::chrono::floor<std::chrono::milliseconds>(std::max(duration, base::Duration::zero())).count();
}

std::string milliseconds(base::Duration duration) {
    char text[32];
    std::snprintf(text, sizeof text, "%.3f",
                  std::chrono::duration<double, std::milli>(std::max(duration, base::Duration::zero())).count());
    return text;
}

}  // namespace

HttpFields answer_fields(const RequestTag& tag, base::TimePoint now) {
    HttpFields fields{{"x-request-id", tag.id}};
    if (tag.style == ErrorStyle::anthropic) {
        fields.emplace_back("request-id", tag.id);  // as its clients read it
    } else {
        fields.emplace_back("openai-processing-ms", std::to_string(whole_milliseconds(now - tag.received_at)));
    }
    if (tag.cache) { add_fields(fields, tag.cache->fields()); }
    // Of an answer from the cache nobody knows any more.
    if (tag.routed && !(tag.cache && tag.cache->is_served())) { add_fields(fields, tag.routed->fields()); }
    if (!tag.quota) { return fields; }
    const auto add = [&fields](const std::optional<QuotaBook::Standing::One>& one, const std::string& unit) {
        if (!one) { return; }
        fields.emplace_back("x-ratelimit-limit-" + unit, std::to_string(one->limit));
        fields.emplace_back("x-ratelimit-remaining-" + unit, std::to_string(one->remaining));
        fields.emplace_back("x-ratelimit-reset-" + unit, reset_text(one->reset));
    };
    const QuotaBook::Standing standing = tag.quota->standing(now);
    add(standing.requests, "requests");
    add(standing.tokens, "tokens");
    return fields;
}

std::string AccessLine::json() const {
    JsonWriter json;
    json.begin_object().key("method").string(tag.method);
    json.key("path").string(std::string_view(tag.path).substr(0, kPathBytesMax));
    json.key("endpoint").string(endpoint).key("model").string(model);
    json.key("status").integer(end.status).key("stream").boolean(end.stream);
    json.key("prompt_tokens").integer(static_cast<std::int64_t>(end.prompt_tokens));
    json.key("cached_tokens").integer(static_cast<std::int64_t>(end.cached_tokens));
    json.key("completion_tokens").integer(static_cast<std::int64_t>(end.completion_tokens));
    if (!kv.empty()) { json.key("kv").string(kv); }
    if (!cache.empty()) { json.key("cache").string(cache); }
    if (!routed.empty()) { json.key("routed").string(routed); }
    for (const auto& [name, stage] :
         {std::pair("prepare_ms", end.stages.prepare), std::pair("place_ms", end.stages.place),
          std::pair("ttft_ms", end.stages.first_token), std::pair("tpot_ms", end.stages.tpot)}) {
        if (stage) { json.key(name).raw(milliseconds(*stage)); }
    }
    json.key("ms").raw(milliseconds(took)).key("request_id").string(tag.id);
    if (tag.trace) { json.key("trace_id").string(base::trace_id_text(tag.trace->context)); }
    if (tag.key) { json.key("key").string(tag.key->id).key("tenant").string(tag.key->tenant); }
    return json.end_object().take();
}

RequestLog::RequestLog(Setup setup) : setup_(std::move(setup)), lines_(setup_.lines_max) {
    if (setup_.kind == AccessLogKind::off) { return; }
    writer_ = std::jthread([this] { write(); });
}

RequestLog::~RequestLog() {
    lines_.close();
}

void RequestLog::write() {
    // Until the queue is closed and empty; never stopped in between.
    while (const auto line = lines_.pop(std::stop_token())) {
        setup_.sink(line->json());
    }
}

void RequestLog::ended(const RequestTag& tag, const RequestEnd& end) {
    setup_.metrics.request_ended(end.model, end.endpoint, end.status, end.stream);
    if (setup_.observer) { setup_.observer(tag, end); }
    if (tag.quota) { tag.quota->settle(end.prompt_tokens + end.completion_tokens, setup_.clock.now()); }
    if (tag.trace && setup_.spans != nullptr) {
        setup_.spans->add(request_span(*tag.trace,
                                       {.method = tag.method,
                                        .path = std::string_view(tag.path).substr(0, kPathBytesMax),
                                        .request_id = tag.id,
                                        .endpoint = end.endpoint,
                                        .model = end.model,
                                        .answer_id = end.answer_id,
                                        .finish_reason = end.finish_reason,
                                        .status = end.status,
                                        .stream = end.stream,
                                        .prompt_tokens = end.prompt_tokens,
                                        .cached_tokens = end.cached_tokens,
                                        .completion_tokens = end.completion_tokens,
                                        .time_to_first_token = end.stages.first_token,
                                        .began_at = tag.received_at,
                                        .ended_at = setup_.clock.now()},
                                       WallTime(setup_.clock)));
    }
    if (!writer_.joinable() || (setup_.kind == AccessLogKind::api && is_probe(end.endpoint))) { return; }
    AccessLine line{.tag = tag,
                    .endpoint = std::string(end.endpoint),
                    .model = std::string(end.model),
                    .kv = std::string(end.kv),
                    .cache = std::string(tag.cache ? tag.cache->word() : std::string_view()),
                    .routed = tag.routed ? tag.routed->word() : std::string(),
                    .end = end,
                    .took = setup_.clock.now() - tag.received_at};
    line.tag.quota.reset();
    line.tag.cache.reset();
    line.tag.routed.reset();
    line.end.endpoint = {};
    line.end.model = {};
    line.end.kv = {};
    line.end.answer_id = {};
    line.end.finish_reason = {};
    if (!lines_.push(std::move(line))) { setup_.metrics.access_line_dropped(); }
}

void RequestLog::write_to_log(const std::string& line) {
    spdlog::info("access {}", line);
}

}  // namespace gateway
