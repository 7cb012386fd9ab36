#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "base/result.h"
#include "cli/plan.h"
#include "scheduler/planner/gpu.h"
#include "scheduler/planner/model.h"
#include "scheduler/planner/operator_tables.h"
#include "scheduler/planner/search.h"
#include "scheduler/planner/step_times.h"
#include "sim/goodput.h"
#include "sim/workload.h"

namespace cli {

struct PlanTargets {
    double ttft_s = 1;
    double tpot_s = 0.1;
    double attainment = 0.9;
};
/// "ttft=0.5,tpot=50ms,attainment=0.9": seconds, or with a unit. Error: invalid_argument.
base::Result<PlanTargets> parse_targets(const std::string& text);

/// A kind of GPU with its measured tables, as far as there are any. "this": a machine of whole measured steps.
struct PlannedGpu {
    scheduler::planner::Gpu gpu;
    scheduler::planner::OperatorTables tables;
    bool is_this = false;
    scheduler::planner::StepTimes this_times;
    double this_kv_tokens = 0;
    std::uint32_t this_threads = 0;                                 // that the steps were measured with; 0: not said
    std::map<std::uint32_t, scheduler::planner::StepTimes> fitted;  // by tensor split; empty: operators
};

/// A level below the KV pool of each worker, as the placement file has it.
struct PlannedLevel {
    const char* name = "host";
    double bytes = 0;
    double load_bytes_per_s = 0;
    double save_bytes_per_s = 0;
    double launch_s = 0;
};
/// "64e9,25e9,20e9,2.5e-6": bytes, bytes a second of loads and (as of loads where left out) of saves, and what starting
/// a copy takes. Error: invalid_argument.
base::Result<PlannedLevel> parse_level(const char* name, const std::string& text);

struct PlanInputs {
    scheduler::planner::Model model;
    std::vector<PlannedGpu> gpus;
    sim::Workload workload;
    PlanTargets targets;
    std::vector<PlannedLevel> levels;  // of each worker, the nearest first
};

/// Reads all files that the command names; without a workload that stays empty. Errors name file or flag.
base::Result<PlanInputs> read_plan_inputs(const PlanCommand& command);

/// A trace (JSON lines or CSV) or a FIT (YAML), by what is in it.
base::Result<sim::Workload> read_workload(const std::string& path);

/// What the search may choose from: splits whose weights, and the workload's longest sequence, fit.
/// Error: invalid_argument for a unit of `--also` that is none.
base::Result<scheduler::planner::SearchSpace> space_of(const PlanInputs& inputs, const PlanCommand& command);

/// Evaluates candidates by simulation; keeps the step times of each GPU and split. Not thread-safe; borrows `inputs`.
class PlanEvaluator {
public:
    struct Conditions {
        double link_bytes_per_second = 0;  // of each worker; 0: the GPU's network
        double kv_ratio = 1;
        PlanTargets targets;
    };
    PlanEvaluator(const PlanInputs& inputs, const Conditions& conditions) : inputs_(inputs), conditions_(conditions) {}

    scheduler::planner::Evaluation evaluate(const scheduler::planner::Candidate& candidate, bool is_careful,
                                            std::uint32_t seeds);
    const scheduler::planner::StepTimes& times(std::size_t gpu, const scheduler::planner::Split& split);
    double kv_tokens(std::size_t gpu, const scheduler::planner::Split& split) const;

    static constexpr std::uint32_t kPrefillSequences = 128;
    static constexpr std::uint32_t kDecodeSequences = 512;
    static constexpr double kLinkLatencySeconds = 1e-4;

private:
    const PlanInputs& inputs_;
    Conditions conditions_;
    std::map<std::pair<std::size_t, std::pair<std::uint32_t, std::uint32_t>>, scheduler::planner::StepTimes> times_;
};

}  // namespace cli
