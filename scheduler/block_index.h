#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <utility>
#include <vector>

#include "base/block_hash.h"

namespace scheduler {

/// Which workers are believed to hold which KV blocks. Workers are named by their slot (0, 1, ...; small and reused).
/// A block that few hold has their slots, one that many hold a bit for each slot. Not thread-safe.
///
/// Bounded: when `blocks_max` different hashes are known, further ones are not learned (a request then misses a prefix
/// hit, nothing else) until workers report others as removed.
class BlockIndex {
public:
    explicit BlockIndex(std::size_t blocks_max);

    void add(std::uint32_t slot, base::BlockHash hash);
    /// No effect when it is not believed to be there.
    void remove(std::uint32_t slot, base::BlockHash hash);
    /// Forgets all blocks of a slot. O(blocks).
    void clear(std::uint32_t slot);

    /// leading[slot] becomes the number of blocks from the start of `chain` that the slot holds without a hole, for
    /// slots 0 to `slots` - 1. O(chain * slots / 64 + slots).
    void match(std::span<const base::BlockHash> chain, std::size_t slots, std::vector<std::uint32_t>& leading) const;

    std::size_t blocks() const { return blocks_; }
    std::size_t blocks_of(std::uint32_t slot) const { return slot < counts_.size() ? counts_[slot] : 0; }
    bool holds(std::uint32_t slot, base::BlockHash hash) const;

private:
    friend class PrefixSearch;
    friend class ComingBlocks;
    using Row = std::uint32_t;
    static constexpr Row kNoRow = std::numeric_limits<Row>::max();
    static constexpr std::uint32_t kFew = 6;

    struct Block {
        base::BlockHash hash;
        std::uint32_t holders = 0;  // 0: the row is free
        std::uint32_t wide = kNoRow;
        std::array<std::uint32_t, kFew> few{};  // the holders' slots, while `wide` is kNoRow
    };
    Row find(base::BlockHash hash) const;
    Row insert(base::BlockHash hash);
    void erase(Row row);
    void grow_table();
    std::size_t home_of(base::BlockHash hash) const { return static_cast<std::size_t>(hash.low) & (table_.size() - 1); }
    std::size_t place_of(Row row) const;

    std::uint64_t* bits(std::uint32_t wide) { return bits_.data() + std::size_t{wide} * words_; }
    const std::uint64_t* bits(std::uint32_t wide) const { return bits_.data() + std::size_t{wide} * words_; }
    bool has(const Block& block, std::uint32_t slot) const;
    void make_wide(Block& block);
    void take_out(Row row, std::uint32_t slot);
    void widen(std::size_t words);
    template <class Visit>
    void for_each_holder(const Block& block, Visit visit) const;

    std::size_t blocks_max_;
    std::size_t blocks_ = 0;
    std::vector<Row> table_;  // open addressing by hash, a power of two, at most half full
    std::vector<Block> rows_;
    std::vector<Row> free_rows_;
    std::size_t words_ = 1;            // 64-bit words of a wide row
    std::vector<std::uint64_t> bits_;  // [wide rows][words]: slots that hold the block
    std::vector<std::uint32_t> free_wide_;
    std::vector<std::size_t> counts_;  // [slots]
};

/// How much of one prompt the workers hold, found by halving instead of walking: with 100,000 tokens it looks at some
/// dozens of its blocks. Exact for workers that hold the blocks of a chain from its start on, which all do: they evict
/// the last block of a chain first. For one with a hole the answer may be any of the lengths at which it lacks the next
/// block.
///
/// Borrows the index, which must not change meanwhile, and the chain.
class PrefixSearch {
public:
    PrefixSearch(const BlockIndex& index, std::span<const base::BlockHash> chain);

    /// Leading blocks that this slot holds.
    std::uint32_t blocks_of(std::uint32_t slot);
    /// Leading blocks of whoever holds most; 0: nobody has any.
    std::uint32_t deepest() const { return deepest_; }
    /// Leading blocks of those who hold most but for those who hold `blocks` (at least 1); 0: nobody else has any.
    std::uint32_t next_below(std::uint32_t blocks);
    /// How many hold the first `blocks` (> 0) blocks.
    std::uint32_t holders(std::uint32_t blocks);
    /// Calls `visit(slot)` for every `stride`-th of them, in ascending order of slots or in that of their arrival.
    template <class Visit>
    void for_each_holder(std::uint32_t blocks, std::uint32_t stride, Visit visit);

private:
    BlockIndex::Row row_at(std::uint32_t position);
    template <class Holds>
    std::uint32_t longest(Holds holds);

    const BlockIndex& index_;
    std::span<const base::BlockHash> chain_;
    std::uint32_t deepest_ = 0;
    std::vector<std::pair<std::uint32_t, BlockIndex::Row>> looked_;  // by position, ascending
};

template <class Visit>
void BlockIndex::for_each_holder(const Block& block, Visit visit) const {
    if (block.wide == kNoRow) {
        for (std::uint32_t i = 0; i < block.holders; ++i) {
            visit(block.few[i]);
        }
        return;
    }
    const std::uint64_t* words = bits(block.wide);
    for (std::size_t word = 0; word < words_; ++word) {
        for (std::uint64_t left = words[word]; left != 0; left &= left - 1) {
            visit(static_cast<std::uint32_t>(word * 64) + static_cast<std::uint32_t>(std::countr_zero(left)));
        }
    }
}

template <class Visit>
void PrefixSearch::for_each_holder(std::uint32_t blocks, std::uint32_t stride, Visit visit) {
    const BlockIndex::Row row = row_at(blocks - 1);
    if (row == BlockIndex::kNoRow) { return; }
    std::uint32_t number = 0;
    index_.for_each_holder(index_.rows_[row], [&](std::uint32_t slot) {
        if (number++ % stride == 0) { visit(slot); }
    });
}

}  // namespace scheduler
