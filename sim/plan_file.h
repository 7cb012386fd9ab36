#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "proto/roles.h"
#include "scheduler/planner/beside.h"
#include "scheduler/planner/host_work.h"
#include "scheduler/planner/model.h"
#include "scheduler/planner/step_times.h"

namespace sim {

/// A level below the KV pool of each worker of a pool: host memory or a disk.
struct PlanLevel {
    std::string name;  // "host", "disk"
    double bytes = 0;  // that a worker has of it
    double load_bytes_per_second = 0;
    double save_bytes_per_second = 0;
    double launch_s = 0;  // of one copy
};

/// A pool of a placement file.
struct PlanPool {
    proto::Role role = proto::Role::mixed;
    std::uint32_t count = 1;
    std::string device;         // a GPU's name, or "this": the machine that was measured
    std::uint32_t threads = 0;  // compute threads that its steps were measured with; 0: not said
    scheduler::planner::Split split;
    std::uint32_t batch_sequences_max = 0;
    std::uint32_t batch_tokens_max = 0;
    double kv_tokens = 0;
    double kv_bytes_per_token = 0;  // in the pool; where there are levels
    std::vector<PlanLevel> levels;  // below it, the nearest first
    scheduler::planner::StepTimes times;
    bool has_times = false;
};

/// A placement file (plan.yaml, version 1; schema in docs/planning.md), as far as it is to be run or simulated.
struct PlanFile {
    /// What tells a model from another of its architecture.
    struct Shape {
        std::uint32_t layers = 0;
        std::uint32_t hidden = 0;
        std::uint32_t heads_kv = 0;
        std::uint32_t head_dim = 0;
        std::uint32_t vocabulary = 0;
        bool operator==(const Shape&) const = default;
    };
    struct Class {
        std::string name;
        double ttft_s = 0;  // 0: none
        double tpot_s = 0;
        double attainment = 0.9;
        double priority = 0;
    };
    std::string model;           // architecture
    std::optional<Shape> shape;  // empty: not said
    std::uint32_t cores = 0;     // of the machine that all workers compute on; 0: each has its own
    scheduler::planner::Beside beside;
    scheduler::planner::HostWork host;  // on these cores
    std::vector<PlanPool> pools;
    std::vector<Class> classes;
    double ttft_s = 0;  // targets of the class default; 0: none
    double tpot_s = 0;
    double attainment = 0.9;
    double kv_bytes_per_token = 0;  // of a hand-off, on the wire
    double link_bytes_per_second = 0;
    double link_latency_s = 0;
    std::uint32_t layers = 1;
    double sender_s_per_token = 0;  // of ServingLinks
    double receiver_s_per_token = 0;
};

/// Bounded. Errors: invalid_argument that names key and file, unimplemented for a version to come.
base::Result<PlanFile> read_plan(std::string_view yaml, const std::string& name);

/// The `times` of a pool, each line led by `indent`: what read_plan() reads. Curves and grids as they are, or fitted
/// forms; `sources` are elsewhere in the file.
std::string times_yaml(const scheduler::planner::StepTimes& times, const std::string& indent);

}  // namespace sim
