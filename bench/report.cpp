#include "bench/report.h"

#include <algorithm>
#include <cstdarg>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <utility>
#include <vector>

namespace bench {
namespace {

constexpr double kLagNotedMs = 5;  // of the generator, at the 99th percentile

double milliseconds(Seconds value) {
    return value.count() * 1e3;
}

__attribute__((format(printf, 2, 3))) void append(std::string& text, const char* format, ...) {
    char line[512];
    std::va_list arguments;
    va_start(arguments, format);
    std::vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    text += line;
}

void append_row(std::string& text, const char* name, const Summary& summary) {
    if (summary.count == 0) {
        append(text, "%-10s %10s\n", name, "none");
        return;
    }
    append(text, "%-10s %10.2f %10.2f %10.2f %10.2f %10.2f %10.2f\n", name, summary.mean, summary.p50, summary.p90,
           summary.p95, summary.p99, summary.maximum);
}

}  // namespace

bool meets(const SloTargets& targets, const RequestRecord& record) {
    if (!record.is_ok()) { return false; }
    const std::optional<Seconds> ttft = record.ttft();
    if (targets.ttft && (!ttft || *ttft > *targets.ttft)) { return false; }
    const std::optional<Seconds> tpot = record.tpot();
    if (targets.tpot && tpot && *tpot > *targets.tpot) { return false; }
    return !(targets.end_to_end && record.end_to_end() > *targets.end_to_end);
}

namespace {

/// Requests that were sent and had not ended, at most.
std::size_t most_in_flight(std::span<const RequestRecord> records) {
    std::vector<double> sent;
    std::vector<double> ends;
    sent.reserve(records.size());
    ends.reserve(records.size());
    for (const RequestRecord& record : records) {
        sent.push_back(record.sent.count());
        ends.push_back(record.end.count());
    }
    std::sort(sent.begin(), sent.end());
    std::sort(ends.begin(), ends.end());
    std::size_t ended = 0;
    std::size_t most = 0;
    for (std::size_t begun = 1; begun <= sent.size(); ++begun) {
        while (ended < ends.size() && ends[ended] <= sent[begun - 1]) {  // of equal times an end comes first
            ++ended;
        }
        most = std::max(most, begun - std::min(begun, ended));
    }
    return most;
}

/// Chunks of text in the fullest whole second, as tokens: a chunk may hold several.
double peak_tokens(std::span<const RequestRecord> records) {
    std::map<std::int64_t, double> by_second;
    double peak = 0;
    for (const RequestRecord& record : records) {
        if (record.token_times.empty()) { continue; }
        const double each = static_cast<double>(record.output_tokens) / static_cast<double>(record.token_times.size());
        for (const Seconds at : record.token_times) {
            peak = std::max(peak, by_second[static_cast<std::int64_t>(at.count())] += each);
        }
    }
    return peak;
}

}  // namespace

std::optional<SteadyWindow> steady_window(std::span<const RequestRecord> records) {
    if (records.empty()) { return std::nullopt; }
    SteadyWindow window{records.front().end, records.front().due};
    for (const RequestRecord& record : records) {
        if (record.is_ok()) { window.begin = std::min(window.begin, record.end); }
        window.end = std::max(window.end, record.due);
    }
    if (window.end <= window.begin) { return std::nullopt; }
    return window;
}

Report make_steady_report(std::span<const RequestRecord> records, const SloTargets& targets,
                          const SteadyWindow& window) {
    const double length = (window.end - window.begin).count();
    std::vector<RequestRecord> due;
    double completed = 0;
    double met = 0;
    double prompt_tokens = 0;
    double output_tokens = 0;
    const auto is_in = [&](Seconds at) { return at >= window.begin && at < window.end; };
    for (const RequestRecord& record : records) {
        if (is_in(record.due)) { due.push_back(record); }
        if (record.is_ok() && is_in(record.end)) {
            ++completed;
            met += meets(targets, record) ? 1 : 0;
            prompt_tokens += record.prompt_tokens;
        }
        const auto chunks = std::count_if(record.token_times.begin(), record.token_times.end(), is_in);
        if (chunks > 0) {
            output_tokens +=
                static_cast<double>(chunks) * record.output_tokens / static_cast<double>(record.token_times.size());
        }
    }
    Report report = make_report(due, targets);
    report.duration_s = length;
    report.completed_per_s = completed / length;
    report.goodput_per_s = met / length;
    report.prompt_tokens_per_s = prompt_tokens / length;
    report.output_tokens_per_s = output_tokens / length;
    return report;
}

Report make_report(std::span<const RequestRecord> records, const SloTargets& targets) {
    Report report;
    report.requests = records.size();
    if (records.empty()) { return report; }

    std::vector<double> ttft_ms;
    std::vector<double> tpot_ms;
    std::vector<double> itl_ms;
    std::vector<double> end_to_end_ms;
    std::vector<double> lag_ms;
    std::size_t met = 0;
    std::size_t cached_tokens = 0;
    Seconds first_due = records.front().due;
    Seconds last_due = first_due;
    Seconds last_end = first_due;
    for (const RequestRecord& record : records) {
        first_due = std::min(first_due, record.due);
        last_due = std::max(last_due, record.due);
        last_end = std::max(last_end, record.end);
        lag_ms.push_back(milliseconds(record.sent - record.due));
        if (!record.is_ok()) {
            ++report.errors[record.error_kind];
            continue;
        }
        ++report.requests_ok;
        if (meets(targets, record)) { ++met; }
        report.prompt_tokens += record.prompt_tokens;
        report.output_tokens += record.output_tokens;
        cached_tokens += record.cached_tokens;
        if (const auto ttft = record.ttft()) { ttft_ms.push_back(milliseconds(*ttft)); }
        if (const auto tpot = record.tpot()) { tpot_ms.push_back(milliseconds(*tpot)); }
        for (std::size_t i = 1; i < record.token_times.size(); ++i) {
            itl_ms.push_back(milliseconds(record.token_times[i] - record.token_times[i - 1]));
        }
        end_to_end_ms.push_back(milliseconds(record.end_to_end()));
    }

    report.duration_s = (last_end - first_due).count();
    if (records.size() > 1 && last_due > first_due) {
        report.offered_per_s = static_cast<double>(records.size() - 1) / (last_due - first_due).count();
    }
    if (report.duration_s > 0) {
        report.completed_per_s = static_cast<double>(report.requests_ok) / report.duration_s;
        report.prompt_tokens_per_s = static_cast<double>(report.prompt_tokens) / report.duration_s;
        report.output_tokens_per_s = static_cast<double>(report.output_tokens) / report.duration_s;
        report.goodput_per_s = static_cast<double>(met) / report.duration_s;
    }
    if (report.prompt_tokens > 0) {
        report.cached_share = static_cast<double>(cached_tokens) / static_cast<double>(report.prompt_tokens);
    }
    report.in_flight_max = most_in_flight(records);
    report.output_tokens_peak_per_s = peak_tokens(records);
    report.attainment = static_cast<double>(met) / static_cast<double>(records.size());
    report.ttft_ms = summarize(std::move(ttft_ms));
    report.tpot_ms = summarize(std::move(tpot_ms));
    report.itl_ms = summarize(std::move(itl_ms));
    report.end_to_end_ms = summarize(std::move(end_to_end_ms));
    report.lag_ms = summarize(std::move(lag_ms));
    return report;
}

std::string report_text(const Report& report, const SloTargets& targets) {
    std::string text;
    append(text, "%zu requests, %zu answered, %zu failed in %.2f s; offered %.2f/s, answered %.2f/s\n", report.requests,
           report.requests_ok, report.requests - report.requests_ok, report.duration_s, report.offered_per_s,
           report.completed_per_s);
    append(text, "tokens: prompt %zu (%.1f/s, %.1f %% cached), output %zu (%.1f/s)\n", report.prompt_tokens,
           report.prompt_tokens_per_s, report.cached_share * 100, report.output_tokens, report.output_tokens_per_s);
    append(text, "%-10s %10s %10s %10s %10s %10s %10s\n", "ms", "mean", "p50", "p90", "p95", "p99", "max");
    append_row(text, "TTFT", report.ttft_ms);
    append_row(text, "TPOT", report.tpot_ms);
    append_row(text, "ITL", report.itl_ms);
    append_row(text, "E2E", report.end_to_end_ms);
    append_row(text, "lag", report.lag_ms);
    if (report.generator_cpu_s > 0) {
        append(text, "generator: %.2f s of CPU, %.0f %% of a core, at most %zu requests in flight\n",
               report.generator_cpu_s, report.generator_cpu_share * 100, report.in_flight_max);
    }
    if (report.lag_ms.p99 > kLagNotedMs) {
        append(text,
               "late: one of 100 requests was sent %.1f ms after it was due: this machine is too slow for the load, or "
               "they waited for --max-in-flight\n",
               report.lag_ms.p99);
    }
    if (targets.is_any()) {
        append(text, "SLO:");
        const char* separator = " ";
        const auto tell = [&](const char* name, const std::optional<Seconds>& target) {
            if (!target) { return; }
            append(text, "%s%s <= %g ms", separator, name, milliseconds(*target));
            separator = ", ";
        };
        tell("TTFT", targets.ttft);
        tell("TPOT", targets.tpot);
        tell("E2E", targets.end_to_end);
        append(text, ": met by %.1f %%, goodput %.2f requests/s\n", report.attainment * 100, report.goodput_per_s);
    }
    for (const auto& [kind, count] : report.errors) {
        append(text, "failed: %s %zu\n", kind.c_str(), count);
    }
    return text;
}

}  // namespace bench
