// What tests and people look at; the contract stands in modelled_worker.h.
#include "sim/modelled_worker.h"

namespace sim {

std::vector<ModelledWorker::StepPart> ModelledWorker::step_parts() const {
    std::vector<StepPart> parts;
    for (const StepEntry& entry : step_) {
        parts.push_back({entry.sequence->id, entry.sequence->computed, entry.tokens, entry.samples});
    }
    return parts;
}

std::string ModelledWorker::first_sequence() const {
    if (sequences_.empty()) { return ""; }
    const Sequence& first = *sequences_.front();
    return "request " + std::to_string(first.key.request) + " epoch " + std::to_string(first.key.epoch) + " part " +
           std::to_string(static_cast<int>(first.start.part)) + " state " +
           std::to_string(static_cast<int>(first.state));
}

std::optional<std::string> ModelledWorker::violation() const {
    const kv_cache::BlockCounts counts = cache_.counts();
    const std::uint32_t sum = counts.free + counts.used + counts.cached + counts.pinned + counts.stranded;
    const auto says = [this](const std::string& what) {
        return "worker " + std::to_string(options_.index) + ": " + what;
    };
    if (sum != options_.kv.blocks_total) {
        return says(std::to_string(sum) + " blocks of " + std::to_string(options_.kv.blocks_total));
    }
    if (sequences_.empty() && leaving_.empty() && !next_copy_end() &&
        (counts.used > 0 || counts.pinned > 0 || counts.stranded > 0)) {
        return says("blocks are in use and nobody is there");
    }
    if (sequences_.size() > options_.limits->queue_requests_max) { return says("more sequences than its queue holds"); }
    if (const auto wrong = level_violation()) { return says(*wrong); }
    std::uint64_t tokens = 0;
    for (const StepEntry& entry : step_) {
        tokens += entry.tokens;
    }
    if (tokens > options_.limits->batch_tokens_max) { return says("a step of " + std::to_string(tokens) + " tokens"); }
    if (step_.size() > options_.limits->batch_sequences_max) {
        return says("a step of " + std::to_string(step_.size()) + " sequences");
    }
    for (const auto& sequence : sequences_) {
        if (sequence->kv && sequence->kv->tokens_capacity() < sequence->computed) {
            return says("a sequence has computed more than its blocks hold");
        }
        if (sequence->computed > sequence->tokens) { return says("a sequence has computed tokens that it has not"); }
    }
    return std::nullopt;
}

}  // namespace sim
