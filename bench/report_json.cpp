#include "bench/report_json.h"
#include "base/whole_file.h"

#include <sys/utsname.h>

#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <thread>

namespace bench {
namespace {

namespace json = boost::json;

json::object summary_json(const Summary& summary) {
    return {{"count", summary.count}, {"mean", summary.mean}, {"p50", summary.p50},        {"p90", summary.p90},
            {"p95", summary.p95},     {"p99", summary.p99},   {"maximum", summary.maximum}};
}

/// The value of the first line `key : value` of a file in /proc.
std::string proc_field(const char* path, std::string_view key) {
    std::ifstream file(path);
    for (std::string line; std::getline(file, line);) {
        if (!line.starts_with(key)) { continue; }
        const std::size_t value = line.find_first_not_of(" \t", line.find(':') + 1);
        return value == std::string::npos ? std::string() : line.substr(value);
    }
    return {};
}

}  // namespace

json::object report_json(const Report& report) {
    json::object errors;
    for (const auto& [kind, count] : report.errors) {
        errors[kind] = count;
    }
    return {{"requests", report.requests},
            {"requests_ok", report.requests_ok},
            {"errors", std::move(errors)},
            {"duration_s", report.duration_s},
            {"offered_per_s", report.offered_per_s},
            {"completed_per_s", report.completed_per_s},
            {"prompt_tokens", report.prompt_tokens},
            {"output_tokens", report.output_tokens},
            {"prompt_tokens_per_s", report.prompt_tokens_per_s},
            {"output_tokens_per_s", report.output_tokens_per_s},
            {"cached_share", report.cached_share},
            {"ttft_ms", summary_json(report.ttft_ms)},
            {"tpot_ms", summary_json(report.tpot_ms)},
            {"itl_ms", summary_json(report.itl_ms)},
            {"end_to_end_ms", summary_json(report.end_to_end_ms)},
            {"lag_ms", summary_json(report.lag_ms)},
            {"in_flight_max", report.in_flight_max},
            {"output_tokens_peak_per_s", report.output_tokens_peak_per_s},
            {"generator_cpu_s", report.generator_cpu_s},
            {"generator_cpu_share", report.generator_cpu_share},
            {"attainment", report.attainment},
            {"goodput_per_s", report.goodput_per_s}};
}

json::array records_json(std::span<const RequestRecord> records) {
    json::array rows;
    rows.reserve(records.size());
    for (const RequestRecord& record : records) {
        json::array gaps_ms;
        for (std::size_t i = 1; i < record.token_times.size(); ++i) {
            gaps_ms.push_back((record.token_times[i] - record.token_times[i - 1]).count() * 1e3);
        }
        json::object row{{"index", record.index},
                         {"due_s", record.due.count()},
                         {"sent_s", record.sent.count()},
                         {"end_s", record.end.count()},
                         {"prompt_tokens_asked", record.prompt_tokens_asked},
                         {"output_tokens_asked", record.output_tokens_asked},
                         {"prompt_tokens", record.prompt_tokens},
                         {"cached_tokens", record.cached_tokens},
                         {"output_tokens", record.output_tokens},
                         {"http_status", record.http_status},
                         {"itl_ms", std::move(gaps_ms)}};
        row["ttft_ms"] = record.ttft() ? json::value(record.ttft()->count() * 1e3) : json::value(nullptr);
        row["tpot_ms"] = record.tpot() ? json::value(record.tpot()->count() * 1e3) : json::value(nullptr);
        if (record.session != 0) { row["session"] = record.session; }
        if (!record.is_ok()) {
            row["error"] = record.error_kind;
            row["error_message"] = record.error_message;
        }
        rows.push_back(std::move(row));
    }
    return rows;
}

json::object machine_json() {
    json::object machine{{"cores", std::thread::hardware_concurrency()}};
    if (const std::string name = proc_field("/proc/cpuinfo", "model name"); !name.empty()) {
        machine["processor"] = name;
    }
    if (const std::string memory = proc_field("/proc/meminfo", "MemTotal"); !memory.empty()) {
        machine["memory"] = memory;
    }
    utsname system{};
    if (uname(&system) == 0) {
        machine["kernel"] = std::string(system.sysname) + " " + system.release + " " + system.machine;
    }
    return machine;
}

std::string command_line() {
    std::ifstream file("/proc/self/cmdline", std::ios::binary);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    if (text.ends_with('\0')) { text.pop_back(); }
    for (char& c : text) {
        if (c == '\0') { c = ' '; }
    }
    return text;
}

int tell_figures(const char* command, const std::string& out_path, const boost::json::object& figures,
                 const std::function<void()>& print) {
    if (out_path != "-") { print(); }
    if (out_path.empty()) { return 0; }
    const std::string json = boost::json::serialize(figures) + "\n";
    if (out_path == "-") {
        std::fputs(json.c_str(), stdout);
        return 0;
    }
    if (const auto written = base::write_whole_file(out_path, json); !written) {
        std::fprintf(stderr, "%s: %s\n", command, written.error().message.c_str());
        return 1;
    }
    return 0;
}

}  // namespace bench
