#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/ids.h"
#include "base/result.h"

namespace engine {

/// How the next token of a sequence is chosen. Defaults: greedy without any change to the logits.
/// Order of operations: logit_bias, penalties, masks (stop tokens below min_tokens, a grammar's), temperature, top_k,
/// top_p, min_p.
struct SamplingParams {
    float temperature = 0;    // 0: greedy; ties go to the lower token id
    std::uint32_t top_k = 0;  // 0: off
    float top_p = 1;          // (0, 1]; 1: off
    float min_p = 0;          // [0, 1]; 0: off
    float repetition_penalty =
        1;                       // > 0; over prompt and generated tokens (Keskar et al. 2019; as Hugging Face and vLLM)
    float presence_penalty = 0;  // [-2, 2]; over generated tokens
    float frequency_penalty = 0;  // [-2, 2]; over generated tokens
    std::uint64_t seed = 0;       // random numbers are keyed by (seed, choice, absolute position): counter-based
    std::uint32_t choice = 0;
    std::vector<std::pair<base::TokenId, float>> logit_bias;  // each token at most once
    bool logprobs = false;  // of the chosen token, from the logits before temperature and cuts (OpenAI's meaning)
    std::uint32_t top_logprobs = 0;
    bool prompt_logprobs = false;
};

/// Error: invalid_argument naming the field and its range.
base::Result<void> check_sampling(const SamplingParams& params, std::uint32_t vocabulary);

struct TokenLogprob {
    base::TokenId token = 0;
    float logprob = 0;
};

/// One chosen token.
struct SampledToken {
    base::TokenId token = 0;
    float logprob = 0;              // when params.logprobs
    std::vector<TokenLogprob> top;  // params.top_logprobs best ones, best first
};

/// What the sampler may look at besides the logits. Borrowed for the call.
struct SamplerContext {
    const SamplingParams* params = nullptr;
    std::uint64_t position = 0;  // absolute, of the token that is chosen now: keys its random number
    std::span<const base::TokenId> prompt = {};
    std::span<const base::TokenId> generated = {};  // before the token that is chosen now; both only for penalties
    /// Of a grammar: bit t % 32 of word t / 32: token t may be chosen. Empty: all may.
    std::span<const std::uint32_t> allowed = {};
    std::span<const base::TokenId> masked_tokens = {};  // must not be chosen (stop tokens below min_tokens)
};

}  // namespace engine
