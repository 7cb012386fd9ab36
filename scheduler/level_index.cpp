#include "scheduler/level_index.h"

#include <algorithm>

namespace scheduler {

LevelIndex::LevelIndex(std::size_t blocks_max) {
    for (std::uint32_t level = 0; level < kLevels; ++level) {
        levels_.emplace_back(blocks_max);
    }
}

bool LevelIndex::empty() const {
    return std::all_of(levels_.begin(), levels_.end(), [](const BlockIndex& level) { return level.blocks() == 0; });
}

void LevelIndex::put(std::uint32_t slot, base::BlockHash hash, std::uint32_t level) {
    for (std::uint32_t other = 0; other < kLevels; ++other) {
        if (levels_[other].blocks_of(slot) > 0) { levels_[other].remove(slot, hash); }
    }
    if (level > 0) { levels_[std::min(level, kLevels) - 1].add(slot, hash); }
}

void LevelIndex::clear_blocks(std::uint32_t slot) {
    for (BlockIndex& level : levels_) {
        level.clear(slot);
    }
}

void LevelIndex::clear(std::uint32_t slot) {
    clear_blocks(slot);
    if (slot < price_.size()) { price_[slot].clear(); }
}

void LevelIndex::set_prices(std::uint32_t slot, std::span<const std::uint32_t> ns_per_token) {
    if (ns_per_token.empty() && slot >= price_.size()) { return; }
    if (slot >= price_.size()) { price_.resize(slot + 1); }
    price_[slot].assign(ns_per_token.begin(),
                        ns_per_token.begin() + std::min<std::ptrdiff_t>(kLevels, std::ssize(ns_per_token)));
}

std::uint32_t LevelIndex::level_of(std::uint32_t slot, base::BlockHash hash) const {
    for (std::uint32_t level = 0; level < kLevels; ++level) {
        if (levels_[level].blocks_of(slot) > 0 && levels_[level].holds(slot, hash)) { return level + 1; }
    }
    return 0;
}

BelowPool LevelIndex::below(std::uint32_t slot, std::span<const base::BlockHash> chain, std::uint32_t blocks,
                            std::uint32_t block_tokens) const {
    const bool is_known = std::any_of(levels_.begin(), levels_.end(),
                                      [slot](const BlockIndex& level) { return level.blocks_of(slot) > 0; });
    BelowPool below;
    if (!is_known) { return below; }
    // The first block that lies deeper than a level, for each level.
    const auto first_beyond = [&](std::uint32_t level, std::uint32_t begin) {
        std::uint32_t end = blocks;
        while (begin < end) {
            const std::uint32_t middle = begin + (end - begin) / 2;
            if (level_of(slot, chain[middle]) > level) {
                end = middle;
            } else {
                begin = middle + 1;
            }
        }
        return begin;
    };
    std::uint32_t begin = first_beyond(0, 0);
    below.blocks = blocks - begin;
    for (std::uint32_t level = 1; level <= kLevels && begin < blocks; ++level) {
        const std::uint32_t end = first_beyond(level, begin);
        const bool has_price = slot < price_.size() && level <= price_[slot].size();
        const double ns = has_price ? price_[slot][level - 1] : 0;
        below.seconds += ns * 1e-9 * block_tokens * (end - begin);
        begin = end;
    }
    return below;
}

}  // namespace scheduler
