#include "bench/report.h"

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <vector>

namespace bench {
namespace {

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
    return !(targets.tpot && tpot && *tpot > *targets.tpot);
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
    if (targets.ttft || targets.tpot) {
        append(text, "SLO:");
        if (targets.ttft) { append(text, " TTFT <= %g ms", milliseconds(*targets.ttft)); }
        if (targets.tpot) { append(text, "%s TPOT <= %g ms", targets.ttft ? "," : "", milliseconds(*targets.tpot)); }
        append(text, ": met by %.1f %%, goodput %.2f requests/s\n", report.attainment * 100, report.goodput_per_s);
    }
    for (const auto& [kind, count] : report.errors) {
        append(text, "failed: %s %zu\n", kind.c_str(), count);
    }
    return text;
}

}  // namespace bench
