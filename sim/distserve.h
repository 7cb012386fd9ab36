#pragma once

#include <cstdint>
#include <vector>

#include "scheduler/planner/step_times.h"

namespace sim {

/// A request of DistServe's simulator. Milliseconds.
struct DistserveRequest {
    double arrival_ms = 0;
    std::uint32_t prompt_tokens = 0;
    std::uint32_t output_tokens = 0;
};

struct DistserveOutcome {
    double ttft_ms = 0;
    double tpot_ms = 0;
};

/// What its simulator does that no engine does, or that biases its result (LLMServe/DistServe, simdistserve, commit
/// 82831f1). All on: its published numbers.
struct DistserveQuirks {
    bool first_stage_overhead = true;    // 2 ms + 0.0001 ms for each token of context
    bool stage_overhead_ms = true;       // prefill: one more ms for each pipeline stage
    bool decodes_one_too_many = true;    // as many decode steps as tokens, although prefill gave the first
    double decode_context_max = 50'000;  // tokens of a decode batch, whatever the GPU holds; 0: no such bound
};

/// A cluster of its: prefill and decode instances, or (`colocated`) instances that do both, prefill first, as vLLM did
/// then. Forms in milliseconds.
struct DistserveCluster {
    scheduler::planner::FittedForms prefill;
    scheduler::planner::FittedForms decode;
    std::uint32_t prefill_instances = 1;
    std::uint32_t prefill_stages = 1;
    std::uint32_t decode_instances = 1;
    std::uint32_t decode_stages = 1;
    bool colocated = false;           // prefill_instances of prefill_stages do both
    double prefill_tokens_max = 1e7;  // of a batch: the KV capacity
    DistserveQuirks quirks;
};

/// Pure; the same input gives the same output. Outcomes in the order of the requests, which arrive in that order.
std::vector<DistserveOutcome> simulate_distserve(const DistserveCluster& cluster,
                                                 const std::vector<DistserveRequest>& requests);

}  // namespace sim
