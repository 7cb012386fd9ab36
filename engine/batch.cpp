#include "engine/batch.h"

#include <utility>

namespace engine {

void EntrySampler::assign(const SamplerContext& context) {
    params = *context.params;
    position = context.position;
    const bool of_generated = params.presence_penalty != 0 || params.frequency_penalty != 0;
    const bool of_all = params.repetition_penalty != 1;
    const auto copy = [](std::span<const base::TokenId> from, bool is_wanted, std::vector<base::TokenId>& to) {
        to.clear();
        if (is_wanted) { to.assign(from.begin(), from.end()); }
    };
    copy(context.prompt, of_all, prompt);
    copy(context.generated, of_all || of_generated, generated);
    copy(context.masked_tokens, true, masked_tokens);
}

SamplerContext EntrySampler::context() const {
    return {.params = &params,
            .position = position,
            .prompt = prompt,
            .generated = generated,
            .masked_tokens = masked_tokens};
}

void BatchEntry::set_blocks(std::span<const base::BlockId> blocks, std::size_t group) {
    if (block_tables.size() <= group) { block_tables.resize(group + 1); }
    block_tables[group].assign(blocks.begin(), blocks.end());
}

Batch::Batch(Batch&& other) noexcept
    : keep_logits(other.keep_logits),
      mask_wait(other.mask_wait),
      entries_(std::move(other.entries_)),
      count_(std::exchange(other.count_, 0)) {}

Batch& Batch::operator=(Batch&& other) noexcept {
    keep_logits = other.keep_logits;
    mask_wait = other.mask_wait;
    entries_ = std::move(other.entries_);
    count_ = std::exchange(other.count_, 0);
    return *this;
}

BatchEntry& Batch::add() {
    if (count_ == entries_.size()) { entries_.emplace_back(); }
    BatchEntry& entry = entries_[count_++];
    entry.sequence = {};
    entry.tokens.clear();
    entry.position = 0;
    for (std::vector<base::BlockId>& table : entry.block_tables) {
        table.clear();
    }
    entry.sample = false;
    static const SamplingParams defaults;
    entry.sampler.assign({.params = &defaults});
    entry.score = false;
    entry.score_targets.clear();
    entry.pooling = Pooling::none;
    entry.mask = nullptr;
    return entry;
}

}  // namespace engine
