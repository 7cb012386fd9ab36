#include "cli/simulate_plan.h"

#include <fmt/format.h>
#include <time.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdio>

#include "base/log.h"
#include "bench/report.h"
#include "bench/report_json.h"
#include "bench/workload.h"
#include "cli/heap_pages.h"
#include "cli/planning_files.h"
#include "sim/chance.h"
#include "sim/workload.h"

namespace cli {
namespace {

using base::ErrorCode;
using base::fail;
using base::pass_on;
using base::Result;

constexpr std::uint64_t kRequestsDrawn = 1000;
constexpr std::uint32_t kBlockTokens = 16;  // of a trace that names no blocks
/// Of the warm-up, as `bench serve` has them; no request of it meets the one before.
constexpr std::uint32_t kWarmupTokens = 16;
constexpr double kWarmupApart = 10;
/// Of more workers the steps of each are not told.
constexpr std::size_t kWorkersTold = 64;
/// More tokens than this are not remembered one by one.
constexpr std::uint64_t kTokenTimesMax = 20'000'000;
/// A cluster of so many workers is worth huge pages; about what one of them takes.
constexpr std::size_t kWorkersForHugePages = 256;
constexpr std::size_t kBytesPerWorker = std::size_t{256} << 10;

std::size_t workers_of(const sim::ServingOptions& options) {
    std::size_t workers = 0;
    for (const sim::ServingPool& pool : options.pools) {
        workers += pool.count;
    }
    return workers;
}

double cpu_seconds() {
    timespec now{};
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) * 1e-9;
}

base::BlockHash name_of(std::uint64_t id) {
    return {sim::mixed_bits(id), sim::mixed_bits(~id)};
}

/// Only full blocks have names: what a prompt ends with is no block yet.
Result<void> add_blocks(sim::ServingTrace& trace, const bench::PlannedRequest& planned) {
    sim::ServedRequest& request = trace.requests.back();
    request.first_block = trace.blocks.size();
    if (planned.blocks.empty()) { return {}; }
    if (planned.block_tokens != trace.block_tokens) {
        return fail(ErrorCode::invalid_argument, "rows of a trace have to have blocks of one size");
    }
    const std::uint32_t full = request.prompt_tokens / trace.block_tokens;
    for (const bench::BlockRun& run : planned.blocks) {
        for (std::uint32_t i = 0; i < run.count && request.blocks < full; ++i, ++request.blocks) {
            trace.blocks.push_back(name_of(run.first + i));
        }
    }
    return {};
}

Result<sim::ServingTrace> read_trace(const SimulateCommand& command) {
    const auto text = read_planning_file(command.trace);
    if (!text) { return pass_on(text, "--trace"); }
    sim::ServingTrace trace;
    trace.block_tokens = kBlockTokens;
    if (command.trace.ends_with(".yaml") || command.trace.ends_with(".yml")) {
        const auto workload = sim::read_fit(*text, command.trace);
        if (!workload) { return pass_on(workload, "--trace"); }
        if (workload->rate <= 0) { return fail(ErrorCode::invalid_argument, "--trace: a fit needs a rate above 0"); }
        const auto drawn =
            sim::draw_requests(*workload, workload->rate * command.rate_scale,
                               command.requests_max > 0 ? command.requests_max : kRequestsDrawn, command.seed);
        for (const sim::ClusterRequest& request : drawn) {
            trace.requests.push_back({request.arrival_s, request.prompt_tokens, request.output_tokens});
        }
        return trace;
    }
    const auto plan = bench::parse_trace(
        *text, {.time_scale = 1 / command.rate_scale, .requests = command.requests_max, .with_blocks = true});
    if (!plan) { return pass_on(plan, "--trace " + command.trace); }
    const auto named = std::find_if(plan->begin(), plan->end(), [](const auto& row) { return row.block_tokens > 0; });
    if (named != plan->end()) { trace.block_tokens = named->block_tokens; }
    trace.requests.reserve(plan->size());
    for (const bench::PlannedRequest& planned : *plan) {
        trace.requests.push_back({planned.due.count(), planned.prompt_tokens, planned.output_tokens});
        if (const auto added = add_blocks(trace, planned); !added) { return pass_on(added, "--trace"); }
    }
    return trace;
}

/// What a client of the gateway would have got.
std::string error_kind(const sim::ServedOutcome& outcome) {
    if (!outcome.error) { return ""; }
    if (outcome.tokens > 0) { return "stream_error"; }
    switch (*outcome.error) {
        case ErrorCode::invalid_argument:
            return "http_400";
        case ErrorCode::resource_exhausted:
            return "http_429";
        case ErrorCode::deadline_exceeded:
            return "http_504";
        default:
            return "http_503";
    }
}

/// What became of levels below the KV pools.
boost::json::object levels_json(const sim::LevelUse& use, std::uint32_t block_tokens, double worker_seconds) {
    boost::json::object levels;
    for (const auto& [name, copies] : use.copies) {
        levels[name] = {{"loads", copies.loads},
                        {"loads_given_up", copies.given_up},
                        {"tokens_loaded", copies.blocks_in * block_tokens},
                        {"saves", copies.saves},
                        {"tokens_saved", copies.blocks_out * block_tokens},
                        {"copies_in", copies.copies_in},
                        {"copies_out", copies.copies_out},
                        {"busy_share", copies.seconds / std::max(1e-9, worker_seconds)}};
    }
    return {{"pool_hit_tokens", use.pool_hit_tokens},
            {"levels", std::move(levels)},
            {"tokens_computed_though_there", use.tokens_computed},
            {"gave_way_and_came_back",
             {{"found_in_pool", use.back_from_pool},
              {"loaded", use.back_loaded},
              {"from_both_ends", use.back_from_both_ends},
              {"computed", use.back_computed}}}};
}

boost::json::object counts_json(const sim::ServingResult& result, std::size_t workers) {
    const sim::ServingCounts& counts = result.counts;
    const double hand_offs = std::max<double>(1, static_cast<double>(counts.hand_offs));
    boost::json::object told{
        {"workers", workers},
        {"events", counts.events},
        {"steps", counts.steps},
        {"tokens", counts.tokens},
        {"placements", counts.placements},
        {"refused", counts.refused},
        {"placed_again", counts.placed_again},
        {"preemptions", counts.preemptions},
        {"hand_offs", counts.hand_offs},
        {"hand_off_ms_mean", counts.hand_off_seconds / hand_offs * 1e3},
        {"hand_offs_recomputed", counts.recomputed},
        {"engines_busy_share", counts.busy_seconds / std::max(1e-9, result.ended_s * static_cast<double>(workers))}};
    if (workers <= kWorkersTold) {
        told["steps_each"] = boost::json::array(counts.steps_each.begin(), counts.steps_each.end());
    }
    return told;
}

std::vector<sim::KvLevel> levels_of(const sim::PlanPool& pool) {
    std::vector<sim::KvLevel> levels;
    for (const sim::PlanLevel& planned : pool.levels) {
        const bool is_host = planned.name == "host";
        levels.push_back({.name = planned.name,
                          .kv_tokens = planned.bytes / pool.kv_bytes_per_token,
                          .kv_bytes_per_token = pool.kv_bytes_per_token,
                          .load_bytes_per_second = planned.load_bytes_per_second,
                          .save_bytes_per_second = planned.save_bytes_per_second,
                          .launch_seconds = planned.launch_s,
                          .saves_through = is_host,
                          .knows_rate = !is_host,
                          .gives_up = !is_host});
    }
    return levels;
}

}  // namespace

Result<sim::ServingOptions> serving_of(const sim::PlanFile& plan) {
    sim::ServingOptions options;
    for (const sim::PlanPool& pool : plan.pools) {
        const std::string name = std::string(sluice::proto::role_name(pool.role)) + " pool";
        if (!pool.has_times) {
            return fail(ErrorCode::invalid_argument,
                        "the " + name + " has no times: make the plan again with this version's `sluice plan --out`");
        }
        if (pool.split.pipeline > 1) {
            return fail(ErrorCode::unimplemented,
                        "the " + name + " has pipelines of " + std::to_string(pool.split.pipeline) +
                            " stages, which Sluice's workers have not: make the plan with --no-pipelines");
        }
        worker::WorkerOptions limits = worker::WorkerOptions::defaults(pool.device != "this");
        limits.batch_sequences_max = pool.batch_sequences_max;
        limits.batch_tokens_max = pool.batch_tokens_max;
        limits.chunk_tokens_max = std::min(limits.chunk_tokens_max, limits.batch_tokens_max);
        options.pools.push_back({.role = pool.role,
                                 .count = pool.count,
                                 .times = &pool.times,
                                 .limits = limits,
                                 .kv_tokens = pool.kv_tokens,
                                 .threads = std::max(1u, pool.threads),
                                 .levels = levels_of(pool)});
    }
    options.cores = plan.cores;
    options.beside = plan.beside;
    options.host = plan.host;
    options.links = {.kv_bytes_per_token = plan.kv_bytes_per_token,
                     .bytes_per_second = plan.link_bytes_per_second,
                     .latency_seconds = plan.link_latency_s,
                     .layers = plan.layers,
                     .sender_seconds_per_token = plan.sender_s_per_token,
                     .receiver_seconds_per_token = plan.receiver_s_per_token};
    options.ttft_target_s = plan.ttft_s;
    options.tpot_target_s = plan.tpot_s;
    return options;
}

double add_warmup(sim::ServingTrace& trace, std::uint32_t requests) {
    if (requests == 0 || trace.requests.empty()) { return 0; }
    const double begins_s = requests * kWarmupApart;
    for (sim::ServedRequest& request : trace.requests) {
        request.arrival_s += begins_s;
    }
    const std::uint32_t prompt_tokens = trace.requests.front().prompt_tokens;
    std::vector<sim::ServedRequest> first(requests);
    for (std::uint32_t i = 0; i < requests; ++i) {
        first[i] = {.arrival_s = i * kWarmupApart, .prompt_tokens = prompt_tokens, .output_tokens = kWarmupTokens};
    }
    trace.requests.insert(trace.requests.begin(), first.begin(), first.end());
    return begins_s;
}

std::vector<bench::RequestRecord> records_of(const sim::ServingTrace& trace, const sim::ServingResult& result,
                                             std::uint32_t warmup, double begins_s) {
    std::vector<bench::RequestRecord> records(trace.requests.size() - warmup);
    for (std::size_t i = 0; i < records.size(); ++i) {
        const sim::ServedRequest& asked = trace.requests[warmup + i];
        const sim::ServedOutcome& outcome = result.outcomes[warmup + i];
        bench::RequestRecord& record = records[i];
        record.index = i;
        record.prompt_tokens_asked = record.prompt_tokens = asked.prompt_tokens;
        record.output_tokens_asked = asked.output_tokens;
        record.due = record.sent = bench::Seconds(asked.arrival_s - begins_s);
        record.end = bench::Seconds(outcome.ended_s - begins_s);
        record.output_tokens = outcome.tokens;
        record.cached_tokens = outcome.cached_tokens;
        record.error_kind = error_kind(outcome);
        if (outcome.tokens > 0) {
            record.token_times.reserve(
                std::max<std::size_t>(outcome.tokens > 1 ? 2 : 1, outcome.token_gaps_s.size() + 1));
            record.token_times.emplace_back(outcome.first_token_s - begins_s);
        }
        for (const float gap : outcome.token_gaps_s) {
            record.token_times.push_back(record.token_times.back() + bench::Seconds(gap));
        }
        if (outcome.tokens > 1 && outcome.token_gaps_s.empty()) {
            record.token_times.emplace_back(outcome.last_token_s - begins_s);
        } else if (outcome.tokens > 1) {
            record.token_times.back() = bench::Seconds(outcome.last_token_s - begins_s);  // gaps are rounded
        }
    }
    return records;
}

Result<void> simulate_plan(const SimulateCommand& command) {
    spdlog::set_level(spdlog::level::off);  // lines of a cluster that is not there
    const auto plan_text = read_planning_file(command.plan);
    if (!plan_text) { return pass_on(plan_text, "--plan"); }
    const auto plan = sim::read_plan(*plan_text, command.plan);
    if (!plan) { return pass_on(plan, "--plan"); }
    auto options = serving_of(*plan);
    if (!options) { return pass_on(options, "--plan " + command.plan); }
    const std::size_t workers = workers_of(*options);
    if (workers >= kWorkersForHugePages) { use_huge_pages(workers * kBytesPerWorker); }
    const auto policy = sim::parse_policy(command.policy);
    if (!policy) { return pass_on(policy, "--policy"); }
    options->policy = *policy;
    options->seed = command.seed;
    if (!command.faults.empty()) {
        const auto text = read_planning_file(command.faults);
        if (!text) { return pass_on(text, "--faults"); }
        auto faults = sim::read_faults(*text, command.faults);
        if (!faults) { return pass_on(faults, "--faults"); }
        options->faults = std::move(*faults);
    }
    auto trace = read_trace(command);
    if (!trace) { return pass_on(trace); }
    const double begins_s = add_warmup(*trace, command.warmup);
    for (sim::Fault& fault : options->faults) {
        fault.at_s += begins_s;
    }
    std::uint64_t tokens = 0;
    for (const sim::ServedRequest& request : trace->requests) {
        tokens += request.output_tokens;
    }
    options->keeps_token_times = tokens <= kTokenTimesMax;

    const double cpu_begin = cpu_seconds();
    auto result = sim::simulate_serving(*options, *trace);
    if (!result) { return pass_on(result); }
    const double cpu_spent = cpu_seconds() - cpu_begin;
    const auto records = records_of(*trace, *result, trace->requests.empty() ? 0 : command.warmup, begins_s);
    for (sim::ServedOutcome& outcome : result->outcomes) {
        outcome.token_gaps_s = {};
    }
    bench::SloTargets targets;
    if (plan->ttft_s > 0) { targets.ttft = bench::Seconds(plan->ttft_s); }
    if (plan->tpot_s > 0) { targets.tpot = bench::Seconds(plan->tpot_s); }
    const bench::Report report = bench::make_report(records, targets);
    boost::json::object figures = bench::report_json(report);
    for (const char* name : {"lag_ms", "generator_cpu_s", "generator_cpu_share"}) {  // there is no generator
        figures.erase(name);
    }
    if (!options->keeps_token_times) {
        figures["itl_ms"] = nullptr;  // only first and last tokens were kept
        figures["output_tokens_peak_per_s"] = nullptr;
    }
    boost::json::object out{{"policy", sim::policy_name(options->policy)},
                            {"seed", command.seed},
                            {"rate_scale", command.rate_scale},
                            {"faults", options->faults.size()},
                            {"block_tokens", trace->block_tokens},
                            {"ttft_target_ms", plan->ttft_s * 1e3},
                            {"tpot_target_ms", plan->tpot_s * 1e3},
                            {"report", std::move(figures)},
                            {"cluster", counts_json(*result, workers)}};
    if (result->counts.terms > 0) { out["scheduler_terms"] = result->counts.terms; }
    if (!result->counts.levels.copies.empty()) {
        out["kv_levels"] =
            levels_json(result->counts.levels, trace->block_tokens, result->ended_s * static_cast<double>(workers));
    }
    if (command.records) { out["records"] = bench::records_json(records); }
    std::fprintf(stderr, "%.1f s of CPU for %llu events\n", cpu_spent,
                 static_cast<unsigned long long>(result->counts.events));
    if (command.out != "-") { std::fputs(bench::report_text(report, targets).c_str(), stdout); }
    return write_planning_file(command.out, boost::json::serialize(out) + "\n");
}

}  // namespace cli
