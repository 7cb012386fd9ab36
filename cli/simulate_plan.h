#pragma once

#include "base/result.h"
#include "bench/record.h"
#include "cli/simulate.h"
#include "sim/plan_file.h"
#include "sim/serving.h"

namespace cli {

/// `sluice simulate --plan`: reads plan, trace and faults, plays them (sim/serving.h), writes the JSON, and a table for
/// people unless the JSON goes to standard output.
base::Result<void> simulate_plan(const SimulateCommand& command);

/// The run that a plan describes; borrows its step times. Errors: invalid_argument (a pool without times),
/// unimplemented (pipelines).
base::Result<sim::ServingOptions> serving_of(const sim::PlanFile& plan);

/// Puts so many requests before those of the trace, as `bench serve` sends them to warm a cluster up: prompts as long
/// as its first one and short answers, one after the other. Returns by how much later the trace begins, in seconds.
double add_warmup(sim::ServingTrace& trace, std::uint32_t requests);

/// As `bench serve` records its requests. Where gaps between tokens were not kept, `token_times` has the first and the
/// last alone. The first `warmup` are left out, and the others are told from `begins_s` on.
std::vector<bench::RequestRecord> records_of(const sim::ServingTrace& trace, const sim::ServingResult& result,
                                             std::uint32_t warmup = 0, double begins_s = 0);

}  // namespace cli
