#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "engine/kernels/backend.h"
#include "engine/kernels/cuda/sampling.h"

namespace engine::cuda {

/// RowChoices as sample_rows() takes them. Pure; made anew for every batch.
struct SamplingTables {
    std::vector<SamplingRow> rows;  // row i: choice i, of row i of the logits
    std::vector<LogitBias> biases;
    std::vector<PenalisedToken> penalised;
    std::vector<std::int32_t> masked_tokens;
    bool wants_top = false;  // any row wants top_logprobs
    bool is_greedy = true;   // every row: the largest logit and nothing else
};
SamplingTables make_sampling_tables(std::span<const RowChoice> choices, std::uint32_t vocabulary);

}  // namespace engine::cuda
