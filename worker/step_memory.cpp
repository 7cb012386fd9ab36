// Who gets KV memory, who waits for it, and who gives it up; the contract stands in step_loop.h and role_part.h.
#include <algorithm>
#include <utility>

#include "base/check.h"
#include "worker/step_loop.h"

namespace worker {
namespace {

std::uint32_t size32(std::size_t size) {
    return static_cast<std::uint32_t>(size);
}

}  // namespace

base::Result<kv_cache::SequenceKv> StepLoop::open_kv(kv_cache::PrefixMatch&& prefix, std::uint32_t tokens) {
    const std::uint32_t needed = cache_.blocks_for(tokens) - size32(prefix.blocks().size());
    const std::uint32_t holders = holding_kv();
    if (holders > 0 && needed + holders > cache_.blocks_available()) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          std::to_string(needed) + " KV blocks wanted and one for each of " + std::to_string(holders) +
                              " sequences to grow into, " + std::to_string(cache_.blocks_available()) + " available");
    }
    return cache_.open(std::move(prefix), tokens);
}

std::uint32_t StepLoop::holding_kv() const {
    return size32(static_cast<std::size_t>(
        std::count_if(sequences_.begin(), sequences_.end(), [](const auto& s) { return s->kv.has_value(); })));
}

void StepLoop::admit_waiting() {
    for (const auto& sequence : sequences_) {
        if (sequence->state == SequenceState::waiting && !admit(*sequence)) { return; }  // first come, first served
    }
}

bool StepLoop::admit(Sequence& sequence) {
    const std::uint32_t tokens = size32(sequence.tokens.size());
    kv_cache::PrefixMatch match;
    if (!sequence.wants_prompt_scores()) { match = cache_.match(sequence.chain, tokens - 1); }
    const std::uint32_t hit = match.tokens();
    sequence.cached_believed = hit;
    auto opened = open_kv(std::move(match), tokens);
    if (!opened) { return false; }
    reporter_.note_prefix(tokens, hit);
    sequence.kv = std::move(*opened);
    sequence.computed_tokens = hit;
    sequence.published_blocks = hit / cache_.options().block_tokens;
    if (!sequence.output_started) { sequence.cached_tokens = hit; }
    make_running(sequence);
    part_of(sequence)->admitted(sequence);
    return true;
}

bool StepLoop::reserve_for(Sequence& sequence, std::uint32_t tokens) {
    while (true) {
        if (sequence.kv->reserve(tokens)) { return true; }
        Sequence* victim = preemption_victim(sequence);
        if (victim == nullptr) { return false; }
        reporter_.note_preemption();
        make_waiting(*victim);
        if (victim == &sequence) { return false; }
    }
}

/// The sequence that came last gives way (recompute; PagedAttention section 4.5); never one that a transfer still
/// reads.
Sequence* StepLoop::preemption_victim(const Sequence& beneficiary) {
    for (std::size_t i = sequences_.size(); i > 0; --i) {
        Sequence& candidate = *sequences_[i - 1];
        if (candidate.state != SequenceState::running || !part_of(candidate)->may_preempt(candidate)) { continue; }
        const bool alone = cache_.counts().stranded == 0 && holding_kv() == 1;
        if (&candidate == &beneficiary && alone) { return nullptr; }  // waiting would not help
        return &candidate;
    }
    return nullptr;
}

void StepLoop::make_waiting(Sequence& sequence) {
    CHECK(sequence.step_tokens == 0, "sequence " << base::raw(sequence.id) << " is in the running step");
    if (sequence.kv) { publish(sequence); }
    sequence.kv.reset();
    next_.reset();
    freed_ = true;
    extend_chain(sequence);  // what it computed may be found again when its turn comes
    sequence.computed_tokens = 0;
    sequence.published_blocks = 0;
    sequence.prompt_scores.clear();
    sequence.state = SequenceState::waiting;
    look_up_prefix(sequence);
}

/// For the load that is reported: O(blocks of the prompt), once for each time that a sequence begins to wait. The first
/// one that waits is looked up again whenever admit() tries it.
void StepLoop::look_up_prefix(Sequence& sequence) {
    sequence.cached_believed =
        sequence.wants_prompt_scores() ? 0 : cache_.cached_tokens(sequence.chain, size32(sequence.tokens.size()) - 1);
}

bool StepLoop::has_waiting_before(const Sequence& sequence) const {
    return std::any_of(sequences_.begin(), sequences_.end(), [&](const auto& other) {
        return other->state == SequenceState::waiting && other->id < sequence.id;
    });
}

}  // namespace worker
