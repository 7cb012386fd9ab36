#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/result.h"
#include "scheduler/planner/step_times.h"

namespace sim {

/// One request of a run that is replayed: what arrives and how much is asked for, nothing of what was measured.
struct ReplayRequest {
    std::string id;
    double arrival_s = 0;
    std::uint32_t input_tokens = 0;   // > 0
    std::uint32_t output_tokens = 0;  // > 0; generated to this length, whatever the tokens are
};

/// Settings of vLLM's scheduler, and the host.
struct ReplayOptions {
    std::uint32_t sequences_max = 256;  // max_num_seqs
    std::uint32_t tokens_max = 2048;    // max_num_batched_tokens
    std::uint32_t context_max = 131072;
    std::uint32_t block_tokens = 16;
    std::uint32_t blocks_total = 0;
    bool keeps_prefixes = true;  // enable_prefix_caching: what a preempted sequence finds again
    bool plans_ahead = true;     // async_scheduling: the next step is planned while one runs
    double arrival_seconds = 0;  // host: from arrival until the engine's queue has it
};

struct ReplayOutcome {
    double ttft_s = 0;             // from arrival
    std::optional<double> tpot_s;  // mean gap of the later tokens; none for one token
    double ended_s = 0;
};

struct ReplayResult {
    std::vector<ReplayOutcome> outcomes;  // in the order of the requests
    std::uint64_t steps = 0;
    std::uint64_t preemptions = 0;
    double makespan_s = 0;  // first arrival until the last token
    std::uint32_t running_max = 0;
    double kv_share_max = 0;
};

/// Plays the requests through vLLM's scheduler as its documentation of V1 has it: running sequences first and in order,
/// then waiting ones, first come first served, prompts in chunks up to `tokens_max`; where KV runs out the latest
/// sequence is preempted, computed again when there is room, and stands at the head of the queue. On a virtual clock;
/// the same input gives the same output. Error: invalid_argument for a request that can never run.
base::Result<ReplayResult> replay_vllm(const ReplayOptions& options, const scheduler::planner::StepTimes& times,
                                       const std::vector<ReplayRequest>& requests);

}  // namespace sim
