#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/model_shape.h"
#include "base/result.h"
#include "proto/roles.h"
#include "sim/plan_file.h"

namespace cli {

/// Settings as keys and values, for a config below what files and `--set` say.
using Settings = std::vector<std::pair<std::string, std::string>>;
/// As a file of settings: one key a line.
std::string settings_yaml(const Settings& settings);

/// What a machine has that a plan may ask for.
struct PlanSite {
    std::vector<std::string> gpus;  // names, as their driver has them
    std::string gpu_problem;        // why none can be used; empty: they can
    std::uint32_t cores = 1;
};
/// This machine; looks for GPUs only where the plan names some.
PlanSite site_of(const sim::PlanFile& plan);

/// A pool of the plan as workers of this machine.
struct PlacedPool {
    proto::Role role = proto::Role::mixed;
    std::uint32_t count = 1;
    std::uint32_t threads = 0;               // of each worker; 0: not said
    std::uint64_t kv_tokens = 0;             // room of each
    std::optional<std::uint32_t> first_gpu;  // its workers have this one and those behind it; empty: as settings say
    std::uint32_t batch_sequences_max = 0;
    std::uint32_t batch_tokens_max = 0;
    std::uint64_t kv_host_bytes = 0;  // of each: levels below its KV pool; 0: none
    std::uint64_t kv_disk_bytes = 0;

    /// Of its worker `number` (from 0), without the size of the KV pool.
    Settings settings(std::uint32_t number) const;
};

/// A placement file as processes of one machine.
struct Placement {
    std::vector<PlacedPool> pools;
    Settings settings;                  // of scheduler and gateway: the SLO classes
    std::vector<std::string> warnings;  // what is not as planned, for people
};

/// Error: invalid_argument for roles that cannot serve a request, unimplemented for workers of several GPUs,
/// failed_precondition for GPUs that are not there, resource_exhausted for more workers than one machine starts. Pure.
base::Result<Placement> place_here(const sim::PlanFile& plan, const PlanSite& site);

/// Whether the plan was made for such a model. What it does not say is a warning. Error: invalid_argument with what
/// differs. Pure.
base::Result<std::optional<std::string>> check_planned_model(const sim::PlanFile& plan, const base::ModelShape& shape);

/// Reads the file at `path` and places it on this machine.
struct ReadPlacement {
    sim::PlanFile plan;
    Placement placement;
};
base::Result<ReadPlacement> read_placement(const std::string& path);

}  // namespace cli
