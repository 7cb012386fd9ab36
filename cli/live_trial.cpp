#include "cli/live_trial.h"

#include <algorithm>
#include <cmath>

#include "worker/options.h"

namespace cli {
namespace {

using scheduler::planner::Candidate;
using scheduler::planner::Evaluation;

/// Layouts that are looked at with care, besides the present one.
constexpr std::size_t kCarefulMax = 2;
constexpr double kWorkersMax = 1e6;

bool is_better(const LiveOption& left, const LiveOption& right) {
    if (left.evaluation.goodput != right.evaluation.goodput) {
        return left.evaluation.goodput > right.evaluation.goodput;
    }
    return left.layout.prefill + left.layout.decode < right.layout.prefill + right.layout.decode;
}

std::uint32_t step_tokens_of(const PlanCommand& command) {
    return worker::WorkerOptions::defaults(command.gpus[0].rfind("this", 0) != 0).batch_tokens_max;
}

Evaluation evaluate(PlanEvaluator& evaluator, const PlanCommand& command, const LiveLayout& layout, bool is_careful) {
    Candidate candidate;
    candidate.step_tokens = step_tokens_of(command);
    if (layout.mixed == 0) {
        candidate.kind = Candidate::Kind::split;
        candidate.prefill_count = layout.prefill;
        candidate.decode_count = layout.decode;
        return evaluator.evaluate(candidate, is_careful, command.seeds);
    }
    Evaluation one = evaluator.evaluate(candidate, is_careful, command.seeds);  // they do not need each other
    one.goodput *= layout.mixed;
    one.low *= layout.mixed;
    one.high *= layout.mixed;
    return one;
}

}  // namespace

std::vector<LiveOption> try_layouts(PlanEvaluator& evaluator, const PlanCommand& command, const LiveLayout& present) {
    std::vector<LiveLayout> layouts = live_layouts(present.workers());
    const bool is_pure = present.mixed == 0 || present.mixed == present.workers();
    if (is_pure && std::find(layouts.begin(), layouts.end(), present) == layouts.end()) { layouts.push_back(present); }
    std::vector<LiveOption> options;
    for (const LiveLayout& layout : layouts) {
        options.push_back({layout, evaluate(evaluator, command, layout, false)});
    }
    std::stable_sort(options.begin(), options.end(), is_better);
    std::size_t rank = 0;
    // Who was looked at with care stands before who was not: one run more may say anything.
    const auto coarse = std::stable_partition(options.begin(), options.end(), [&](const LiveOption& option) {
        return rank++ < kCarefulMax || option.layout == present;
    });
    for (auto option = options.begin(); option != coarse; ++option) {
        option->evaluation = evaluate(evaluator, command, option->layout, true);
    }
    std::stable_sort(options.begin(), coarse, is_better);
    return options;
}

LiveLayout workers_wanted(PlanEvaluator& evaluator, const PlanCommand& command, const LiveLayout& layout, double rate) {
    const auto wanted = [&](Candidate::Kind kind) {
        Candidate candidate;
        candidate.kind = kind;
        candidate.step_tokens = step_tokens_of(command);
        const double goodput = evaluator.evaluate(candidate, false, 1).goodput;
        const double workers = goodput > 0 ? std::ceil(kSpare * rate / goodput) : kWorkersMax;
        return static_cast<std::uint32_t>(std::clamp(workers, 1.0, kWorkersMax));
    };
    if (layout.mixed > 0) { return {.prefill = 0, .decode = 0, .mixed = wanted(Candidate::Kind::colocated)}; }
    return {
        .prefill = wanted(Candidate::Kind::prefill_alone), .decode = wanted(Candidate::Kind::decode_alone), .mixed = 0};
}

}  // namespace cli
