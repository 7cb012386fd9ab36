#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "engine/kernels/cuda/sampling.h"

namespace gpu_check {

/// One row as the sampler sees it, on the host.
struct SamplingInput {
    std::vector<float> logits;
    engine::cuda::SamplingRow row;
    std::vector<engine::cuda::LogitBias> biases;
    std::vector<engine::cuda::PenalisedToken> penalised;
    std::vector<std::int32_t> masked_tokens;
    std::vector<bool> allowed;  // empty: all
};

struct SamplingOutput {
    std::int32_t token = -1;
    float logprob = 0;
    std::vector<std::int32_t> top_tokens;
    std::vector<float> top_logprobs;
    std::size_t ranked = 0;  // tokens that had to be ranked to draw
};

/// engine::Sampler in the plainest form (a full sort), with the same order of sums. Empty: a logit is NaN or +infinity.
std::optional<SamplingOutput> sample_reference(const SamplingInput& input);

}  // namespace gpu_check
