#include "engine/decoder_model.h"

#include <cstddef>
#include <utility>

#include "base/check.h"

namespace engine {

DecoderModel::DecoderModel(std::unique_ptr<DecoderParts> parts, std::uint32_t layer_group)
    : parts_(std::move(parts)), runner_(*parts_->decoder, parts_->shape.vocabulary, layer_group) {}

void DecoderModel::check(const BatchEntry& entry) const {
    const kv_cache::KvLayout& layout = parts_->kv->layout();
    const std::size_t end = entry.position + entry.tokens.size();
    CHECK(entry.block_tables.size() == layout.groups().size());
    CHECK(entry.block_tables[0].size() * layout.block_tokens() >= end, entry.block_tables[0].size()
                                                                           << " blocks for " << end << " tokens");
    // Of the blocks those that this step writes: the others are checked by who reads them (KvStore::tile() on the
    // host, StepBuffers::send() for a GPU), and a step does not become dearer with its contexts.
    const std::uint32_t block_tokens = layout.block_tokens();
    const std::uint32_t blocks_total = parts_->kv->blocks_total();
    for (std::size_t i = entry.position / block_tokens; i * block_tokens < end; ++i) {
        const base::BlockId block = entry.block_tables[0][i];
        CHECK(base::raw(block) < blocks_total, "block " << base::raw(block) << " of " << blocks_total);
    }
    CHECK(!entry.score || entry.score_targets.size() == entry.tokens.size());
    CHECK(entry.pooling == Pooling::none || (!entry.sample && !entry.score));
    CHECK(entry.pooling != Pooling::own, "a decoder has no pooling of its own");
}

}  // namespace engine
