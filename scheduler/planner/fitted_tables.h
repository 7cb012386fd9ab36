#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/result.h"
#include "scheduler/planner/beside.h"
#include "scheduler/planner/host_work.h"
#include "scheduler/planner/step_times.h"

namespace scheduler::planner {

/// DistServe's profile of a GPU (simdistserve/estimators/profile_data/*.json): for each model and tensor split the
/// coefficients of its fitted forms. In milliseconds, as the file has them.
/// Error: invalid_argument for another file; not_found, with what there is, for a model or split that is not in it.
base::Result<FittedForms> read_fitted_forms(std::string_view json, const std::string& model, std::uint32_t tensor);

/// The same in seconds, as the times of a worker's steps.
base::Result<StepTimes> times_of_fitted(std::string_view json, const std::string& model, std::uint32_t tensor);

/// The figures of `sluice bench engine --out`: whole steps of this machine's engine on a model. Fitted to them by least
/// squares on relative errors: prompts with a square where three lengths say so; decodes as they are, straight from one
/// batch to the next, where a larger batch never takes less. What a token of context costs a decode step is told by
/// figures of one batch with different contexts; where there are none it follows from the bytes that the last one read
/// each second. Error: invalid_argument with what is missing.
base::Result<StepTimes> times_of_bench(std::string_view json, double kv_bytes_per_token);

/// Compute threads that they were measured with, the cores of the machine, what steps cost each other, and what is done
/// beside the engines (`host`, which live runs tell: scripts/bench-fidelity); 0: it does not say.
struct MeasuredMachine {
    std::uint32_t threads = 0;
    std::uint32_t cores = 0;
    Beside beside;               // nothing where it does not say
    HostWork host;               // the same
    double between_seconds = 0;  // that an engine stands still between two steps
};
MeasuredMachine machine_of_bench(std::string_view json);

}  // namespace scheduler::planner
