#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "base/block_hash.h"

namespace scheduler {

/// Which workers are believed to hold which KV blocks. Workers are named by their slot (0, 1, ...; small and reused).
/// A bit per slot and hash, so that a prompt is matched against all workers at once. Not thread-safe.
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

    std::size_t blocks() const { return entries_.size(); }
    std::size_t blocks_of(std::uint32_t slot) const { return slot < counts_.size() ? counts_[slot] : 0; }
    bool holds(std::uint32_t slot, base::BlockHash hash) const;

private:
    std::uint64_t* bits(std::uint32_t row) { return bits_.data() + std::size_t{row} * words_; }
    const std::uint64_t* bits(std::uint32_t row) const { return bits_.data() + std::size_t{row} * words_; }
    bool row_is_empty(std::uint32_t row) const;
    void free_row(std::uint32_t row);
    void widen(std::size_t words);

    std::size_t blocks_max_;
    std::size_t words_ = 1;                                       // 64-bit words per row
    std::unordered_map<base::BlockHash, std::uint32_t> entries_;  // hash -> row
    std::vector<base::BlockHash> hashes_;                         // [rows]
    std::vector<std::uint64_t> bits_;                             // [rows][words]: slots that hold the block
    std::vector<std::uint32_t> free_rows_;
    std::vector<std::size_t> counts_;  // [slots]
};

}  // namespace scheduler
