#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/ids.h"
#include "engine/late_mask.h"
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

/// What of the hidden states of an entry's new tokens (after the last norm) is its result, instead of a token.
/// last: of the last one. mean: over all of them, so they must be the whole text. own: of an encoder, the vector that
/// it was trained to give for the whole text; the others are of decoders.
enum class Pooling : std::uint32_t { none, last, mean, own };

/// One sequence's share of a step.
struct BatchEntry {
    base::SequenceId sequence{};
    std::vector<base::TokenId> tokens;  // new tokens: a prompt chunk, one token, or several to verify
    std::uint32_t position = 0;         // absolute position of tokens[0]; KV before it is in the blocks
    /// Of each KV group (kv_cache::KvLayout; an encoder has none): the blocks that hold the sequence, in order, for [0,
    /// position + tokens).
    std::vector<std::vector<base::BlockId>> block_tables;
    bool sample = false;                       // choose the token after the last new one
    EntrySampler sampler;                      // used when `sample`; with `score`: params.top_logprobs
    bool score = false;                        // also: log-probability of each new token's successor within `tokens`
    std::vector<base::TokenId> score_targets;  // with `score`: the token after each new token ([tokens.size()])
    Pooling pooling = Pooling::none;           // else neither `sample` nor `score`: a vector, and no logits
    /// Tokens that may be chosen, with `sample`; null: all. Waited for when the logits are there, at most
    /// Batch::mask_wait for all entries together: then the entry gets deadline_exceeded, and the others their tokens.
    std::shared_ptr<const LateMask> mask;

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
    /// A mask that comes later than this would hold up everybody else's next token for longer than they notice.
    base::Duration mask_wait = std::chrono::milliseconds(50);

private:
    std::vector<BatchEntry> entries_;  // the first `count_`; the others are memory for later
    std::size_t count_ = 0;
};

}  // namespace engine
