#pragma once

#include <cstdint>
#include <span>

#include "base/block_hash.h"
#include "base/clock.h"
#include "worker/plan_batch.h"

namespace worker {

/// A prompt, as far as it matters who computes what it begins with.
struct SharingPrompt {
    std::span<const base::BlockHash> chain;  // of the full blocks of its tokens
    std::uint32_t tokens = 0;                // it has
    std::uint32_t computed_tokens = 0;  // that need not be computed any more: of a newcomer, what it would find now
    double due_seconds = kNever;        // until its next token is due; negative: it is late
};

/// Leading blocks that both have: a block's hash names all that is before it, too. O(log blocks).
std::uint32_t shared_blocks(std::span<const base::BlockHash> one, std::span<const base::BlockHash> other);

/// Tokens that a newcomer finds when it gets its memory after `running` has computed what both begin with; 0 where it
/// is not served better by that. Whom it serves: choices of one prompt, agents with one system prompt, a burst of
/// questions about one text. Else each of them would compute it, since all are admitted before any has. Pure.
///
/// Only behind one that the plan of a step takes before it (plan_batch: due no later, and not late while it is not), so
/// waiting costs no more than the rest of a step; and only for what is worth that: half of what it would compute, or
/// a step of `step_tokens`.
std::uint32_t awaited_prefix(const SharingPrompt& newcomer, const SharingPrompt& running, std::uint32_t block_tokens,
                             std::uint32_t step_tokens);

/// Whether a newcomer may still wait like that: at most half of the time that it had until its first token is due, and
/// never longer than `wait_max`.
bool may_wait_for_prefix(base::Duration waited, double due_seconds, base::Duration wait_max);

}  // namespace worker
