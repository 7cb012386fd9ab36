#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/block_hash.h"
#include "kv_cache/kv_cache.h"

namespace worker {

/// Changes of what a worker need not compute, and where that lies.
struct KnownBlockEvents {
    kv_cache::BlockEvents events;
    /// By level below the pool, the nearest first: blocks, of those stored now or before, that only such a level has
    /// now. What is stored and not among them is in the pool.
    std::vector<std::vector<base::BlockHash>> below;
};

/// What a scheduler is told of the blocks that a worker need not compute: those of its pool and of the tiers below, as
/// one list of changes, with the nearest level that has each. A block that leaves one of them and is in another has not
/// gone. Step thread only.
class KnownBlocks {
public:
    /// The pool first. All must outlive this; whoever takes their events takes them here.
    void add(kv_cache::KvCache& cache) { caches_.push_back(&cache); }

    /// The longest prefix of `chain` in tokens that one of them holds, at most `tokens_max`. O(chain) each.
    std::uint32_t tokens(std::span<const base::BlockHash> chain, std::uint32_t tokens_max) const;

    /// As KvCache's of the same names.
    std::optional<KnownBlockEvents> take_events();
    void begin_snapshot();
    bool snapshot_unfinished() const { return telling_ < caches_.size(); }
    void forget_events();
    std::size_t events_pending() const;

private:
    /// 0: the pool; size of caches_: none of them.
    std::size_t level_of(const base::BlockHash& hash) const;

    static constexpr std::size_t kNone = static_cast<std::size_t>(-1);

    std::vector<kv_cache::KvCache*> caches_;
    std::size_t telling_ = kNone;  // who tells all it has now, or next
    bool has_begun_ = false;       // it has told a part
    bool begins_ = false;          // the next events begin a snapshot
    std::uint64_t number_ = 0;     // of the last events
};

}  // namespace worker
