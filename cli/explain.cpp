#include "cli/explain.h"

#include <fmt/format.h>
#include <boost/json.hpp>
#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>

#include "cli/ask_gateway.h"
#include "cli/process.h"

namespace cli {
namespace {

namespace json = boost::json;

constexpr std::chrono::hours kSinceMax{24};

const json::object& object_of(const json::object& object, std::string_view name) {
    static const json::object kNone;
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_object() ? value->get_object() : kNone;
}

const json::array& array_of(const json::object& object, std::string_view name) {
    static const json::array kNone;
    const json::value* value = object.if_contains(name);
    return value != nullptr && value->is_array() ? value->get_array() : kNone;
}

/// "12.3 ms" of a field; "-" where there is none.
std::string ms(const json::object& object, std::string_view name) {
    return object.contains(name) ? fmt::format("{:.1f} ms", number_of(object, name)) : "-";
}

/// A worker's account in one line: only what is not nothing.
std::string account(const json::object& says) {
    std::string text;
    for (const json::key_value_pair& field : says) {
        const std::string_view key(field.key().data(), field.key().size());
        const double number = number_of(says, key);
        if (number == 0) { continue; }
        text += text.empty() ? "" : ", ";
        std::string words(key.ends_with("_ms") ? key.substr(0, key.size() - 3) : key);
        for (char& c : words) {
            if (c == '_') { c = ' '; }
        }
        text += key.ends_with("_ms") ? fmt::format("{} {:.1f} ms", words, number)
                                     : fmt::format("{} {}", words, count_of(says, key));
    }
    return text;
}

std::string spent(const json::object& shares) {
    std::string text;
    for (const json::key_value_pair& field : shares) {
        const std::string_view name(field.key().data(), field.key().size());
        text += fmt::format("{}{} {:.1f} ms", text.empty() ? "" : ", ", name, number_of(shares, name));
    }
    return text;
}

void add_sequence(std::string& text, const json::object& sequence) {
    text += fmt::format("\nsequence {}: {} prompt tokens, {} answered, {} placement(s)\n", text_of(sequence, "id"),
                        count_of(sequence, "prompt_tokens"), count_of(sequence, "completion_tokens"),
                        count_of(sequence, "placements"));
    for (const json::value& item : array_of(sequence, "events")) {
        if (!item.is_object()) { continue; }
        const json::object& event = item.get_object();
        text += fmt::format("  {:>10.1f} ms  {}", number_of(event, "at_ms"), text_of(event, "event"));
        if (event.contains("worker")) { text += fmt::format("  worker {}", text_of(event, "worker")); }
        if (event.contains("error")) { text += fmt::format("  ({})", text_of(event, "error")); }
        text += "\n";
        if (const std::string says = account(object_of(event, "worker_says")); !says.empty()) {
            text += "                   " + says + "\n";
        }
    }
    const json::object& predicted = object_of(sequence, "predicted");
    const json::object& actual = object_of(sequence, "actual");
    if (!predicted.empty()) {
        text += fmt::format("  from the placement on: TTFT predicted {}, actual {}; TPOT predicted {}, actual {}\n",
                            ms(predicted, "ttft_ms"), ms(actual, "ttft_ms"), ms(predicted, "tpot_ms"),
                            ms(actual, "tpot_ms"));
    }
    if (const std::string shares = spent(object_of(sequence, "ttft_spent_ms")); !shares.empty()) {
        text += "  until the first token: " + shares + "\n";
    }
    if (count_of(sequence, "late_tokens") > 0) {
        text += fmt::format("  {} late token(s): {}\n", count_of(sequence, "late_tokens"),
                            spent(object_of(sequence, "late_spent_ms")));
        for (const json::value& item : array_of(sequence, "latest_tokens")) {
            if (!item.is_object()) { continue; }
            const json::object& late = item.get_object();
            text += fmt::format("    token {} after {}: {}; {}\n", count_of(late, "token"), ms(late, "gap_ms"),
                                text_of(late, "cause"), account(object_of(late, "worker_says")));
        }
    }
}

}  // namespace

base::Result<std::chrono::seconds> parse_since(std::string_view text) {
    const auto bad = [&] {
        return base::fail(base::ErrorCode::invalid_argument,
                          "--since takes a time from 1s to 24h like 90s, 10m or 2h, not '" + std::string(text) + "'");
    };
    std::int64_t count = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), count);
    if (error != std::errc() || count < 1 || count > 24 * 3600) { return bad(); }
    const std::string_view unit(end, static_cast<std::size_t>(text.data() + text.size() - end));
    std::int64_t factor = 0;
    if (unit.empty() || unit == "s") { factor = 1; }
    if (unit == "m") { factor = 60; }
    if (unit == "h") { factor = 3600; }
    const std::chrono::seconds since(count * factor);
    if (factor == 0 || since > kSinceMax) { return bad(); }
    return since;
}

std::string timeline_text(const json::object& timeline) {
    std::string text =
        fmt::format("request {} ({}): {} on {}, class {}, status {}, {}\n", text_of(timeline, "request_id"),
                    text_of(timeline, "id"), text_of(timeline, "endpoint"), text_of(timeline, "model"),
                    text_of(timeline, "slo_class"), count_of(timeline, "status"), ms(timeline, "took_ms"));
    if (const std::string_view cache = text_of(timeline, "cache"); !cache.empty()) {
        text += fmt::format("at the cache: {}\n", cache);
    }
    const json::object& targets = object_of(timeline, "targets");
    text += targets.empty()
                ? "no targets\n"
                : fmt::format("targets: TTFT {}, TPOT {}{}\n", ms(targets, "ttft_ms"), ms(targets, "tpot_ms"),
                              targets.contains("e2e_ms") ? ", whole answer " + ms(targets, "e2e_ms") : "");
    const json::object& missed = object_of(timeline, "missed");
    if (missed.empty() && !targets.empty()) { text += "all targets were met\n"; }
    for (const std::string_view slo : {"ttft", "tpot", "e2e", "all"}) {
        const json::object& miss = object_of(missed, slo);
        if (miss.empty() || (slo == "all" && missed.size() > 1)) { continue; }
        text += fmt::format("missed{}{}: {}", slo == "all" ? "" : " ", slo == "all" ? "" : slo, text_of(miss, "cause"));
        if (miss.contains("worker")) { text += fmt::format(" (worker {})", text_of(miss, "worker")); }
        text += fmt::format(": {}\n  helps: {}\n", text_of(miss, "meaning"), text_of(miss, "helps"));
    }
    for (const json::value& sequence : array_of(timeline, "sequences")) {
        if (sequence.is_object()) { add_sequence(text, sequence.get_object()); }
    }
    return text;
}

std::string summary_text(const json::object& summary) {
    std::string text =
        fmt::format("last {} s: {} requests, {} with targets, {} missed\n", count_of(summary, "since_s"),
                    count_of(summary, "requests"), count_of(summary, "with_targets"), count_of(summary, "missed"));
    const std::string_view bottleneck = text_of(summary, "bottleneck");
    if (!bottleneck.empty()) { text += fmt::format("bottleneck: {}\n", bottleneck); }
    for (const json::value& item : array_of(summary, "causes")) {
        if (!item.is_object()) { continue; }
        const json::object& cause = item.get_object();
        text += fmt::format("\n{:>6}  {}: {}\n        helps: {}\n", count_of(cause, "count"), text_of(cause, "cause"),
                            text_of(cause, "meaning"), text_of(cause, "helps"));
        for (const json::value& other : array_of(summary, "workers")) {
            if (!other.is_object() || text_of(other.get_object(), "cause") != text_of(cause, "cause")) { continue; }
            text += fmt::format("        worker {}: {}, for example {}\n", text_of(other.get_object(), "worker"),
                                count_of(other.get_object(), "count"), text_of(other.get_object(), "example"));
        }
    }
    std::string latest;
    for (const json::value& id : array_of(summary, "latest_missed")) {
        if (id.is_string()) { latest += " " + std::string(id.get_string()); }
    }
    if (!latest.empty()) { text += "\nlatest:" + latest + "\n"; }
    return text;
}

void add_explain(CLI::App& app, ExplainCommand& command) {
    app.add_option("request", command.request_id,
                   "a request: its x-request-id or the id of its answer; none: what was missed lately, and why");
    app.add_option("--url", command.url, "of the gateway")->capture_default_str();
    app.add_option("--api-key", command.api_key, "of scope admin, where the gateway has keys; default: SLUICE_API_KEY")
        ->envname("SLUICE_API_KEY");
    app.add_option("--since", command.since, "how far back the summary looks: 90s, 10m, 2h")->capture_default_str();
    app.add_flag("--json", command.json, "as JSON");
}

int explain_main(const ExplainCommand& command) {
    std::string path = "/explain";
    if (command.request_id.empty()) {
        const auto since = parse_since(command.since);
        if (!since) { return report(since.error()); }
        path += "?since=" + std::to_string(since->count());
    } else {
        for (const char c : command.request_id) {
            const bool is_plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
                                  std::string_view("._:-").find(c) != std::string_view::npos;
            if (!is_plain) {
                return report({base::ErrorCode::invalid_argument,
                               "'" + command.request_id + "' is no id of a request: letters, digits, and . _ : -"});
            }
        }
        path += "/" + command.request_id;
    }
    const auto answer = ask_gateway(command.url, command.api_key, path);
    if (!answer) { return report(answer.error()); }
    if (command.json) {
        std::printf("%s\n", json::serialize(*answer).c_str());
    } else {
        std::printf("%s", (command.request_id.empty() ? summary_text(*answer) : timeline_text(*answer)).c_str());
    }
    return 0;
}

}  // namespace cli
