#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/ids.h"
#include "engine/sampling.h"

namespace engine {

/// How the token after an entry's last new one is chosen: a value, with as much of the sequence's tokens as that takes.
struct EntrySampler {
    SamplingParams params;
    std::uint64_t position = 0;                // absolute, of the token that is chosen
    std::vector<base::TokenId> prompt;         // only where the parameters penalise its tokens
    std::vector<base::TokenId> generated;      // the same
    std::vector<base::TokenId> masked_tokens;  // must not be chosen (stop tokens below min_tokens)

    /// Copies what sampling will look at. Memory that is there is used again.
    void assign(const SamplerContext& context);
    /// Borrows from this.
    SamplerContext context() const;
};

/// One sequence's share of a step.
struct BatchEntry {
    base::SequenceId sequence{};
    std::vector<base::TokenId> tokens;  // new tokens: a prompt chunk, one token, or several to verify
    std::uint32_t position = 0;         // absolute position of tokens[0]; KV before it is in the blocks
    /// Of each KV group (kv_cache::KvLayout): the blocks that hold the sequence, in order, for [0, position + tokens).
    std::vector<std::vector<base::BlockId>> block_tables;
    bool sample = false;                       // choose the token after the last new one
    EntrySampler sampler;                      // used when `sample`; with `score`: params.top_logprobs
    bool score = false;                        // also: log-probability of each new token's successor within `tokens`
    std::vector<base::TokenId> score_targets;  // with `score`: the token after each new token ([tokens.size()])

    /// The block table of one KV group. Memory that is there is used again.
    void set_blocks(std::span<const base::BlockId> blocks, std::size_t group = 0);
};

/// What one forward pass works on: prompt chunks and decodes mixed. A value: nothing in it points to its maker's
/// memory, so the next step may be planned, and sequences may go, while this one runs. Entries keep their memory over
/// clear(): a batch that is filled again with what it has held before allocates nothing.
class Batch {
public:
    Batch() = default;
    Batch(const Batch&) = default;
    Batch& operator=(const Batch&) = default;
    Batch(Batch&& other) noexcept;  // `other` is empty then, and can be filled
    Batch& operator=(Batch&& other) noexcept;
    ~Batch() = default;

    /// A new entry at the end, with default values. Valid until the next add().
    BatchEntry& add();
    /// No entries.
    void clear() { count_ = 0; }

    bool empty() const { return count_ == 0; }
    std::span<const BatchEntry> entries() const { return std::span(entries_).first(count_); }

    bool keep_logits = false;  // results carry the logits of every new token (tests)

private:
    std::vector<BatchEntry> entries_;  // the first `count_`; the others are memory for later
    std::size_t count_ = 0;
};

}  // namespace engine
