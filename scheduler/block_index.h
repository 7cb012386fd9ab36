#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "base/block_hash.h"
#include "base/huge_pages.h"
#include "scheduler/holder_sets.h"

namespace scheduler {

/// Which workers are believed to hold which KV blocks. Workers are named by their slot (0, 1, ...; small and reused).
/// One read of one cache line tells who has a block, as the number of a set of slots. Not thread-safe.
///
/// Bounded: when `blocks_max` different hashes are known, further ones are not learned (a request then misses a prefix
/// hit, nothing else) until workers report others as removed.
class BlockIndex {
public:
    explicit BlockIndex(std::size_t blocks_max);

    /// False: it was believed to be there already, or there is no room for one more hash.
    bool add(std::uint32_t slot, base::BlockHash hash);
    /// No effect when it is not believed to be there.
    void remove(std::uint32_t slot, base::BlockHash hash);
    /// Forgets all blocks of a slot. O(blocks).
    void clear(std::uint32_t slot);

    /// leading[slot] becomes the number of blocks from the start of `chain` that the slot holds without a hole, for
    /// slots 0 to `slots` - 1. O(chain + changes of holders * slots / 64 + slots).
    void match(std::span<const base::BlockHash> chain, std::size_t slots, std::vector<std::uint32_t>& leading) const;

    std::size_t blocks() const { return blocks_; }
    std::size_t blocks_of(std::uint32_t slot) const { return slot < counts_.size() ? counts_[slot] : 0; }
    bool holds(std::uint32_t slot, base::BlockHash hash) const { return sets_.has(holders_of(hash), slot); }

    /// Who holds the block, as a set of holders(). Valid until the next call that is not const.
    HolderSets::Set holders_of(base::BlockHash hash) const;
    /// Asks the processor to have ready what holders_of() will read.
    void fetch(base::BlockHash hash) const { __builtin_prefetch(&buckets_[home_of(hash)]); }
    const HolderSets& holders() const { return sets_; }

private:
    static constexpr std::uint32_t kPlaces = 3;
    /// One cache line. A block stands in the bucket of its hash or, where that is full, in the next one that is not.
    struct alignas(64) Bucket {
        std::array<std::uint64_t, kPlaces> high{};
        std::array<std::uint64_t, kPlaces> low{};
        std::array<HolderSets::Set, kPlaces> holders{};
        std::uint32_t used = 0;  // places; the first ones
    };
    using Buckets = std::vector<Bucket, base::HugePageAllocator<Bucket>>;
    struct Place {
        std::size_t bucket;
        std::uint32_t place;
    };
    std::size_t home_of(base::BlockHash hash) const {
        return static_cast<std::size_t>(hash.low) & (buckets_.size() - 1);
    }
    /// Where it stands, or would; `place` is Bucket::used then.
    Place find(base::BlockHash hash) const;
    void put(base::BlockHash hash, HolderSets::Set holders);
    void erase(Place place);
    void grow();

    std::size_t blocks_max_;
    std::size_t blocks_ = 0;
    Buckets buckets_;  // a power of two, at most two thirds of all places taken
    HolderSets sets_;
    std::vector<std::size_t> counts_;  // [slots]
};

}  // namespace scheduler
