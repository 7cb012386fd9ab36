#include "cli/plan.h"

#include <fmt/format.h>
#include <CLI/CLI.hpp>

#include <cstdio>
#include <functional>

#include "cli/plan_inputs.h"
#include "cli/plan_live.h"
#include "cli/plan_output.h"
#include "cli/planning_files.h"
#include "cli/process.h"

namespace cli {
namespace {

using scheduler::planner::Candidate;
using scheduler::planner::Evaluate;
using scheduler::planner::SearchResult;
using scheduler::planner::SearchSpace;

Evaluate evaluate_with(PlanEvaluator& evaluator, bool is_careful, std::uint32_t seeds) {
    return [&evaluator, is_careful, seeds](const Candidate& candidate) {
        return evaluator.evaluate(candidate, is_careful, seeds);
    };
}

/// The network of the chosen pools' workers, in bytes a second: what `--link-gbits` says, or the datasheet.
double link_of(const PlanInputs& inputs, const PlanCommand& command, const Candidate& candidate) {
    if (command.link_gbits > 0) { return command.link_gbits * 1e9 / 8; }
    return inputs.gpus[candidate.gpu].gpu.network_bytes_per_second;
}

std::vector<WhatIf> ask_what_ifs(const PlanInputs& inputs, const PlanCommand& command, const SearchSpace& space,
                                 const PlanEvaluator::Conditions& conditions, const SearchResult& result) {
    struct Question {
        std::string condition;
        PlanEvaluator::Conditions conditions;
    };
    std::vector<Question> questions;
    const double link = link_of(inputs, command, result.rows[0].candidate);
    for (const double factor : {0.1, 4.0}) {
        Question question{fmt::format("with {:.4g} Gbit/s for each worker's hand-offs", link * factor * 8 / 1e9),
                          conditions};
        question.conditions.link_bytes_per_second = link * factor;
        questions.push_back(std::move(question));
    }
    Question ttft{fmt::format("with a TTFT target of {:.3g} s", inputs.targets.ttft_s / 2), conditions};
    ttft.conditions.targets.ttft_s /= 2;
    questions.push_back(std::move(ttft));
    Question tpot{fmt::format("with a TPOT target of {:.3g} s", inputs.targets.tpot_s / 2), conditions};
    tpot.conditions.targets.tpot_s /= 2;
    questions.push_back(std::move(tpot));
    std::vector<WhatIf> answers;
    for (const Question& question : questions) {
        PlanEvaluator evaluator(inputs, question.conditions);
        const auto found = scheduler::planner::search(space, evaluate_with(evaluator, false, 1));
        if (found) { answers.push_back({question.condition, found->rows[0]}); }
    }
    return answers;
}

base::Result<int> make_plan(const PlanCommand& command) {
    const auto inputs = read_plan_inputs(command);
    if (!inputs) { return base::pass_on(inputs); }
    const auto space_read = space_of(*inputs, command);
    if (!space_read) { return base::pass_on(space_read); }
    const SearchSpace& space = *space_read;
    const PlanEvaluator::Conditions conditions{.link_bytes_per_second = command.link_gbits * 1e9 / 8,
                                               .kv_ratio = command.kv_ratio,
                                               .targets = inputs->targets};
    PlanEvaluator evaluator(*inputs, conditions);
    const auto result = scheduler::planner::search(space, evaluate_with(evaluator, false, 1),
                                                   evaluate_with(evaluator, true, command.seeds));
    if (!result) {
        return base::pass_on(
            result, fmt::format("{} of {:.1f} billion weights", inputs->model.name, inputs->model.parameters() / 1e9));
    }
    const scheduler::planner::PlanRow& best = result->rows[0];
    const bool is_too_much =
        best.is_cut && command.rate > 0;  // no candidate serves the rate: one that did would be first
    const bool is_possible = best.evaluation.goodput > 0 && !is_too_much;
    const std::vector<WhatIf> what_ifs = command.no_what_ifs || !is_possible
                                             ? std::vector<WhatIf>()
                                             : ask_what_ifs(*inputs, command, space, conditions, *result);
    std::fputs(plan_text(*inputs, space, *result, what_ifs, evaluator).c_str(), stdout);
    if (best.is_cut && best.evaluation.goodput > 0) {
        std::fputs(
            fmt::format("\nThe {} cores of this machine bear {:.3g} requests a second{}: workers beyond these would "
                        "wait for each other's.\n",
                        inputs->gpus[best.candidate.gpu].gpu.cores, best.goodput,
                        is_too_much ? fmt::format(", not {:.4g}", command.rate) : std::string())
                .c_str(),
            stdout);
    }
    if (!command.json.empty()) {
        const auto done = write_planning_file(command.json, plan_json(space, *result, what_ifs));
        if (!done) { return base::pass_on(done); }
    }
    if (!is_possible) { return 1; }
    if (!command.out.empty()) {
        const auto done =
            write_planning_file(command.out, plan_yaml(*inputs, command, space, result->rows[0], evaluator));
        if (!done) { return base::pass_on(done); }
    }
    if (!command.helm_values.empty()) {
        const auto done = write_planning_file(command.helm_values, plan_helm_values(*inputs, result->rows[0]));
        if (!done) { return base::pass_on(done); }
    }
    return 0;
}

base::Result<void> make_fit(const PlanFitCommand& command) {
    const auto workload = read_workload(command.trace);
    if (!workload) { return base::pass_on(workload); }
    return write_planning_file(command.out, sim::fit_yaml(*workload));
}

}  // namespace

void add_plan(CLI::App& app, PlanCommand& command) {
    app.require_subcommand(0, 1);
    app.add_option(
        "--model", command.model,
        "the model's Hugging Face config.json, or a folder with one; a GGUF file, or a name of the model store");
    app.add_option("--gpu", command.gpus,
                   "NAME[=COST]: a100, h100, h200, l40s, rtx4090, rtxpro6000, this; COST of one for an hour, in any "
                   "unit; may be repeated");
    app.add_option("--profiles", command.profiles,
                   "folder of measured operator times (aiconfigurator's, vidur's as CSV, .gz too): files whose names "
                   "begin with the GPU's; without them its datasheet");
    app.add_option("--like", command.like,
                   "a GPU of --profiles whose tables of attention and all-reduces stand in, by the datasheets of both, "
                   "where a --gpu has none of its own");
    app.add_option("--engine-times", command.engine_times, "for --gpu this: the file of `sluice bench engine --out`");
    app.add_option("--this-cores", command.this_cores,
                   "for --gpu this: cores of the machine that all workers share; 0: each has its own; default: what "
                   "--engine-times says")
        ->check(CLI::Range(0, 4096));
    app.add_option("--this-kv-tokens", command.this_kv_tokens,
                   "for --gpu this: tokens of KV that a worker has room for")
        ->capture_default_str()
        ->check(CLI::Range(1.0, 1e12));
    app.add_option("--fitted", command.fitted, "DistServe's profile of the GPU (JSON), in place of operator times");
    app.add_option("--fitted-model", command.fitted_model, "which of its models, as facebook/opt-13b");
    app.add_option(
        "--also", command.also,
        "a unit to evaluate besides what the search finds: 2x1+1x1 (tensor x pipeline of prefill and decode) "
        "or 2x1 (mixed); may be repeated");
    app.add_option("--workload", command.workload,
                   "a trace (JSON lines with timestamp, input_length, output_length, or CSV with arrival_s, "
                   "input_tokens, output_tokens; .gz too) or a fit (.yaml) of `sluice plan fit`");
    app.add_option("--slo", command.slo,
                   "targets, in seconds or with ms, and the share of requests that has to meet both")
        ->capture_default_str();
    auto* rate = app.add_option("--rate", command.rate, "requests a second to serve at the least cost")
                     ->check(CLI::Range(1e-6, 1e7));
    app.add_option("--gpus", command.count, "GPUs to make the most of")->check(CLI::Range(1, 100'000))->excludes(rate);
    app.add_option("--link-gbits", command.link_gbits,
                   "network of each worker for hand-offs of KV; default: the GPU's datasheet")
        ->check(CLI::Range(1e-3, 1e6));
    app.add_option("--kv-ratio", command.kv_ratio, "KV on the wire by KV in memory: what a codec leaves of it")
        ->capture_default_str()
        ->check(CLI::Range(1e-3, 1.0));
    app.add_option("--kv-host", command.kv_host,
                   "BYTES,BYTES_PER_S[,SAVE_BYTES_PER_S[,LAUNCH_S]]: host memory below each worker's KV, for the "
                   "placement file (kv_levels); the search does not go by it");
    app.add_option("--kv-disk", command.kv_disk, "the same of a disk, below that");
    app.add_option("--affinity", command.affinity,
                   "high: KV goes to any node; low: prefill and decode of a unit are in one node")
        ->capture_default_str()
        ->check(CLI::IsMember({"high", "low"}));
    app.add_option("--seeds", command.seeds, "runs with other arrivals for the interval of the best candidates")
        ->capture_default_str()
        ->check(CLI::Range(1, 100));
    app.add_flag("--no-pipelines", command.no_pipelines,
                 "only workers of one stage, as Sluice's own are: what `sluice simulate --plan` can play");
    app.add_flag("--whole-workers", command.whole_workers,
                 "only workers of one GPU: what `sluice serve --plan` can start");
    app.add_flag("--no-what-ifs", command.no_what_ifs, "leave out what would change the answer");
    app.add_option("--out", command.out, "the placement file (YAML, docs/planning.md); -: standard output");
    app.add_option("--helm-values", command.helm_values, "values for the chart in helm/ (YAML)");
    app.add_option("--json", command.json, "every candidate that was tried (JSON)");
    app.add_option("--live", command.live,
                   "instead of a rate: addresses of a running cluster (the gateway, and the scheduler's --admin-port; "
                   "as `sluice top --url`). Tells which roles its workers should have and why, and changes nothing. "
                   "With --workload lengths are that trace's")
        ->delimiter(',')
        ->allow_extra_args(false);
    app.add_option("--live-model", command.live_model, "of several models there, by the gateway's name");
    app.add_option("--live-window", command.live_window_s, "seconds to watch it")
        ->capture_default_str()
        ->check(CLI::Range(0.1, 86'400.0));
    app.add_option("--api-key", command.api_key,
                   "for --live, of scope admin, where the gateway has keys; default: SLUICE_API_KEY")
        ->envname("SLUICE_API_KEY");
}

int plan_main(const PlanCommand& command) {
    if (!command.live.empty()) { return plan_live_main(command); }
    if (command.model.empty() || command.gpus.empty() || command.workload.empty()) {
        return report(
            {base::ErrorCode::invalid_argument, "plan needs --model, --gpu and --workload; see sluice plan --help"});
    }
    const auto done = make_plan(command);
    return done ? *done : report(done.error());
}

void add_plan_fit(CLI::App& app, PlanFitCommand& command) {
    app.add_option("trace", command.trace, "a trace, as --workload of `sluice plan` takes it")->required();
    app.add_option("--out", command.out, "YAML; -: standard output")->capture_default_str();
}

int plan_fit_main(const PlanFitCommand& command) {
    const auto done = make_fit(command);
    return done ? 0 : report(done.error());
}

}  // namespace cli
