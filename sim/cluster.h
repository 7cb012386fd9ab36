#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/planner/beside.h"
#include "scheduler/planner/host_work.h"
#include "scheduler/planner/model.h"
#include "scheduler/planner/profile_tables.h"
#include "scheduler/planner/step_times.h"

namespace sim {

/// What arrives, in order of arrival. Seconds.
struct ClusterRequest {
    double arrival_s = 0;
    std::uint32_t prompt_tokens = 0;  // > 0
    std::uint32_t output_tokens = 0;  // > 0
};

/// One kind of worker. `times` is borrowed and of all its GPUs and stages together.
struct ClusterWorker {
    const scheduler::planner::StepTimes* times = nullptr;
    std::uint32_t stages = 1;  // of its pipeline: so many steps at once, each stage with one
    double kv_tokens = 1e18;
    std::uint32_t sequences_max = 256;
    std::uint32_t tokens_max = 8192;  // of a step: prompts are cut to it
    std::uint32_t threads = 1;        // that compute a step, where workers share cores
};

/// Pools of workers. With mixed ones there are no others.
struct ClusterShape {
    std::uint32_t prefill = 0;
    std::uint32_t decode = 0;
    std::uint32_t mixed = 0;
    ClusterWorker prefill_worker;
    ClusterWorker decode_worker;
    ClusterWorker mixed_worker;
    double kv_bytes_per_token = 0;  // on the wire, after a codec
    scheduler::planner::Link link;  // of each worker; 0 bytes a second: a hand-off costs nothing
    bool pushes_layers = true;      // KV leaves layer by layer while the prompt is computed (design 4.3)
    std::uint32_t layers = 1;
    bool ends_with_prefill = false;  // nobody asks for more than the first token
    /// Of the one machine whose cores all workers share; 0: each has its own. Where more threads compute than there are
    /// cores, all steps go on at the same share of their pace. Workers are then of one stage.
    std::uint32_t cores = 0;
    scheduler::planner::Beside beside = {};  // where they share them
    scheduler::planner::HostWork host = {};  // the same: done by one thread more, which has its share of the cores
};

struct ClusterOutcome {
    double ttft_s = 0;
    double tpot_s = 0;  // 0 for one token
    double ended_s = 0;
    double hand_off_s = 0;  // from the first token until decode could begin
};

struct ClusterResult {
    std::vector<ClusterOutcome> outcomes;  // in the order of the requests
    double prefill_busy = 0;  // share of the time in which a prefill (or mixed) worker's first stage had work
    double decode_busy = 0;
    double link_busy = 0;
    double kv_share_max = 0;  // of decode (or mixed) workers' KV, at its fullest
    std::uint64_t events = 0;
};

/// Plays the requests on a virtual clock, without tokens: lengths and sums, so a step costs the same whatever its
/// batch. Prompts go first come, first served to the worker with the fewest prompt tokens waiting, in steps of up to
/// `tokens_max`; a sequence decodes where most KV is free, in room for its whole answer, else its KV stays on prefill;
/// each worker sends and receives one hand-off at a time. Pure. CHECKs that every request fits a worker.
ClusterResult simulate_cluster(const ClusterShape& shape, const std::vector<ClusterRequest>& requests);

}  // namespace sim
