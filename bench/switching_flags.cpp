// `sluice bench switching`: its flags, its table and its JSON.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <cstdio>
#include <map>
#include <utility>

#include "bench/report_json.h"
#include "bench/switching.h"

namespace bench {
namespace {

constexpr std::array<std::pair<SwapMode, std::string_view>, 7> kModes = {{{SwapMode::recompute, "recompute"},
                                                                          {SwapMode::paged, "paged"},
                                                                          {SwapMode::groups, "groups"},
                                                                          {SwapMode::async, "async"},
                                                                          {SwapMode::reuse, "reuse"},
                                                                          {SwapMode::through, "through"},
                                                                          {SwapMode::ahead, "ahead"}}};

boost::json::object tail_json(const TailFigures& tail) {
    return {
        {"count", tail.count}, {"p50_s", tail.p50}, {"p95_s", tail.p95}, {"p99_s", tail.p99}, {"p99.9_s", tail.p999}};
}

/// FastSwitch's main figure: of each other mode, by round, how many times as long TBT p99.9 is with a copy for each
/// block and plane. Sorted; empty without such rounds.
std::vector<std::pair<SwapMode, std::vector<double>>> gains_of(const std::vector<SwitchingFigure>& figures) {
    std::map<SwapMode, std::map<std::uint32_t, double>> p999;  // by mode and seed
    for (const SwitchingFigure& figure : figures) {
        p999[figure.mode][figure.seed] = figure.tbt.p999;
    }
    const std::map<std::uint32_t, double> of_paged = p999[SwapMode::paged];
    std::vector<std::pair<SwapMode, std::vector<double>>> gains;
    for (const auto& [mode, of_mode] : p999) {
        std::vector<double> gain;
        for (const auto& [seed, paged] : of_paged) {
            const auto other = of_mode.find(seed);
            if (mode != SwapMode::paged && other != of_mode.end() && other->second > 0) {
                gain.push_back(paged / other->second);
            }
        }
        std::sort(gain.begin(), gain.end());
        if (!gain.empty()) { gains.emplace_back(mode, std::move(gain)); }
    }
    return gains;
}

boost::json::object json_of(const SwitchingOptions& options, const std::vector<SwitchingFigure>& figures) {
    boost::json::array list;
    for (const SwitchingFigure& figure : figures) {
        list.push_back({{"mode", name_of(figure.mode)},
                        {"seed", figure.seed},
                        {"seconds", figure.seconds},
                        {"turns", figure.turns},
                        {"tokens", figure.tokens},
                        {"tokens_per_s", static_cast<double>(figure.tokens) / figure.seconds},
                        {"prompt_tokens", figure.prompt_tokens},
                        {"tokens_recomputed", figure.tokens_recomputed},
                        {"steps", figure.steps},
                        {"pool_blocks", figure.pool_blocks},
                        {"block_bytes", figure.block_bytes},
                        {"preemptions", figure.preemptions},
                        {"copies_out", figure.swaps.copies_out},
                        {"copies_in", figure.swaps.copies_in},
                        {"blocks_out", figure.swaps.blocks_out},
                        {"blocks_in", figure.swaps.blocks_in},
                        {"saves", figure.swaps.saves},
                        {"loads", figure.swaps.loads},
                        {"copying_s", figure.swaps.seconds},
                        {"ahead_used_bytes", figure.ahead_used_bytes},
                        {"ahead_wasted_bytes", figure.ahead_wasted_bytes},
                        {"stall_s", figure.stall_seconds},
                        {"stall_share_p99", figure.stall_share_p99},
                        {"ttft", tail_json(figure.ttft)},
                        {"tbt", tail_json(figure.tbt)}});
    }
    boost::json::object set_up = {{"users", options.users},
                                  {"conversations", options.conversations},
                                  {"turns_mean", options.turns_mean},
                                  {"think_s", options.think_s},
                                  {"memory_share", options.memory_share},
                                  {"pattern", options.pattern},
                                  {"update_steps", options.update_steps}};
    if (options.model_dir.empty()) {
        set_up["user_tokens"] = options.user_tokens;
        set_up["answer_tokens"] = options.answer_tokens;
        set_up["gpu"] = boost::json::object{{"parameters", options.gpu.parameters},
                                            {"block_bytes", options.gpu.block_bytes(16)},
                                            {"bytes_per_s", options.gpu.bytes_per_second},
                                            {"flops", options.gpu.flops},
                                            {"used", options.gpu.used},
                                            {"step_s", options.gpu.step_seconds},
                                            {"link_bytes_per_s", options.gpu.link_bytes_per_second},
                                            {"launch_s", options.gpu.launch_seconds}};
    } else {
        set_up["threads"] = options.threads;
        set_up["joined"] = options.joined;
    }
    boost::json::object gains;
    for (const auto& [mode, gain] : gains_of(figures)) {
        gains[name_of(mode)] = boost::json::array(gain.begin(), gain.end());
    }
    return {{"set_up", std::move(set_up)},
            {"figures", std::move(list)},
            {"paged_tbt_p99.9_over", std::move(gains)},
            {"machine", machine_json()},
            {"command", command_line()}};
}

void print(const SwitchingOptions& options, const std::vector<SwitchingFigure>& figures) {
    std::printf("%u users, %u conversations, priorities %s every %u steps, memory for %.0f %%%s\n", options.users,
                options.conversations, options.pattern.c_str(), options.update_steps, options.memory_share * 100,
                options.model_dir.empty() ? "; a modelled GPU, virtual time" : "");
    std::printf("%-10s %5s %8s %21s %21s %9s %9s %10s %10s %9s\n", "", "seed", "tokens/s", "TTFT p95 p99 p99.9 s",
                "TBT p95 p99 p99.9 s", "stall s", "at p99", "copies", "MB moved", "computed");
    std::printf("%110s\n", "again");
    for (const SwitchingFigure& figure : figures) {
        std::printf("%-10s %5u %8.1f %6.2f %6.2f %7.2f %6.3f %6.3f %7.3f %9.2f %8.1f%% %10llu %10.0f %9llu\n",
                    std::string(name_of(figure.mode)).c_str(), figure.seed,
                    static_cast<double>(figure.tokens) / figure.seconds, figure.ttft.p95, figure.ttft.p99,
                    figure.ttft.p999, figure.tbt.p95, figure.tbt.p99, figure.tbt.p999, figure.stall_seconds,
                    figure.stall_share_p99 * 100,
                    static_cast<unsigned long long>(figure.swaps.copies_out + figure.swaps.copies_in),
                    static_cast<double>(figure.swaps.blocks_out + figure.swaps.blocks_in) * figure.block_bytes / 1e6,
                    static_cast<unsigned long long>(figure.tokens_recomputed));
    }
    for (const auto& [mode, gain] : gains_of(figures)) {
        std::printf("TBT p99.9 paged over %-10s %.1f in the median of %zu rounds, %.1f to %.1f\n",
                    std::string(name_of(mode)).c_str(), gain[gain.size() / 2], gain.size(), gain.front(), gain.back());
    }
}

}  // namespace

std::string_view name_of(SwapMode mode) {
    return kModes.at(static_cast<std::size_t>(mode)).second;
}

base::Result<SwapMode> swap_mode_of(std::string_view name) {
    std::string known;
    for (const auto& [mode, its_name] : kModes) {
        if (name == its_name) { return mode; }
        known += (known.empty() ? "" : ", ") + std::string(its_name);
    }
    return base::fail(base::ErrorCode::invalid_argument,
                      "there is no mode '" + std::string(name) + "'; there are: " + known);
}

int bench_switching_main(const SwitchingOptions& options) {
    const auto figures = measure_switching(options);
    if (!figures) {
        std::fprintf(stderr, "bench switching: %s\n", figures.error().message.c_str());
        return 1;
    }
    return tell_figures("bench switching", options.out_path, json_of(options, *figures),
                        [&] { print(options, *figures); });
}

void add_bench_switching(CLI::App& app, SwitchingOptions& options) {
    CLI::Option* const model =
        app.add_option("--model", options.model_dir, "folder of a real model; none: a modelled GPU on a virtual clock");
    app.add_option("--dialogues", options.dialogues_path,
                   "of a real model: .jsonl, packed or not, with \"turns\", a list of [role, text]")
        ->needs(model);
    app.add_option("--threads", options.threads, "of a real engine")
        ->check(CLI::Range(1u, 1024u))
        ->capture_default_str();
    app.add_option("--packed-dir", options.packed_dir, "as engine.packed_dir");
    app.add_option("--users", options.users, "who talk at once")->check(CLI::Range(2u, 4096u))->capture_default_str();
    app.add_option("--conversations", options.conversations, "in all")
        ->check(CLI::Range(1u, 1'000'000u))
        ->capture_default_str();
    app.add_option("--turns", options.turns_mean, "mean of a conversation")
        ->check(CLI::Range(1.0, 1000.0))
        ->capture_default_str();
    app.add_option("--think", options.think_s, "mean seconds before a turn")
        ->check(CLI::Range(1e-3, 1e4))
        ->capture_default_str();
    app.add_option("--user-tokens", options.user_tokens, "mean, without dialogues")
        ->check(CLI::Range(4.0, 4096.0))
        ->capture_default_str();
    app.add_option("--answer-tokens", options.answer_tokens, "mean, without dialogues")
        ->check(CLI::Range(4.0, 4096.0))
        ->capture_default_str();
    app.add_option("--join", options.joined, "turns of a dialogue that become one")
        ->check(CLI::Range(1u, 100u))
        ->capture_default_str();
    app.add_option("--memory-share", options.memory_share, "of what all who talk at once hold in the end")
        ->check(CLI::Range(0.01, 4.0))
        ->capture_default_str();
    app.add_option("--pattern", options.pattern, "of priorities")
        ->check(CLI::IsMember({"random", "markov"}))
        ->capture_default_str();
    app.add_option("--update-every", options.update_steps, "steps after which priorities change")
        ->check(CLI::Range(1u, 1'000'000u))
        ->capture_default_str();
    app.add_option("--mode", options.modes,
                   "recompute, paged, groups, async, reuse, through, ahead; repeated; none: all");
    app.add_option("--rounds", options.rounds, "of all modes, each with a seed of its own")
        ->check(CLI::Range(1u, 1000u))
        ->capture_default_str();
    app.add_option("--seed", options.seed, "of the first round")->capture_default_str();
    app.add_option("--launch-us", "of one copy on the modelled GPU; 2.5 where it is not given")
        ->check(CLI::Range(0.0, 1e4))
        ->each([&options](const std::string& text) { options.gpu.launch_seconds = std::stod(text) * 1e-6; });
    app.add_option("--link-gbps", "GB/s between the modelled GPU and host memory; 25 where it is not given")
        ->check(CLI::Range(0.1, 1e4))
        ->each([&options](const std::string& text) { options.gpu.link_bytes_per_second = std::stod(text) * 1e9; });
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
    app.footer(
        "FastSwitch's experiment (Shen, Li, Gao, 2024): more conversations are alive than KV memory holds, and their\n"
        "priorities change as they talk. The same step loop with each way to move what gives way, a step further each\n"
        "time: computed again; a copy for each block, layer, K or V; groups; beside the steps; reused; written "
        "through; loaded ahead of need.");
}

}  // namespace bench
