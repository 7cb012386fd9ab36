// `sluice top` for people: sections of short lines.
#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <string>
#include <string_view>

#include "base/log.h"
#include "cli/ask_gateway.h"
#include "cli/top_view.h"

namespace cli {

namespace json = boost::json;

namespace {

constexpr std::size_t kColumnsMin = 40;
/// Rows of a section; how many more there are is said.
constexpr std::size_t kRowsMax = 12;

/// As wide as that, cut or filled: `text` of a peer, so without what moves a cursor.
std::string fit(std::string_view text, std::size_t width) {
    std::string safe = base::log_safe(text);
    if (safe.size() > width) {
        safe.resize(width - 1);
        safe += '~';
    }
    safe.resize(width, ' ');
    return safe;
}

std::string bytes_text(double bytes) {
    constexpr std::array<const char*, 5> kUnits = {"B", "KiB", "MiB", "GiB", "TiB"};
    std::size_t unit = 0;
    while (bytes >= 1024 && unit + 1 < kUnits.size()) {
        bytes /= 1024;
        ++unit;
    }
    return fmt::format("{:.{}f} {}", bytes, bytes < 10 && unit > 0 ? 1 : 0, kUnits[unit]);
}

std::string count_text(double count) {
    if (count >= 10e6) { return fmt::format("{:.1f}M", count / 1e6); }
    if (count >= 10e3) { return fmt::format("{:.1f}k", count / 1e3); }
    return fmt::format("{:.0f}", count);
}

bool is_known(const json::object& row, std::string_view name) {
    const json::value* value = row.if_contains(name);
    return value != nullptr && value->is_number();
}

std::string rate_text(const json::object& row, std::string_view name) {
    if (!is_known(row, name)) { return "-"; }
    const double rate = number_of(row, name);
    return rate < 100 ? fmt::format("{:.1f}", rate) : count_text(rate);
}

std::string duration_text(double seconds) {
    const auto total = static_cast<std::int64_t>(seconds);
    if (total < 60) { return fmt::format("{}s", total); }
    if (total < 3600) { return fmt::format("{}m{:02}s", total / 60, total % 60); }
    if (total < 86400) { return fmt::format("{}h{:02}m", total / 3600, total / 60 % 60); }
    return fmt::format("{}d{:02}h", total / 86400, total / 3600 % 24);
}

std::string bar(double part, double whole, std::size_t width) {
    const double share = whole > 0 ? std::clamp(part / whole, 0.0, 1.0) : 0;
    const auto filled = static_cast<std::size_t>(std::lround(share * static_cast<double>(width)));
    return "[" + std::string(filled, '#') + std::string(width - filled, '.') + "]";
}

class Page {
public:
    explicit Page(std::size_t columns) : columns_(std::max(columns, kColumnsMin)) {}
    void line(std::string text) {
        if (text.size() > columns_) { text.resize(columns_); }
        while (!text.empty() && text.back() == ' ') {
            text.pop_back();
        }
        text_ += text + "\n";
    }
    /// A section with a line for each row of `view`'s list of that name; nothing where there is none.
    template <class Row>
    void section(const json::object& view, std::string_view name, const std::string& title, Row row) {
        const json::value* rows = view.if_contains(name);
        if (rows == nullptr || !rows->is_array() || rows->get_array().empty()) { return; }
        line("");
        line(title);
        std::size_t count = 0;
        for (const json::value& one : rows->get_array()) {
            if (one.is_object() && ++count <= kRowsMax) { line(row(one.get_object())); }
        }
        if (count > kRowsMax) { line(fmt::format("  and {} more", count - kRowsMax)); }
    }
    std::string take() { return std::move(text_); }

private:
    const std::size_t columns_;
    std::string text_;
};

std::string roles_text(const json::object& process) {
    std::string roles;
    const json::value* list = process.if_contains("roles");
    if (list == nullptr || !list->is_array()) { return roles; }
    for (const json::value& role : list->get_array()) {
        if (role.is_string()) { roles += (roles.empty() ? "" : ",") + std::string(role.get_string()); }
    }
    const json::value* leads = process.if_contains("leads");
    const bool is_standby = leads != nullptr && leads->is_bool() && !leads->get_bool();
    return is_standby ? roles + " (stands by)" : roles;
}

std::string process_line(const json::object& process) {
    std::string_view url = text_of(process, "url");
    if (url.starts_with("http://")) { url.remove_prefix(7); }
    if (!text_of(process, "problem").empty()) {
        return fmt::format("{} DOWN  {}", fit(url, 21), fit(text_of(process, "problem"), 200));
    }
    return fmt::format("{} {} {} {:>7} {:>5} {:>8}", fit(url, 21), fit(roles_text(process), 23),
                       fit(text_of(process, "version"), 9), duration_text(number_of(process, "uptime_s")),
                       is_known(process, "cpu_cores") ? fmt::format("{:.2f}", number_of(process, "cpu_cores")) : "-",
                       bytes_text(number_of(process, "resident_bytes")));
}

std::string kv_line(const json::object& row) {
    const double in_use = number_of(row, "in_use_ratio");
    return fmt::format("{} {} {:>7} {:>7} {:>7} {:>7} {:>8} {:>7} {}", fit(text_of(row, "worker"), 15),
                       fit(text_of(row, "level"), 5), count_text(number_of(row, "used")),
                       count_text(number_of(row, "cached")), count_text(number_of(row, "free")),
                       count_text(number_of(row, "pinned")), count_text(number_of(row, "stranded")),
                       fmt::format("{:.0f} %", 100 * in_use), bar(in_use, 1, 6));
}

}  // namespace

std::string top_text(const json::object& view, std::size_t columns) {
    Page page(columns);
    const json::value* const told = view.if_contains("summary");
    const json::object summary = told != nullptr && told->is_object() ? told->get_object() : json::object();
    const std::string up = count_text(number_of(summary, "processes_up"));
    const double down = number_of(summary, "processes_down");
    page.line(fmt::format(
        "sluice top   {} processes{}{}", up, down > 0 ? ", " + count_text(down) + " not reached" : "",
        is_known(view, "interval_s") ? fmt::format("   rates over {:.1f} s", number_of(view, "interval_s")) : ""));
    page.section(view, "processes",
                 fmt::format("{:21} {:23} {:9} {:>7} {:>5} {:>8}", "PROCESS", "ROLE", "VERSION", "UP", "CPU", "MEMORY"),
                 process_line);
    page.section(view, "models",
                 fmt::format("{:25} {:>8} {:>8} {:>9} {:>9} {:>9}", "MODEL", "RUNNING", "REQ/S", "PROMPT/S", "TOKENS/S",
                             "GOOD/S"),
                 [](const json::object& row) {
                     return fmt::format("{} {:>8} {:>8} {:>9} {:>9} {:>9}", fit(text_of(row, "model"), 25),
                                        count_text(number_of(row, "running")), rate_text(row, "requests_per_s"),
                                        rate_text(row, "prompt_tokens_per_s"),
                                        rate_text(row, "completion_tokens_per_s"),
                                        rate_text(row, "goodput_requests_per_s"));
                 });
    page.section(view, "slo",
                 fmt::format("{:18} {:12} {:12} {:>8} {:>8} {:>7}  {}", "TARGETS OF", "CLASS", "SLO", "MET", "GOAL",
                             "BURN", "OF"),
                 [](const json::object& row) {
                     return fmt::format("{} {} {} {:>8} {:>8} {:>7}  {}{}", fit(text_of(row, "model"), 18),
                                        fit(text_of(row, "slo_class"), 12), fit(text_of(row, "slo"), 12),
                                        fmt::format("{:.2f} %", 100 * number_of(row, "attainment")),
                                        fmt::format("{:.1f} %", 100 * number_of(row, "objective")),
                                        fmt::format("{:.1f}", number_of(row, "burn")),
                                        count_text(number_of(row, "met") + number_of(row, "missed")),
                                        text_of(row, "window") == "start" ? " in all" : "");
                 });
    page.section(view, "pools",
                 fmt::format("{:25} {:8} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}", "POOL", "ROLE", "READY", "DRAINING",
                             "SUSPECT", "EJECTED", "WAITING", "RUNNING"),
                 [](const json::object& row) {
                     return fmt::format("{} {} {:>6} {:>8} {:>8} {:>8} {:>8} {:>8}", fit(text_of(row, "model"), 25),
                                        fit(text_of(row, "role"), 8), count_text(number_of(row, "ready")),
                                        count_text(number_of(row, "draining")), count_text(number_of(row, "suspect")),
                                        count_text(number_of(row, "ejected")), count_text(number_of(row, "waiting")),
                                        count_text(number_of(row, "running")));
                 });
    page.section(view, "queues",
                 fmt::format("{:25} {:8} {:>9} {:>9} {:>11}", "QUEUE", "STAGE", "REQUESTS", "TOKENS", "SATURATION"),
                 [](const json::object& row) {
                     return fmt::format("{} {} {:>9} {:>9} {:>11} {}", fit(text_of(row, "model"), 25),
                                        fit(text_of(row, "stage"), 8), count_text(number_of(row, "requests")),
                                        count_text(number_of(row, "tokens")),
                                        fmt::format("{:.0f} %", 100 * number_of(row, "saturation")),
                                        bar(number_of(row, "saturation"), 1, 10));
                 });
    page.section(view, "kv",
                 fmt::format("{:15} {:5} {:>7} {:>7} {:>7} {:>7} {:>8} {:>7}", "KV BLOCKS OF", "LEVEL", "USED",
                             "CACHED", "FREE", "PINNED", "STRANDED", "IN USE"),
                 kv_line);
    page.section(view, "transfers",
                 fmt::format("{:11} {:11} {:>11} {:>11} {:>11} {:>9} {:>8}", "KV OVER", "CODEC", "SENT/S", "SENT",
                             "UNDER WAY", "OK", "FAILED"),
                 [](const json::object& row) {
                     return fmt::format(
                         "{} {} {:>11} {:>11} {:>11} {:>9} {:>8}", fit(text_of(row, "transport"), 11),
                         fit(text_of(row, "codec"), 11),
                         is_known(row, "sent_bytes_per_s") ? bytes_text(number_of(row, "sent_bytes_per_s")) : "-",
                         bytes_text(number_of(row, "sent_bytes")), bytes_text(number_of(row, "inflight_bytes")),
                         count_text(number_of(row, "ok")), count_text(number_of(row, "failed")));
                 });
    return page.take();
}

}  // namespace cli
