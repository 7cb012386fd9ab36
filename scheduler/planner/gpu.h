#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "scheduler/planner/beside.h"
#include "scheduler/planner/host_work.h"
#include "scheduler/planner/model.h"
#include "scheduler/planner/profile_tables.h"

namespace scheduler::planner {

/// What a datasheet says of a GPU and of the node it comes in.
struct Gpu {
    std::string name;
    double memory_bytes = 0;
    double bytes_per_second = 0;          // of its memory
    double flops = 0;                     // dense, bfloat16
    Link node_link;                       // to the other GPUs of its node, one way
    double network_bytes_per_second = 0;  // of each GPU to other nodes, one way
    std::uint32_t gpus_per_node = 8;
    double cost = 1;          // of a GPU for an hour, in any unit; compared, nothing else
    std::uint32_t cores = 0;  // of a machine without GPUs, on which all workers compute; 0: each has what it needs
    Beside beside;            // of workers on these cores
    HostWork host;            // on them
};

/// By name, whatever its case: a100, h100, h200, l40s, rtx4090, rtxpro6000. Empty for another.
std::optional<Gpu> find_gpu(std::string_view name);
std::vector<std::string> gpu_names();

/// Of a GPU's memory: what drivers and libraries leave, times the share that an engine is given (0.9), less 2 GiB for
/// activations and workspaces.
double engine_bytes(const Gpu& gpu);

/// Tokens of KV that a worker has room for. 0 or less: its weights do not fit.
double kv_tokens_of(const Gpu& gpu, const Model& model, const Split& split);

}  // namespace scheduler::planner
