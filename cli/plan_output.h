#pragma once

#include <string>
#include <vector>

#include "cli/plan_inputs.h"
#include "scheduler/planner/search.h"

namespace cli {

/// What would be chosen under another condition.
struct WhatIf {
    std::string condition;  // "with 25 Gbit/s between workers"
    scheduler::planner::PlanRow best;
};

/// The table of candidates, why the first is best, what would change it. For people.
std::string plan_text(const PlanInputs& inputs, const scheduler::planner::SearchSpace& space,
                      const scheduler::planner::SearchResult& result, const std::vector<WhatIf>& what_ifs,
                      PlanEvaluator& evaluator);

/// plan.yaml, version 1 (docs/planning.md has its schema).
std::string plan_yaml(const PlanInputs& inputs, const PlanCommand& command,
                      const scheduler::planner::SearchSpace& space, const scheduler::planner::PlanRow& chosen,
                      PlanEvaluator& evaluator);

/// Values for the chart in helm/: workers of each role and their GPUs.
std::string plan_helm_values(const PlanInputs& inputs, const scheduler::planner::PlanRow& chosen);

/// All rows with their figures.
std::string plan_json(const scheduler::planner::SearchSpace& space, const scheduler::planner::SearchResult& result,
                      const std::vector<WhatIf>& what_ifs);

}  // namespace cli
