#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"
#include "scheduler/planner/model.h"
#include "scheduler/planner/profile_tables.h"
#include "sim/vllm_replay.h"

namespace sim {

/// The host that vLLM's engine runs on: two constants, the same for every GPU, fitted to one run (docs/planning.md says
/// how and how well). Of a GPU there is none: its times are those of its tables.
struct HostConstants {
    double step_seconds = 0.001;      // between two steps on the GPU: launches, inputs, outputs
    double arrival_seconds = 0.0015;  // from a request's arrival until the engine's queue has it
};

/// LLMServingSim's description of a machine and vLLM's settings, as far as a replay needs them.
struct ReplayMachine {
    double memory_bytes = 0;  // of one GPU
    double memory_share = 0.9;
    std::uint32_t tensor = 1;
    scheduler::planner::Link link;
    std::uint32_t kv_bits = 0;  // kv_cache_dtype; 0: the model's
    ReplayOptions options;      // without blocks_total
};

/// Reads both. Error: invalid_argument that names the field; unimplemented for several nodes or instances and for split
/// prefill and decode.
base::Result<ReplayMachine> read_replay_machine(std::string_view machine_json, std::string_view meta_json,
                                                const scheduler::planner::Model& model);

/// Where the memory of one GPU goes, in bytes.
struct ReplayMemory {
    double usable = 0;  // what programs may have, times the share vLLM is told
    double weights = 0;
    double activations = 0;  // of the largest step, as vLLM's profiling run makes it
    double sampler = 0;      // logits and what sorting them takes
    double graphs = 0;       // CUDA graphs and the libraries' own
    double kv = 0;           // the rest
    std::uint32_t blocks = 0;
};
/// Pure. Error: resource_exhausted with the figures when nothing is left for KV.
base::Result<ReplayMemory> replay_memory(const ReplayMachine& machine, const scheduler::planner::Model& model);

/// Lines of JSON with request_id, input_toks, output_toks, arrival_time (seconds); every other field is passed over
/// unread. Error: invalid_argument with the line.
base::Result<std::vector<ReplayRequest>> read_replay_requests(std::string_view json_lines);

/// `requests: [{request_id, ttft_ms, tpot_ms}]`, percentiles, and what the prediction rests on.
std::string replay_json(const std::vector<ReplayRequest>& requests, const ReplayResult& result,
                        const ReplayMemory& memory, const HostConstants& host,
                        const std::vector<scheduler::planner::Source>& sources);

}  // namespace sim
