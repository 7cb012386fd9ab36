#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/result.h"
#include "bench/kv_trial.h"

namespace bench {

/// What policies at the end of prefill leave of a prompt's KV, so that `bench kv` can say what they cost a model. They
/// are measured here, no worker has them. What they leave stands in KV of the same shape: attention sees exactly what
/// it would see of the shorter one. Needs a trial that keeps_queries.

struct KvLeft {
    std::vector<std::byte> kv;
    std::uint64_t bytes = 0;  // of what is left: values as they are, masks
};

/// How much a query head looks for what it has seen: the mean share of its attention, over the last repetition of
/// random tokens, that goes to where its token stood before (echo), and to what stood behind it (induction).
struct HeadScore {
    double echo = 0;
    double induction = 0;
};
/// Of one query head, over the `keys` [tokens][head_dim] of a prompt that is `repeated` tokens four times.
HeadScore score_head(const PromptQueries& queries, std::uint32_t layer, std::uint32_t head, std::span<const float> keys,
                     std::uint32_t repeated);
/// [layers][heads_q]: computes a prompt of random tokens, four times the same. Error: invalid_argument for a trial of
/// too few tokens, and those of KvTrial.
base::Result<std::vector<HeadScore>> score_heads(KvTrial& trial, std::uint32_t seed = 1);

/// [layers][kv_heads]: 1 where a KV head keeps everything, because one of its query heads is among the `percent` that
/// look back most: a fifteenth of them (at least one) by echo, the others by induction.
std::vector<std::uint8_t> retrieval_heads(std::span<const HeadScore> scores, std::uint32_t heads_q,
                                          std::uint32_t kv_heads, std::uint32_t percent);

/// RazorAttention: KV heads that look for nothing keep the first four tokens, the last fifth of the prompt, and one
/// token that stands for all others, with the mean of their keys and of their values and the weight of so many.
/// Here every token that is dropped is that one, which is the same to a softmax.
/// Source: Tang et al., RazorAttention, ICLR 2025; its window is 4,000 tokens at least.
KvLeft razor(const KvTrial& trial, std::span<const std::byte> kv, std::span<const std::uint8_t> is_retrieval);

/// ThinK: of each head's keys, `percent` of the channels are dropped, but in the last 32 tokens: those with the least
/// product of mean square of the key and of the queries of the last 32 tokens. Values stay.
/// Source: Xu et al., ThinK, ICLR 2025.
KvLeft think(const KvTrial& trial, std::span<const std::byte> kv, std::uint32_t percent);

}  // namespace bench
