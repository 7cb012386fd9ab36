#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "cli/placement.h"
#include "cli/process.h"
#include "cli/served_models.h"
#include "cli/worker_process.h"
#include "engine/host_fit.h"

namespace cli {

/// A model that is served, and what it needs.
struct ServedNeeds {
    std::string name;
    engine::EngineNeeds needs;
};

/// Workers of one role that are made alike. Every model of the process has as many.
struct StackPool {
    worker::Role role = worker::Role::mixed;
    std::uint32_t count = 0;
    WorkerSetup setup = {};       // its sections of the settings; the rest is each worker's own
    std::uint32_t threads = 0;    // of each worker; 0: a share of the machine's cores
    std::uint64_t kv_tokens = 0;  // that the plan gives it; 0: no plan
    std::optional<std::uint32_t> first_gpu = std::nullopt;  // planned: its workers have this one and those behind it
    std::vector<std::uint64_t> kv_pool_bytes = {};  // by model, once plan_memory() has run; 0: chosen when loaded

    /// What worker `number` of the pool is made from, where the whole process has `generating` of them.
    WorkerSetup setup_of(std::uint32_t number, std::uint32_t generating) const;
};

/// Encoders run on the host, also where the settings put the models that make text on a GPU.
void put_on_host(engine::EngineOptions& options);

/// The pools of a placement file, with the settings of `flags` on top: what these change is told by a warning in the
/// log. Error: a setting that is wrong.
base::Result<std::vector<StackPool>> planned_pools(const Placement& placement, const CommonFlags& flags);

/// Holds the model against the plan it is served by, and tells what of the plan is not so here. Error:
/// invalid_argument for another model.
base::Result<void> check_against_plan(const sim::PlanFile& plan, const std::vector<StackPool>& pools,
                                      const std::vector<ServedNeeds>& models);

/// What each model needs, and the KV pools of its workers. All workers are held against the same figure of memory,
/// which the setups of `pools` and `encoder_setup` then have too. Pools of one size are seen as one: only those of a
/// plan differ. Error: as engine::inspect_model() and engine::fit_on_host().
base::Result<std::vector<ServedNeeds>> plan_memory(const std::vector<NamedModel>& models,
                                                   const std::vector<NamedModel>& encoders,
                                                   std::vector<StackPool>& pools, WorkerSetup& encoder_setup);

}  // namespace cli
