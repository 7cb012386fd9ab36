#include "bench/vllm_form.h"

#include <boost/json.hpp>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace bench {
namespace {

namespace json = boost::json;

constexpr int kWidth = 50;

/// A title in the middle of a line of `fill`.
std::string title(std::string_view text, char fill) {
    const std::string words = fill == '=' && !text.empty() ? " " + std::string(text) + " " : std::string(text);
    const int left = (kWidth - static_cast<int>(words.size())) / 2;
    const int right = kWidth - static_cast<int>(words.size()) - left;
    return std::string(static_cast<std::size_t>(left), fill) + words +
           std::string(static_cast<std::size_t>(right), fill) + "\n";
}

std::string row(const std::string& name, double value) {
    char line[96];
    std::snprintf(line, sizeof line, "%-40s %-10.2f\n", name.c_str(), value);
    return line;
}

std::string row(const std::string& name, std::size_t value) {
    char line[96];
    std::snprintf(line, sizeof line, "%-40s %-10zu\n", name.c_str(), value);
    return line;
}

struct Metric {
    const char* key;   // of the JSON fields
    const char* name;  // of the rows
    const char* header;
    Summary Report::* summary;
};
constexpr Metric kMetrics[] = {
    {"ttft", "TTFT", "Time to First Token", &Report::ttft_ms},
    {"tpot", "TPOT", "Time per Output Token (excl. 1st token)", &Report::tpot_ms},
    {"itl", "ITL", "Inter-token Latency", &Report::itl_ms},
    {"e2el", "E2EL", "End-to-end Latency", &Report::end_to_end_ms},
};

double total_tokens_per_s(const Report& report) {
    return report.prompt_tokens_per_s + report.output_tokens_per_s;
}

}  // namespace

base::Result<SloTargets> parse_goodput(std::span<const std::string> pairs) {
    SloTargets targets;
    for (const std::string& pair : pairs) {
        const auto bad = [&](const std::string& why) {
            return base::fail(base::ErrorCode::invalid_argument,
                              "--goodput " + pair + ": " + why + "; like ttft:200 tpot:50 e2el:5000, in milliseconds");
        };
        const std::size_t colon = pair.find(':');
        if (colon == std::string::npos) { return bad("NAME:MILLISECONDS is needed"); }
        const std::string name = pair.substr(0, colon);
        std::optional<Seconds>* const target = name == "ttft"   ? &targets.ttft
                                               : name == "tpot" ? &targets.tpot
                                               : name == "e2el" ? &targets.end_to_end
                                                                : nullptr;
        if (target == nullptr) { return bad("there are ttft, tpot and e2el"); }
        if (*target) { return bad(name + " is there twice"); }
        double value = 0;
        const char* const begin = pair.data() + colon + 1;
        const char* const end = pair.data() + pair.size();
        const auto [at, error] = std::from_chars(begin, end, value);
        if (error != std::errc() || at != end || !std::isfinite(value) || value <= 0) {
            return bad("a number above 0 is needed");
        }
        *target = Seconds(value / 1e3);
    }
    return targets;
}

json::object vllm_json(const Report& report, const VllmRun& run) {
    json::object fields{{"backend", "openai"},
                        {"model_id", run.model},
                        {"tokenizer_id", run.model},
                        {"num_prompts", report.requests},
                        {"burstiness", 1.0},
                        {"duration", report.duration_s},
                        {"completed", report.requests_ok},
                        {"failed", report.requests - report.requests_ok},
                        {"total_input_tokens", report.prompt_tokens},
                        {"total_output_tokens", report.output_tokens},
                        {"request_throughput", report.completed_per_s},
                        {"output_throughput", report.output_tokens_per_s},
                        {"total_token_throughput", total_tokens_per_s(report)},
                        {"max_output_tokens_per_s", report.output_tokens_peak_per_s},
                        {"max_concurrent_requests", report.in_flight_max}};
    fields["request_rate"] = run.request_rate ? json::value(*run.request_rate) : json::value("inf");
    fields["max_concurrency"] = run.concurrency_max ? json::value(*run.concurrency_max) : json::value(nullptr);
    fields["request_goodput"] = run.targets.is_any() ? json::value(report.goodput_per_s) : json::value(nullptr);
    for (const Metric& metric : kMetrics) {
        const Summary& summary = report.*metric.summary;
        const std::string suffix = std::string("_") + metric.key + "_ms";
        fields["mean" + suffix] = summary.mean;
        fields["median" + suffix] = summary.p50;
        fields["std" + suffix] = summary.deviation;
        fields["p50" + suffix] = summary.p50;
        fields["p90" + suffix] = summary.p90;
        fields["p95" + suffix] = summary.p95;
        fields["p99" + suffix] = summary.p99;
    }
    return fields;
}

std::string vllm_text(const Report& report, const VllmRun& run) {
    std::string text = title("Serving Benchmark Result", '=');
    text += row("Successful requests:", report.requests_ok);
    text += row("Failed requests:", report.requests - report.requests_ok);
    if (run.concurrency_max) { text += row("Maximum request concurrency:", *run.concurrency_max); }
    if (run.request_rate) { text += row("Request rate configured (RPS):", *run.request_rate); }
    text += row("Benchmark duration (s):", report.duration_s);
    text += row("Total input tokens:", report.prompt_tokens);
    text += row("Total generated tokens:", report.output_tokens);
    text += row("Request throughput (req/s):", report.completed_per_s);
    if (run.targets.is_any()) { text += row("Request goodput (req/s):", report.goodput_per_s); }
    text += row("Output token throughput (tok/s):", report.output_tokens_per_s);
    text += row("Peak output token throughput (tok/s):", report.output_tokens_peak_per_s);
    text += row("Peak concurrent requests:", report.in_flight_max);
    text += row("Total token throughput (tok/s):", total_tokens_per_s(report));
    for (const Metric& metric : kMetrics) {
        const Summary& summary = report.*metric.summary;
        text += title(metric.header, '-');
        text += row(std::string("Mean ") + metric.name + " (ms):", summary.mean);
        text += row(std::string("Median ") + metric.name + " (ms):", summary.p50);
        text += row(std::string("P99 ") + metric.name + " (ms):", summary.p99);
    }
    return text + title("", '=');
}

}  // namespace bench
