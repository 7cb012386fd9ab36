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

/// As `bench serve` records its requests. Where gaps between tokens were not kept, `token_times` has the first and the
/// last alone.
std::vector<bench::RequestRecord> records_of(const sim::ServingTrace& trace, const sim::ServingResult& result);

}  // namespace cli
