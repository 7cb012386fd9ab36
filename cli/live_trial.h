#pragma once

#include <vector>

#include "cli/plan.h"
#include "cli/plan_inputs.h"
#include "cli/plan_live.h"

namespace cli {

/// What the workers of a running cluster could do in other roles, by the planner's own simulation: the present layout
/// and the best few with care, which stand first, the best before the others.
std::vector<LiveOption> try_layouts(PlanEvaluator& evaluator, const PlanCommand& command, const LiveLayout& present);

/// Workers of each role that the rate asks for in a layout of this kind, with some to spare: those for prefill by what
/// one of them can do within the TTFT alone, those for decode within the TPOT alone. At least one of each role that the
/// layout has, none of the others.
LiveLayout workers_wanted(PlanEvaluator& evaluator, const PlanCommand& command, const LiveLayout& layout, double rate);

/// A rate is planned for as if it were so much higher.
inline constexpr double kSpare = 1.2;

}  // namespace cli
