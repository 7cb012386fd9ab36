#pragma once

#include <string>
#include <string_view>

#include "base/result.h"
#include "scheduler/planner/model.h"
#include "scheduler/planner/step_times.h"

namespace scheduler::planner {

/// Links between the GPUs of a worker.
struct Link {
    double bytes_per_second = 0;
    double latency_seconds = 0;
};

/// Seconds to add up `bytes` over `ranks` GPUs, as a ring: each byte goes out twice, less one part; one latency, as
/// measured calls have it. 0 for one GPU.
double all_reduce_seconds(const Link& link, double bytes, double ranks);

/// LLMServingSim's tables of one GPU, model and tensor split (casys-kaist/LLMServingSim, profiler): microseconds of one
/// layer's operators. Texts; names for messages.
struct ProfileText {
    std::string name;               // PREFIX, for messages and sources
    std::string_view dense;         // layer, tokens, time_us
    std::string_view attention;     // prefill_chunk, kv_prefill, n_decode, kv_decode, time_us
    std::string_view per_sequence;  // layer, sequences, time_us
    std::string_view moe = {};      // tokens, activated_experts, time_us; empty for a dense model
};

/// Times of `model` from them; embedding and final norm once a step, the other operators once a layer, norms twice.
/// `link` for the two all-reduces of a layer when `tensor` > 1. Without host overhead.
/// Error: invalid_argument that names table, column and row. Pure.
base::Result<StepTimes> times_of_profile(const ProfileText& text, const Model& model, std::uint32_t tensor,
                                         const Link& link);

}  // namespace scheduler::planner
