#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/block_hash.h"
#include "scheduler/block_index.h"

namespace scheduler {

/// KV of a prompt that a worker has only in levels below its pool.
struct BelowPool {
    std::uint32_t blocks = 0;  // of those that it is believed to have, the last ones
    double seconds = 0;        // that loading them takes
};

/// Which of the blocks that workers have lie only in a level below their pool (1: the nearest), and what loading a
/// token from each takes, as the workers say. Workers are named by their slots, as in BlockIndex. Where no worker has
/// levels it holds nothing and costs nothing. Not thread-safe.
class LevelIndex {
public:
    /// Levels that are told apart; what lies deeper counts as in the last one.
    static constexpr std::uint32_t kLevels = 4;

    /// `blocks_max`: as BlockIndex, for each level; what is beyond it counts as in the pool.
    explicit LevelIndex(std::size_t blocks_max);

    /// No worker has said anything of levels.
    bool empty() const;
    /// The block lies there and nowhere nearer; 0: in the pool, or nowhere.
    void put(std::uint32_t slot, base::BlockHash hash, std::uint32_t level);
    void clear_blocks(std::uint32_t slot);
    /// Blocks and prices.
    void clear(std::uint32_t slot);
    /// Nanoseconds a token, nearest level first; 0: not known, nothing is counted for it then.
    void set_prices(std::uint32_t slot, std::span<const std::uint32_t> ns_per_token);

    /// Of the first `blocks` blocks of the chain, which the slot has. A pool keeps the beginning of a chain longer than
    /// its end, and so does each level: where that does not hold the answer is near. O(log blocks).
    BelowPool below(std::uint32_t slot, std::span<const base::BlockHash> chain, std::uint32_t blocks,
                    std::uint32_t block_tokens) const;

private:
    std::uint32_t level_of(std::uint32_t slot, base::BlockHash hash) const;

    std::vector<BlockIndex> levels_;                 // [kLevels]
    std::vector<std::vector<std::uint32_t>> price_;  // [slots], in ns a token
};

}  // namespace scheduler
