// Steps that change nothing but how far each sequence is; the contract stands in modelled_worker.h.
#include <algorithm>

#include "sim/modelled_worker.h"

namespace sim {
namespace {

/// Steps that are foreseen at once: what is asked of the worker before they are over makes the rest of them useless. So
/// they are fewer where that has happened, and more where it has not.
constexpr std::uint32_t kForeseenMax = 256;

}  // namespace

void ModelledWorker::expect_no_quiet_steps() {
    if (quiet_next_ < quiet_takes_.size()) {
        quiet_max_ = std::max(kForeseenMin, quiet_max_ / 2);
    } else if (quiet_takes_.size() == quiet_max_) {
        quiet_max_ = std::min(kForeseenMax, quiet_max_ * 2);
    }
    quiet_takes_.clear();
    quiet_next_ = 0;
    quiet_until_ = step_end();
}

/// Ends of steps from now on at which this sequence gets a token that nobody is told of, publishes nothing, and needs
/// no more memory for the step after it.
std::uint32_t ModelledWorker::quiet_ends_of(const StepEntry& entry) const {
    const Sequence& sequence = *entry.sequence;
    const bool decodes = entry.tokens == 1 && entry.samples && sequence.tokens >= sequence.tokens_first;
    const bool is_on_schedule = sequence.schedule || sequence.start.tpot == base::Duration::zero();
    if (!decodes || !is_on_schedule || sequence.published_blocks < sequence.chain_blocks) { return 0; }
    if (sequence.tokens >= sequence.tokens_last) { return 0; }
    const std::uint32_t until_last = sequence.tokens_last - sequence.tokens - 1;
    const std::uint64_t room = std::uint64_t{sequence.blocks_held} * options_.kv.block_tokens;
    const std::uint64_t needed = std::uint64_t{sequence.computed} + 1;
    return room <= needed ? 0 : static_cast<std::uint32_t>(std::min<std::uint64_t>(until_last, room - needed));
}

/// The running step was planned just now: what the next ones will take, as far as they are like it. All sequences are
/// in it and decode, so no plan leaves one out, and nobody waits for memory.
void ModelledWorker::foresee_quiet_steps(double slowness) {
    expect_no_quiet_steps();
    if (step_.size() != sequences_.size()) { return; }
    std::uint32_t ends = quiet_max_;
    for (const StepEntry& entry : step_) {
        ends = std::min(ends, quiet_ends_of(entry));
        if (ends == 0) { return; }
    }
    const double sequences = step_work_.decode_sequences;
    space_.seconds.resize(ends);
    // Each decodes with one token more of each sequence, its own among them.
    options_.times->decode_seconds(sequences, step_work_.decode_context + 2 * sequences, space_.seconds);
    for (std::uint32_t step = 1; step <= ends; ++step) {
        quiet_takes_.push_back(step_takes(space_.seconds[step - 1], slowness, steps_ + step));
        quiet_until_ += quiet_takes_.back();
    }
}

void ModelledWorker::pass_quiet_steps(base::TimePoint now) {
    if (quiet_next_ == quiet_takes_.size() || step_end() > now) { return; }
    const base::TimePoint until = quiet_until_;
    std::uint32_t passed = 0;
    for (; quiet_next_ < quiet_takes_.size() && step_end() <= now; ++passed) {
        note_step();
        step_work_.decode_context += step_work_.decode_sequences;
        begin_now(step_end(), quiet_takes_[quiet_next_++]);
    }
    quiet_until_ = until;
    for (const StepEntry& entry : step_) {
        entry.sequence->computed += passed;
        entry.sequence->tokens += passed;
    }
}

}  // namespace sim
