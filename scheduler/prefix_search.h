#pragma once

#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/block_hash.h"
#include "scheduler/block_index.h"

namespace scheduler {

/// How much of one prompt the workers hold, found by narrowing down where its holders change instead of walking: of a
/// prompt of 100,000 tokens some dozens of blocks are looked at, in a few rounds of look-ups that do not wait for each
/// other. Exact for workers that hold the blocks of a chain from its start on, which all do: they evict the last block
/// of a chain first. Of one with a hole the answer is some length, not below the exact one, of which it has the first
/// block and the last but not the next one; blocks behind one that nobody is seen to have count for nobody.
///
/// Borrows the index, which must not change meanwhile, and the chain. One that is used again takes no memory any more.
class PrefixSearch {
public:
    struct Bounds {
        std::uint32_t levels_max = 8;  // > 0
        /// What is held by so many need not be told from what more hold, who have less.
        std::uint32_t holders_enough = std::numeric_limits<std::uint32_t>::max();
    };
    /// Of no chain: nobody holds anything.
    PrefixSearch() = default;
    PrefixSearch(const BlockIndex& index, std::span<const base::BlockHash> chain, Bounds bounds) {
        search(index, chain, bounds);
    }
    /// What all other functions tell of from now on.
    void search(const BlockIndex& index, std::span<const base::BlockHash> chain, Bounds bounds);

    struct Level {
        std::uint32_t blocks = 0;      // the first ones
        HolderSets::Set holders = {};  // of them
    };
    /// The lengths that somebody holds and somebody else, or nobody, holds more than: the longest first, at most
    /// `levels_max` of them, none after one that `holders_enough` hold.
    std::span<const Level> levels() const { return levels_; }
    /// How many hold it.
    std::uint32_t holders(const Level& level) const { return index_->holders().size(level.holders); }
    /// Calls `visit(slot)` for every `stride`-th of them, in ascending order.
    template <class Visit>
    void for_each_holder(const Level& level, std::uint32_t stride, Visit visit) const {
        std::uint32_t number = 0;
        index_->holders().visit_while(level.holders, [&](std::uint32_t slot) {
            if (number++ % stride == 0) { visit(slot); }
            return true;
        });
    }

    /// Leading blocks that this slot holds.
    std::uint32_t blocks_of(std::uint32_t slot);
    /// Leading blocks of whoever holds most; 0: nobody has any.
    std::uint32_t deepest() const { return levels_.empty() ? 0 : levels_.front().blocks; }

private:
    /// Who holds the last of the first `blocks` blocks.
    struct Probe {
        std::uint32_t blocks = 0;
        HolderSets::Set holders = {};
    };
    struct Stretch {
        std::uint32_t begin = 0;
        std::uint32_t end = 0;  // the first length that is known to have others
    };
    bool narrow(const Bounds& bounds);
    void look();
    std::uint32_t blocks_below(std::uint32_t slot, std::uint32_t lacking);

    const BlockIndex* index_ = nullptr;  // null: there was no search yet
    std::span<const base::BlockHash> chain_;
    std::vector<Level> levels_;
    std::vector<Probe> probes_;  // ascending; the first and the last of those in a row with the same holders
    std::vector<Probe> merged_;
    std::vector<std::uint32_t> wanted_;  // lengths to look at next, ascending, none of them in probes_
    std::vector<Stretch> open_;          // in which holders change, from the longest on
    /// Of the search before, the shortest length of its levels: where a start that many prompts share ends, the next
    /// one's mostly ends there, too. It is looked at first, with the next one; 0: not known.
    std::uint32_t shared_ = 0;
};

}  // namespace scheduler
