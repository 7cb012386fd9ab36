#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <utility>

#include "base/ids.h"

namespace kv_cache {

using base::BlockId;

/// Blocks [first, first + count).
struct BlockRun {
    BlockId first{};
    std::uint32_t count = 0;

    /// The id behind the last block.
    BlockId end() const { return BlockId{base::raw(first) + count}; }
    bool operator==(const BlockRun&) const = default;
};

/// The free blocks of a worker as maximal contiguous runs: best fit, split, coalesce. Knows ids only; the bytes live in
/// KvStore, and who owns a block that is not free is KvCache's affair. Not thread-safe: owned by the step thread.
/// Source: FastSwitch (Shen et al., 2024), dynamic block groups.
class BlockPool {
public:
    /// All of `blocks_total` blocks are free; 0: a worker that keeps no KV.
    explicit BlockPool(std::uint32_t blocks_total);

    /// `count` (> 0) blocks from the smallest free run that holds them (ties: the lower id); empty when none does.
    std::optional<BlockRun> take_best_fit(std::uint32_t count);
    /// The largest free run (ties: the lower id), whole; empty when nothing is free.
    std::optional<BlockRun> take_largest();
    /// Up to `count` blocks from exactly `first` on: how a group grows in place. The number taken, perhaps 0.
    std::uint32_t take_at(BlockId first, std::uint32_t count);
    /// Frees a run and joins it with its free neighbours. A block that is free already stops the process.
    void give_back(BlockRun run);

    std::uint32_t blocks_total() const { return blocks_total_; }
    std::uint32_t blocks_free() const { return blocks_free_; }
    /// first block -> blocks; maximal: no two runs touch.
    const std::map<std::uint32_t, std::uint32_t>& free_runs() const { return runs_; }

private:
    using Runs = std::map<std::uint32_t, std::uint32_t>;
    using Sizes = std::set<std::pair<std::uint32_t, std::uint32_t>>;
    void insert(std::uint32_t first, std::uint32_t count);
    Runs::iterator erase(Runs::iterator run);

    std::uint32_t blocks_total_;
    std::uint32_t blocks_free_ = 0;
    Runs runs_;
    Sizes by_size_;  // (blocks, first block) of the same runs
    // Memory of the run that was erased last, for the next one that is inserted: a run that changes takes none.
    Runs::node_type spare_run_;
    Sizes::node_type spare_size_;
};

}  // namespace kv_cache
