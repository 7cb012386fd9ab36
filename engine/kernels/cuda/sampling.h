#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "engine/kernels/cuda/launch.h"

/// engine::Sampler on the device: the same operations in the same order (double sums in ascending order of tokens in
/// chunks of 256, or of rank; own exponentials; Philox keyed by seed, choice and position; ties to the lower token), so
/// that the same logits give the same token and log-probability as on the host.
/// See launch.h for what holds for every launch function.
namespace engine::cuda {

/// Most tokens that can be ranked on the device: top_k up to this, and top_p whose tokens are not more. Beyond it a row
/// answers SampleStatus::needs_host and the caller runs engine::Sampler over the row's logits.
constexpr std::int32_t kRankedTokensMax = 1024;
/// Room per row for the most likely tokens; more: needs_host.
constexpr std::int32_t kTopLogprobsMax = 32;

struct LogitBias {
    std::int32_t token = 0;
    float bias = 0;
};

/// One token that penalties concern. Each token at most once per row. Where repetition_penalty is 1 only generated
/// tokens need be listed; where the other two are 0 the count does not matter.
struct PenalisedToken {
    std::int32_t token = 0;
    std::uint32_t generated = 0;  // how often it stands among the generated tokens
};

/// How one row of logits becomes a token: engine::SamplingParams and SamplerContext, flattened.
struct SamplingRow {
    std::int32_t logits_row = kIdleRow;  // row of `logits`; negative: idle (token -1, status ok)
    float temperature = 0;
    std::uint32_t top_k = 0;
    float top_p = 1;
    float min_p = 0;
    float repetition_penalty = 1;
    float presence_penalty = 0;
    float frequency_penalty = 0;
    std::uint64_t seed = 0;
    std::uint64_t position = 0;  // prompt.size() + generated.size()
    std::uint32_t choice = 0;
    std::int32_t bias_begin = 0;  // [bias_begin, bias_end) of SamplingArguments::biases
    std::int32_t bias_end = 0;
    std::int32_t penalised_begin = 0;  // of SamplingArguments::penalised
    std::int32_t penalised_end = 0;
    std::int32_t mask_row = -1;     // row of SamplingArguments::masks, or -1
    std::int32_t masked_begin = 0;  // of SamplingArguments::masked_tokens
    std::int32_t masked_end = 0;
    std::int32_t score_target = -1;  // >= 0: no draw; token = this one, with its log-probability (Sampler::score)
    std::uint32_t logprobs = 0;      // 1: of the chosen token, from the unchanged logits
    std::uint32_t top_logprobs = 0;  // at most kTopLogprobsMax
};

enum class SampleStatus : std::int32_t {
    ok = 0,
    bad_logit = 1,   // a logit is NaN or +infinity (`token`: the lowest such)
    needs_host = 2,  // see kRankedTokensMax, kTopLogprobsMax
};

struct SampledRow {
    std::int32_t token = -1;
    SampleStatus status = SampleStatus::ok;
    float logprob = 0;
    std::uint32_t top_count = 0;
};

struct SamplingArguments {
    const float* logits = nullptr;      // [logit rows, vocabulary]; not changed
    std::int32_t vocabulary = 0;        // at most 2^20
    const SamplingRow* rows = nullptr;  // device, [row_count]
    std::int32_t row_count = 0;
    const LogitBias* biases = nullptr;          // null where no row has any
    const PenalisedToken* penalised = nullptr;  // null where no row has any
    const std::uint32_t* masks = nullptr;       // [mask rows][ceil(vocabulary / 32)]: bit set = token allowed; or null
    const std::int32_t* masked_tokens = nullptr;  // tokens that must not be chosen; null where no row has any
    float* changed = nullptr;        // scratch [row_count, vocabulary]: used by rows with biases, penalties or masks
    SampledRow* sampled = nullptr;   // out [row_count]
    std::int32_t* tokens = nullptr;  // out [row_count] or null: the tokens once more, for embed() of the next step
    std::int32_t* top_tokens = nullptr;  // out [row_count][kTopLogprobsMax]; null where no row wants any
    float* top_logprobs = nullptr;
};

/// Draws (or scores) every row; one thread block per row.
cudaError_t sample_rows(const SamplingArguments& arguments, cudaStream_t stream);

/// token[row] of the largest logit, ties to the lower token, for rows without anything else (a batch that is all greedy
/// without log-probabilities): sampled as sample_rows(), much cheaper. logits: [rows, vocabulary].
cudaError_t argmax_rows(const float* logits, std::int32_t vocabulary, std::int32_t rows, SampledRow* sampled,
                        std::int32_t* tokens, cudaStream_t stream);

}  // namespace engine::cuda
