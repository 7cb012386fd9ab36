#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <set>
#include <unordered_map>
#include <unordered_set>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/ids.h"

namespace kv_cache {

using base::BlockHash;
using base::BlockId;

/// What the index gained and lost since the event before. Numbers rise by one from event to event, snapshots included;
/// a snapshot replaces everything before it. It comes in parts: its first events have `snapshot` set and say some of
/// what is in the index, those after them the rest beside what has changed. So `stored` may name what was told before,
/// and `removed` what was not. They share no hash, so their order does not matter. Changes are sorted.
struct BlockEvents {
    std::uint64_t number = 0;  // 1, 2, ...
    bool snapshot = false;
    std::vector<BlockHash> stored;
    std::vector<BlockHash> removed;  // empty where a snapshot begins
};

/// A block with its name, and the name of the block before it in its chain (empty for the first).
struct NamedBlock {
    BlockId block{};
    BlockHash hash;
    std::optional<BlockHash> parent;
};

/// Hears of each name of an index as it comes and goes, in order. Called from inside the index: it must not call back.
class NameListener {
public:
    virtual ~NameListener() = default;
    /// `parent`: the name of the block before it in its chain; empty for the first.
    virtual void named(const BlockHash& hash, const std::optional<BlockHash>& parent) = 0;
    virtual void unnamed(const BlockHash& hash) = 0;
};

/// Full, immutable blocks by their hash, and the order in which those that nobody uses are given up.
/// Not thread-safe: owned by the step thread.
class PrefixIndex {
public:
    PrefixIndex() = default;

    /// The block of that name, whether in use or idle.
    std::optional<BlockId> find(const BlockHash& hash) const;
    /// Names a block that is in use. `parent` is the hash of the block before it in the chain; empty for the first.
    /// False, and nothing changes, when the name is taken.
    bool insert(const BlockHash& hash, std::optional<BlockHash> parent, BlockId block);
    /// Nobody uses the block any more: it may be evicted from now on, as the last one of those that may; or before all
    /// that became idle otherwise.
    void set_idle(const BlockHash& hash, bool goes_first = false);
    /// Somebody uses it again. It must be idle.
    void set_in_use(const BlockHash& hash);
    /// An idle block was useful: it becomes the last to be evicted. Nothing happens when it is in use or unknown.
    void touch(const BlockHash& hash);
    /// The idle block that was idle for longest among those without an idle block behind them in their chain (ends of
    /// chains go before their beginnings). Empty when none is idle.
    std::optional<NamedBlock> next_to_evict() const;
    /// Forgets the block that next_to_evict() names, and gives it out. Empty when none is idle.
    std::optional<BlockId> evict();

    /// Forgets a block that is in use: its name means nothing any more.
    void remove(const BlockHash& hash);

    /// `listener` is told all names that there are, and from now on each change; null: nobody is. Borrowed.
    void listen(NameListener* listener);

    /// Named blocks, idle or not.
    std::uint32_t size() const { return static_cast<std::uint32_t>(entries_.size()); }
    std::uint32_t blocks_idle() const { return blocks_idle_; }

    /// Changes since the last events; empty when there were none (no number is used up).
    std::optional<BlockEvents> take_events();
    /// Events with a part of a snapshot: `part` is in the index. The `first` begins it (changes that were not taken are
    /// forgotten: its parts tell them), the others bring the changes since the last events, too. The caller names in
    /// its parts whatever stays in the index from the first to the last of them; it may be both.
    BlockEvents take_part(std::vector<BlockHash> part, bool first, bool last);
    /// Nobody wants to know what has changed up to now.
    void forget_events();
    /// Changes that wait to be taken.
    std::size_t events_pending() const { return stored_.size() + removed_.size(); }

private:
    struct Entry {
        BlockId block{};
        std::optional<BlockHash> parent;
        std::uint64_t idle_since = 0;  // 0: in use
    };
    using Entries = std::unordered_map<BlockHash, Entry>;

    void make_idle(const BlockHash& hash, Entry& entry, bool goes_first);
    void make_busy(const BlockHash& hash, Entry& entry);

    Entries entries_;
    std::unordered_map<BlockHash, std::uint32_t> idle_children_;  // idle blocks that name this hash as parent; > 0
    std::set<std::pair<std::uint64_t, BlockHash>> evictable_;     // (idle since, hash): idle, without idle children
    std::uint32_t blocks_idle_ = 0;
    std::uint64_t idle_counter_ = std::uint64_t{1} << 62;
    std::uint64_t first_counter_ = 0;  // of those that go first
    std::uint64_t event_number_ = 0;
    std::unordered_set<BlockHash> stored_;   // since the last event
    std::unordered_set<BlockHash> removed_;  // since the last event
    bool telling_ = false;                   // between the parts of a snapshot
    NameListener* listener_ = nullptr;
};

}  // namespace kv_cache
