#include "bench/kv_rates.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>
#include <fstream>
#include <functional>
#include <random>

#include "bench/report_json.h"
#include "kv_transfer/rate/known_ways.h"
#include "kv_transfer/rate/played_front.h"
#include "kv_transfer/rate/played_handoff.h"

namespace bench {
namespace {

using base::ErrorCode;
using base::Result;
using kv_transfer::KnownWay;
using kv_transfer::PlayedHandoff;
using kv_transfer::PlayedOutcome;
using kv_transfer::RateAnswer;
using kv_transfer::RateQuestion;
using kv_transfer::WayToSend;
using Trace = std::vector<double>;  // bytes a second, step by step

constexpr double kBytesPerGbit = 1e9 / 8;
// KV of one token in BF16: layers, K and V, KV heads, values of a head.
constexpr std::uint64_t kSmolBytes = 30 * 2 * 3 * 64 * 2;
constexpr std::uint64_t k8bBytes = 32 * 2 * 8 * 128 * 2;
constexpr double kWayBack = 0.0002;  // seconds: a round trip inside a cluster

std::string name_of(const KnownWay& way) {
    return way.codec == "raw" || way.codec == "exact" || way.codec == "int8"
               ? way.codec
               : way.codec + "/" + std::to_string(way.level);
}

std::vector<WayToSend> ways_of(const std::vector<KnownWay>& known, double coders) {
    std::vector<WayToSend> ways;
    for (const KnownWay& way : known) {
        ways.push_back(way.way);
        ways.back().encode_rate *= coders;
        ways.back().decode_rate *= coders;
    }
    return ways;
}

/// CacheGen's streamer as published: text where all that is left can be computed in time, else the least loss that the
/// last chunk's throughput allows, else the most; a middle level at first. Source: Liu et al., SIGCOMM 2024,
/// Algorithm 1.
RateAnswer cachegen_policy(std::span<const WayToSend> ways, const RateQuestion& question) {
    const double left_s = question.left ? std::chrono::duration<double>(*question.left).count() : 0;
    const auto bytes = static_cast<double>(question.bytes_left);
    if (question.recompute_rate > 0 && bytes / question.recompute_rate <= left_s) { return {0, true, {}}; }
    if (question.wire_last <= 0) { return {ways.size() / 2, false, {}}; }
    for (std::size_t way = 0; way < ways.size(); ++way) {
        if (bytes * ways[way].wire_share / question.wire_last <= left_s) { return {way, false, {}}; }
    }
    return {ways.size() - 1, false, {}};
}

/// A policy for one hand-off; made anew for each.
struct Contender {
    std::string name;
    std::vector<KnownWay> ways;
    bool allow_lossy = true;
    bool recompute = false;
    bool knows_the_wire = false;
    std::function<RateAnswer(std::span<const WayToSend>, const RateQuestion&)> policy;
};

std::vector<Contender> fixed_contenders() {
    std::vector<Contender> contenders;
    for (KnownWay& way : kv_transfer::all_ways()) {
        const std::string name = name_of(way);
        contenders.push_back(
            {.name = name, .ways = {std::move(way)}, .policy = [](auto, const RateQuestion&) { return RateAnswer{}; }});
    }
    contenders.push_back(
        {.name = "recompute", .ways = {kv_transfer::controller_ways().front()}, .recompute = true, .policy = {}});
    return contenders;
}

std::vector<Contender> controllers() {
    const std::vector<KnownWay> ways = kv_transfer::controller_ways();
    return {{.name = "controller without loss", .ways = ways, .allow_lossy = false, .policy = kv_transfer::choose_way},
            {.name = "controller without loss, recompute from the other end",
             .ways = ways,
             .allow_lossy = false,
             .recompute = true,
             .policy = kv_transfer::choose_way},
            {.name = "controller", .ways = ways, .policy = kv_transfer::choose_way},
            {.name = "controller, recompute from the other end",
             .ways = ways,
             .recompute = true,
             .policy = kv_transfer::choose_way}};
}

/// What the wire does: seconds for bytes, and its rate at a place of the KV (for who knows it).
struct Wire {
    Trace trace;
    std::uint64_t kv_bytes = 0;

    double rate(std::uint64_t kv_sent) const {
        const auto step = static_cast<std::size_t>(static_cast<double>(kv_sent) / static_cast<double>(kv_bytes) *
                                                   static_cast<double>(trace.size()));
        return trace[std::min(step, trace.size() - 1)];
    }
};

PlayedOutcome play(const KvRatesOptions& options, const Contender& contender, const Wire& wire, double recompute_rate,
                   std::optional<double> due_s) {
    if (!contender.policy) {  // computed, nothing sent
        PlayedOutcome outcome;
        outcome.seconds = kWayBack + static_cast<double>(wire.kv_bytes) / recompute_rate;
        outcome.kv_bytes_computed = wire.kv_bytes;
        outcome.kv_bytes_by_way.resize(1);
        return outcome;
    }
    PlayedHandoff handoff;
    handoff.kv_bytes = wire.kv_bytes;
    handoff.frame_bytes = static_cast<std::uint64_t>(options.frame_mib * 1024 * 1024);
    handoff.ways = ways_of(contender.ways, options.coders);
    handoff.wire_s = [&wire](double, double bytes, std::uint64_t kv_sent) { return bytes / wire.rate(kv_sent); };
    handoff.recompute_rate = contender.recompute ? recompute_rate : 0;
    handoff.way_back_s = kWayBack;
    handoff.due_s = due_s;
    handoff.allow_lossy = contender.allow_lossy;
    if (!contender.knows_the_wire) { return kv_transfer::play_handoff(handoff, contender.policy); }
    std::uint64_t sent = 0;
    return kv_transfer::play_handoff(handoff, [&](std::span<const WayToSend> ways, RateQuestion question) {
        question.wire = question.wire_low = wire.rate(sent);
        sent += question.frame_bytes;
        return contender.policy(ways, question);
    });
}

void play_steady(const KvRatesOptions& options, std::vector<SteadyRow>& rows) {
    struct Shape {
        const char* name;
        std::uint64_t bytes;
        double tokens_per_s;
    };
    std::vector<Contender> contenders = fixed_contenders();
    for (Contender& controller : controllers()) {
        contenders.push_back(std::move(controller));
    }
    for (const Shape& shape : {Shape{"smollm2-135m", kSmolBytes, options.small_recompute_tokens_per_s},
                               Shape{"8b", k8bBytes, options.recompute_tokens_per_s}}) {
        for (const std::uint32_t tokens : options.tokens) {
            for (const double gbits : options.gbits) {
                const Wire wire{{gbits * kBytesPerGbit}, shape.bytes * tokens};
                for (const Contender& contender : contenders) {
                    const PlayedOutcome outcome =
                        play(options, contender, wire, static_cast<double>(shape.bytes) * shape.tokens_per_s, {});
                    rows.push_back({shape.name, tokens, gbits, contender.name, outcome.seconds, outcome.wire_bytes});
                }
            }
        }
    }
}

void play_traces(const KvRatesOptions& options, const std::string& name, const std::vector<Trace>& traces,
                 std::vector<TraceRow>& rows) {
    const std::uint64_t kv_bytes = k8bBytes * options.trace_tokens;
    const double recompute_rate = static_cast<double>(k8bBytes) * options.recompute_tokens_per_s;
    const std::vector<KnownWay> ways = kv_transfer::controller_ways();
    std::vector<Contender> contenders = fixed_contenders();
    std::vector<KnownWay> levels(ways.begin() + 2, ways.end());
    contenders.push_back({.name = "CacheGen's Algorithm 1", .ways = levels, .policy = cachegen_policy});
    contenders.push_back(
        {.name = "CacheGen's Algorithm 1, text", .ways = levels, .recompute = true, .policy = cachegen_policy});
    for (Contender& controller : controllers()) {
        contenders.push_back(std::move(controller));
    }
    // With and without computing: the better of both is what anybody could have done.
    const Contender oracle{.name = "oracle", .ways = ways, .knows_the_wire = true, .policy = kv_transfer::choose_way};
    Contender computing_oracle = oracle;
    computing_oracle.recompute = true;
    for (const double deadline_s : options.deadlines_s) {
        std::vector<double> oracle_s;
        std::vector<double> computing_oracle_s;
        for (const Trace& trace : traces) {
            const Wire wire{trace, kv_bytes};
            double least_s = play(options, oracle, wire, recompute_rate, {}).seconds;
            for (const Contender& fixed : fixed_contenders()) {
                if (!fixed.recompute) {
                    least_s = std::min(least_s, play(options, fixed, wire, recompute_rate, {}).seconds);
                }
            }
            oracle_s.push_back(least_s);
            computing_oracle_s.push_back(
                std::min({oracle_s.back(), play(options, computing_oracle, wire, recompute_rate, {}).seconds,
                          static_cast<double>(kv_bytes) / recompute_rate + kWayBack}));
        }
        const auto add = [&](const Contender& contender, const std::function<double(std::size_t)>& known) {
            TraceRow row{.traces = name, .deadline_s = deadline_s, .policy = contender.name};
            double wire_bytes = 0;
            double sent = 0;
            for (std::size_t i = 0; i < traces.size(); ++i) {
                const Wire wire{traces[i], kv_bytes};
                const PlayedOutcome outcome = play(options, contender, wire, recompute_rate, deadline_s);
                ++row.hand_offs;
                const bool is_late = outcome.seconds > deadline_s;
                row.late += is_late ? 1u : 0u;
                row.late_where_an_oracle_is_not += is_late && known(i) <= deadline_s ? 1u : 0u;
                row.seconds_mean += outcome.seconds / static_cast<double>(traces.size());
                wire_bytes += outcome.wire_bytes;
                double lossless = static_cast<double>(outcome.kv_bytes_computed);
                for (std::size_t way = 0; way < contender.ways.size(); ++way) {
                    const auto bytes = static_cast<double>(outcome.kv_bytes_by_way[way]);
                    sent += bytes;
                    lossless += contender.ways[way].way.is_lossy ? 0 : bytes;
                }
                row.lossless_share +=
                    std::min(1.0, lossless / static_cast<double>(kv_bytes)) / static_cast<double>(traces.size());
            }
            row.bits_per_value = sent > 0 ? 16 * wire_bytes / sent : 0;
            rows.push_back(row);
        };
        const auto by_wire = [&](std::size_t i) { return oracle_s[i]; };
        const auto by_both = [&](std::size_t i) { return computing_oracle_s[i]; };
        for (const Contender& contender : contenders) {
            add(contender, contender.recompute ? std::function<double(std::size_t)>(by_both) : by_wire);
        }
        for (const bool computes : {false, true}) {
            const std::vector<double>& seconds = computes ? computing_oracle_s : oracle_s;
            TraceRow row{.traces = name,
                         .deadline_s = deadline_s,
                         .policy = computes ? "oracle, recompute from the other end" : "oracle",
                         .hand_offs = static_cast<std::uint32_t>(traces.size())};
            for (const double taken : seconds) {
                row.late += taken > deadline_s ? 1u : 0u;
                row.seconds_mean += taken / static_cast<double>(traces.size());
            }
            rows.push_back(row);
        }
    }
}

/// Each trace begins at each of its steps; at first the wire is known as it was at another one.
void play_fronts(const KvRatesOptions& options, const std::string& name, const std::vector<Trace>& traces,
                 std::vector<FrontRow>& rows) {
    using Split = kv_transfer::PlayedFront::Split;
    kv_transfer::PlayedFront handoff;
    handoff.tokens = options.trace_tokens;
    handoff.token_bytes = static_cast<double>(k8bBytes);
    handoff.frame_bytes = options.frame_mib * 1024 * 1024;
    handoff.computing = options.recompute_tokens_per_s;
    handoff.way_back_s = kWayBack;
    for (const WayToSend& way : ways_of(kv_transfer::controller_ways(), options.coders)) {
        if (!way.is_lossy) { handoff.ways.push_back(way); }
    }
    const std::pair<const char*, Split> splits[] = {{"all is sent", Split::none},
                                                    {"split at the beginning", Split::fixed},
                                                    {"split as the wire goes", Split::moves}};
    for (const double slack : options.slacks) {
        for (const auto& [policy, split] : splits) {
            FrontRow row{.traces = name, .slack = slack, .policy = policy};
            std::mt19937_64 random{options.seed};
            for (const Trace& trace : traces) {
                for (std::size_t first = 0; first < trace.size(); ++first) {
                    kv_transfer::ChangingWire wire{trace, options.trace_step_s};
                    std::rotate(wire.rates.begin(), wire.rates.begin() + static_cast<std::ptrdiff_t>(first),
                                wire.rates.end());
                    handoff.split = split;
                    handoff.wire_known = trace[random() % trace.size()];
                    const double least = kv_transfer::least_front_seconds(handoff, wire);
                    handoff.due_s = slack * least;
                    const auto outcome = kv_transfer::play_front(handoff, wire);
                    ++row.hand_offs;
                    row.late += outcome.seconds > *handoff.due_s ? 1u : 0u;
                    row.seconds_mean += outcome.seconds;
                    row.oracle_seconds_mean += least;
                    row.computed_share += static_cast<double>(outcome.tokens_computed) / handoff.tokens;
                }
            }
            for (double* sum : {&row.seconds_mean, &row.oracle_seconds_mean, &row.computed_share}) {
                *sum /= row.hand_offs;
            }
            rows.push_back(row);
        }
    }
}

Result<std::vector<Trace>> read_traces(const std::string& path) {
    std::ifstream file(path);
    if (!file) { return base::fail(ErrorCode::not_found, "no file of traces " + path); }
    std::vector<Trace> traces;
    std::string line;
    while (std::getline(file, line)) {
        if (line.empty()) { continue; }
        boost::system::error_code error;
        const boost::json::value value = boost::json::parse(line, error);
        const boost::json::value* steps = error || !value.is_object() ? nullptr : value.as_object().if_contains("bw");
        Trace trace;
        if (steps != nullptr && steps->is_array()) {
            for (const boost::json::value& step : steps->as_array()) {
                const double gbits = step.is_number() ? step.to_number<double>() : 0;
                if (!(gbits > 0)) {
                    trace.clear();
                    break;
                }
                trace.push_back(gbits * kBytesPerGbit);
            }
        }
        if (trace.empty()) {
            return base::fail(ErrorCode::invalid_argument, path + ", line " + std::to_string(traces.size() + 1) +
                                                               ": not {\"bw\": [Gbit/s above 0, ...]}");
        }
        traces.push_back(std::move(trace));
    }
    if (traces.empty()) { return base::fail(ErrorCode::invalid_argument, path + " has no traces"); }
    return traces;
}

std::vector<Trace> random_traces(const KvRatesOptions& options) {
    std::mt19937_64 random{options.seed};
    std::vector<Trace> traces(options.random_traces);
    for (Trace& trace : traces) {
        for (int step = 0; step < 10; ++step) {
            const double share = static_cast<double>(random() >> 11) / static_cast<double>(1ULL << 53);
            trace.push_back((0.1 + 9.9 * share) * kBytesPerGbit);
        }
    }
    return traces;
}

boost::json::object json_of(const KvRatesOptions& options, const KvRates& rates) {
    boost::json::array steady;
    for (const SteadyRow& row : rates.steady) {
        steady.push_back({{"shape", row.shape},
                          {"tokens", row.tokens},
                          {"gbits", row.gbits},
                          {"policy", row.policy},
                          {"seconds", row.seconds},
                          {"wire_bytes", row.wire_bytes}});
    }
    boost::json::array traces;
    for (const TraceRow& row : rates.traces) {
        traces.push_back({{"traces", row.traces},
                          {"deadline_s", row.deadline_s},
                          {"policy", row.policy},
                          {"hand_offs", row.hand_offs},
                          {"late", row.late},
                          {"late_where_an_oracle_is_not", row.late_where_an_oracle_is_not},
                          {"seconds_mean", row.seconds_mean},
                          {"bits_per_value", row.bits_per_value},
                          {"lossless_share", row.lossless_share}});
    }
    boost::json::array fronts;
    for (const FrontRow& row : rates.fronts) {
        fronts.push_back({{"traces", row.traces},
                          {"slack", row.slack},
                          {"policy", row.policy},
                          {"hand_offs", row.hand_offs},
                          {"late", row.late},
                          {"seconds_mean", row.seconds_mean},
                          {"oracle_seconds_mean", row.oracle_seconds_mean},
                          {"computed_share", row.computed_share}});
    }
    return {{"clock", "virtual"},
            {"frame_mib", options.frame_mib},
            {"coders", options.coders},
            {"trace_tokens", options.trace_tokens},
            {"recompute_tokens_per_s", options.recompute_tokens_per_s},
            {"small_recompute_tokens_per_s", options.small_recompute_tokens_per_s},
            {"seed", options.seed},
            {"steady", std::move(steady)},
            {"traces", std::move(traces)},
            {"fronts", std::move(fronts)},
            {"trace_step_s", options.trace_step_s},
            {"command", command_line()}};
}

void print(const KvRates& rates) {
    std::printf("seconds until all KV is there, on a virtual clock\n%-14s %7s %8s  %-58s %9s %10s\n", "KV of", "tokens",
                "Gbit/s", "", "seconds", "MB sent");
    for (const SteadyRow& row : rates.steady) {
        std::printf("%-14s %7u %8.1f  %-58s %9.3f %10.1f\n", row.shape.c_str(), row.tokens, row.gbits,
                    row.policy.c_str(), row.seconds, row.wire_bytes / 1e6);
    }
    std::printf("\n%-8s %9s  %-58s %6s %6s %12s %8s %6s %9s\n", "traces", "deadline", "", "of", "late", "oracle isn't",
                "mean s", "bits", "lossless");
    for (const TraceRow& row : rates.traces) {
        std::printf("%-8s %8.1fs  %-58s %6u %6u %12u %8.3f %6.2f %8.0f%%\n", row.traces.c_str(), row.deadline_s,
                    row.policy.c_str(), row.hand_offs, row.late, row.late_where_an_oracle_is_not, row.seconds_mean,
                    row.bits_per_value, 100 * row.lossless_share);
    }
    std::printf(
        "\nwithout loss, the other side computes from the front; due at so many times what an oracle takes\n"
        "%-8s %9s  %-30s %6s %6s %8s %9s %9s\n",
        "traces", "deadline", "", "of", "late", "mean s", "oracle s", "computed");
    for (const FrontRow& row : rates.fronts) {
        std::printf("%-8s %8.2fx  %-30s %6u %6u %8.3f %9.3f %8.0f%%\n", row.traces.c_str(), row.slack,
                    row.policy.c_str(), row.hand_offs, row.late, row.seconds_mean, row.oracle_seconds_mean,
                    100 * row.computed_share);
    }
}

}  // namespace

Result<KvRates> play_kv_rates(const KvRatesOptions& options) {
    KvRates rates;
    play_steady(options, rates.steady);
    if (!options.traces_path.empty()) {
        const auto traces = read_traces(options.traces_path);
        if (!traces) { return base::pass_on(traces); }
        play_traces(options, "file", *traces, rates.traces);
        play_fronts(options, "file", *traces, rates.fronts);
    }
    if (options.random_traces > 0) {
        const std::vector<Trace> traces = random_traces(options);
        play_traces(options, "random", traces, rates.traces);
        play_fronts(options, "random", traces, rates.fronts);
    }
    return rates;
}

int bench_kv_rates_main(const KvRatesOptions& options) {
    const auto rates = play_kv_rates(options);
    if (!rates) {
        std::fprintf(stderr, "bench rates: %s\n", rates.error().message.c_str());
        return 1;
    }
    return tell_figures("bench rates", options.out_path, json_of(options, *rates), [&] { print(*rates); });
}

void add_bench_kv_rates(CLI::App& app, KvRatesOptions& options) {
    const auto above_zero = CLI::Range(1e-6, 1e6);
    app.add_option("--gbits", options.gbits, "of wires that stay as they are")
        ->check(above_zero)
        ->capture_default_str();
    app.add_option("--tokens", options.tokens, "of KV over those")
        ->check(CLI::Range(1u, 10'000'000u))
        ->capture_default_str();
    app.add_option("--traces", options.traces_path, "wires that change: JSON lines, {\"bw\": [Gbit/s, ...]}");
    app.add_option("--random-traces", options.random_traces, "more of them, ten steps of 0.1 to 10 Gbit/s each")
        ->check(CLI::Range(0u, 100'000u))
        ->capture_default_str();
    app.add_option("--trace-tokens", options.trace_tokens, "of KV over those, evenly over the steps of each")
        ->check(CLI::Range(100u, 1'000'000u))
        ->capture_default_str();
    app.add_option("--deadlines", options.deadlines_s, "seconds")->check(above_zero)->capture_default_str();
    app.add_option("--trace-step", options.trace_step_s, "seconds of a step, where the other side computes meanwhile")
        ->check(above_zero)
        ->capture_default_str();
    app.add_option("--slacks", options.slacks, "there all is due at so many times what an oracle takes")
        ->check(CLI::Range(1.0, 1e6))
        ->capture_default_str();
    app.add_option("--frame-mib", options.frame_mib, "KV in a frame")
        ->check(CLI::Range(0.0625, 1024.0))
        ->capture_default_str();
    app.add_option("--coders", options.coders, "cores that code at each side")
        ->check(CLI::Range(0.01, 1000.0))
        ->capture_default_str();
    app.add_option("--recompute", options.recompute_tokens_per_s, "tokens a second that the other side computes, 8B")
        ->check(above_zero)
        ->capture_default_str();
    app.add_option("--recompute-small", options.small_recompute_tokens_per_s, "the same of SmolLM2-135M")
        ->check(above_zero)
        ->capture_default_str();
    app.add_option("--seed", options.seed, "of the random traces")->capture_default_str();
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the tables");
    app.footer(
        "Hand-offs of KV on a virtual clock, over wires that stay as they are and wires that change: every codec,\n"
        "computing again, CacheGen's streamer, this server's rate controller, and one that knows the future.");
}

}  // namespace bench
