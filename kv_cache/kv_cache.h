#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/block_hash.h"
#include "base/ids.h"
#include "base/result.h"
#include "kv_cache/block_pool.h"
#include "kv_cache/prefix_index.h"

namespace kv_cache {

using base::Result;

class KvCache;

/// Blocks of a pool that one part of a snapshot covers: some 100 microseconds of a step thread, 256 KiB of hashes.
inline constexpr std::uint32_t kSnapshotPartBlocks = 16'384;

/// How many blocks are in which state; the sum is always `blocks_total`.
struct BlockCounts {
    std::uint32_t free = 0;
    std::uint32_t used = 0;      // of a sequence or a match, reserved tails included
    std::uint32_t cached = 0;    // published, nobody uses them; given up when room is needed
    std::uint32_t pinned = 0;    // used, and source or target of a transfer
    std::uint32_t stranded = 0;  // nobody uses them, but a transfer still touches them
    bool operator==(const BlockCounts&) const = default;
};

/// References to the longest cached prefix of a prompt; gives them back when it dies. Default: no prefix. Movable.
/// Belongs to the step thread; must not outlive its KvCache.
class PrefixMatch {
public:
    PrefixMatch() = default;
    PrefixMatch(PrefixMatch&& other) noexcept;
    PrefixMatch& operator=(PrefixMatch&& other) noexcept;
    ~PrefixMatch();

    /// In sequence order.
    std::span<const BlockId> blocks() const { return blocks_; }
    /// Tokens covered: a multiple of the block size.
    std::uint32_t tokens() const;

private:
    friend class KvCache;
    PrefixMatch(KvCache& cache, std::vector<BlockId> blocks) : cache_(&cache), blocks_(std::move(blocks)) {}

    KvCache* cache_ = nullptr;
    std::vector<BlockId> blocks_;
};

/// The KV blocks of one sequence: a shared, immutable prefix, then a group of its own. Gives everything back when it
/// dies: published blocks become cached, others free, held ones stranded. Movable.
/// Belongs to the step thread; must not outlive its KvCache.
class SequenceKv {
public:
    SequenceKv();  // closed: may only be assigned, destroyed and asked is_open()
    SequenceKv(SequenceKv&& other) noexcept;
    SequenceKv& operator=(SequenceKv&& other) noexcept;
    ~SequenceKv();

    bool is_open() const { return state_ != nullptr; }

    /// Makes sure that `tokens` tokens in all have blocks; never gives any back. Grows in place where the blocks behind
    /// are free; else takes another run. Evicts cached blocks, then takes the reserved tails of other sequences, when
    /// too few are free.
    /// Error: resource_exhausted; nothing has changed then.
    [[nodiscard]] Result<void> reserve(std::uint32_t tokens);
    /// Gives back the blocks that hold none of the first `tokens` tokens. What is written next lands behind them, so
    /// `tokens` must not lie inside a published block (a multiple of the block size is always fine).
    void truncate(std::uint32_t tokens);

    /// The block table: block i holds tokens [i * block_tokens, (i + 1) * block_tokens). Valid until the next reserve,
    /// truncate or move.
    std::span<const BlockId> blocks() const;
    /// The same as maximal contiguous runs, in sequence order: one copy each.
    std::vector<BlockRun> runs() const;
    /// The first so many blocks hold what the chain's hashes say, and others may be told: they came from the cache or
    /// were published. 0 once the sequence publishes no more (keep_private(), KvCache::drop_prefixes()).
    std::uint32_t blocks_published() const;
    /// `blocks().size() * block_tokens`.
    std::uint32_t tokens_capacity() const;
    /// Tokens of the prefix that came from the cache: never written by this sequence.
    std::uint32_t prefix_tokens() const;

    /// The first `chain.size()` blocks are full, computed and checked, and have these hashes (the chain from token 0
    /// on): from now on `KvCache::match` finds them. A block whose hash is indexed already stays private. Calls with
    /// longer chains of the same tokens follow each other; a chain that is not longer than before does nothing.
    void publish(std::span<const BlockHash> chain);

    /// What the blocks behind the published ones hold is not what their hash names (KV that came with loss, and all
    /// that is computed from it): publish() does nothing any more.
    void keep_private();
    /// Nobody will find what it computes from now on.
    bool is_private() const;

    /// Its conversation is over: the blocks that only sequences of the conversation had are the first to be evicted
    /// once nobody uses them. No effect without a conversation.
    void give_up_first();

    /// Closes now: as the destructor does.
    void close();

private:
    friend class KvCache;
    struct State;
    explicit SequenceKv(std::unique_ptr<State> state);

    std::unique_ptr<State> state_;
};

/// Blocks that a transfer reads or writes. They are not reused while this lives, even when their sequence is closed
/// (then they are *stranded*, and become cached or free at the end of the hold). Default: holds nothing. Movable.
/// Belongs to the step thread; must not outlive its KvCache.
class BlockHold {
public:
    BlockHold() = default;
    BlockHold(BlockHold&& other) noexcept;
    BlockHold& operator=(BlockHold&& other) noexcept;
    ~BlockHold();

    /// In sequence order.
    std::span<const BlockId> blocks() const { return blocks_; }
    /// Ends the hold now: as the destructor does.
    void release();

private:
    friend class KvCache;
    BlockHold(KvCache& cache, std::vector<BlockId> blocks) : cache_(&cache), blocks_(std::move(blocks)) {}

    KvCache* cache_ = nullptr;
    std::vector<BlockId> blocks_;
};

/// Who owns which KV block of a worker. Knows ids, not bytes (KvStore has those), so the simulator uses it as it is.
/// Not thread-safe: owned by the step thread. All leases must be gone before it is destroyed (else it stops the
/// process). Sources: PagedAttention (Kwon et al., SOSP 2023); FastSwitch (Shen et al., 2024) for block groups.
class KvCache {
public:
    struct Options {
        std::uint32_t blocks_total = 0;   // 0: of a worker that keeps no KV
        std::uint32_t block_tokens = 16;  // > 0
        /// Blocks that a group takes at once when it begins a run, or the longest run where no more lie free together:
        /// the rest is a reserved tail into which it grows, and which others may take when nothing else is left. A long
        /// sequence takes room for half as much as it has then, while all tails together are at most a quarter of the
        /// pool; cached blocks are not given up for more than an eighth of it. 1: no tails.
        /// Evictions come in portions of this size too (at most a sixteenth of the pool), so that what they free is
        /// contiguous. > 0.
        std::uint32_t group_blocks_initial = 8;
    };
    explicit KvCache(Options options);
    ~KvCache();
    KvCache(const KvCache&) = delete;
    KvCache& operator=(const KvCache&) = delete;

    /// The longest indexed prefix of `chain` in full blocks that covers at most `tokens_max` tokens. A prompt needs at
    /// least one token computed: callers pass its tokens - 1.
    PrefixMatch match(std::span<const BlockHash> chain, std::uint32_t tokens_max);

    /// A sequence that begins with the matched prefix and has blocks for `tokens` (> 0, at least the prefix) tokens in
    /// all. All or nothing; evicts cached blocks, then takes reserved tails, when too few are free. What it publishes
    /// belongs to `conversation` (0: none) until a sequence of another one finds it.
    /// Error: resource_exhausted, with the numbers; then nothing has changed and `prefix` is still the caller's.
    [[nodiscard]] Result<SequenceKv> open(PrefixMatch&& prefix, std::uint32_t tokens, std::uint64_t conversation = 0);

    /// Blocks [first_block, first_block + count) of the sequence's table are source or target of a transfer.
    [[nodiscard]] BlockHold hold(const SequenceKv& sequence, std::uint32_t first_block, std::uint32_t count);
    /// The same for blocks that no sequence need have: once the match is gone they are stranded while the hold lives
    /// (match() goes on to find them), and cached afterwards.
    [[nodiscard]] BlockHold hold(const PrefixMatch& match);

    /// From now on match() finds nothing of what was computed until now: cached blocks become free, those in use keep
    /// their bytes and lose their names, and no open sequence publishes any more. The number of blocks that match()
    /// could have found. O(blocks_total).
    std::uint32_t drop_prefixes();

    /// A free block that holds the KV of this name already, from before this object: match() finds it from now on, and
    /// it is the last to be evicted. False, and nothing has changed, when it is not free or its name is taken.
    /// `parent`: the name of the block before it in its chain; empty for the first.
    bool adopt(BlockId block, const BlockHash& hash, std::optional<BlockHash> parent);
    /// The blocks of `match` from the `first`-th on do not hold what their names say: match() no longer finds them, and
    /// they become free when nobody uses them.
    void forget(const PrefixMatch& match, std::uint32_t first);

    BlockCounts counts() const;
    /// What open() and reserve() can get at most now: free, cached, and reserved tails (for reserve: of all sequences).
    std::uint32_t blocks_available() const;
    /// Blocks that hold `tokens` tokens.
    std::uint32_t blocks_for(std::uint32_t tokens) const;
    const Options& options() const { return options_; }

    /// How many of `chain`'s leading tokens match() would find now, at most `tokens_max`. O(chain); takes no reference.
    std::uint32_t cached_tokens(std::span<const BlockHash> chain, std::uint32_t tokens_max) const;

    /// Changes of what match() can find since the last call, for the scheduler (prefix_index.h); with them the next
    /// part of a snapshot, where one was begun. Empty when there is nothing to tell.
    std::optional<BlockEvents> take_events();
    /// From now on take_events() tells everything, beginning anew, in parts of at most `part_blocks` (> 0) blocks of
    /// the pool: the step thread never stops to copy a large index.
    void begin_snapshot(std::uint32_t part_blocks = kSnapshotPartBlocks);
    bool snapshot_unfinished() const { return part_blocks_ > 0; }
    void forget_events() { index_.forget_events(); }
    /// As PrefixIndex::listen, whatever becomes of the events.
    void listen(NameListener* listener) { index_.listen(listener); }
    std::size_t events_pending() const { return index_.events_pending(); }

    /// The free runs, for tests and metrics of fragmentation.
    const BlockPool& pool() const { return pool_; }

private:
    friend class PrefixMatch;
    friend class SequenceKv;
    friend class BlockHold;

    struct Block {
        std::uint32_t references = 0;  // sequences and matches
        std::uint32_t holds = 0;
        bool indexed = false;            // `hash` names this block
        bool goes_first = false;         // when it is nobody's, it is the first to be evicted
        std::uint64_t conversation = 0;  // whose alone it is; 0: anybody's
        std::optional<BlockHash> hash;   // also of a private duplicate
    };

    Block& at(BlockId id) { return blocks_[base::raw(id)]; }
    void add_reference(BlockId id);
    void drop_reference(BlockId id);
    void add_hold(BlockId id);
    BlockHold hold(std::vector<BlockId> blocks);
    void drop_hold(BlockId id);
    /// The last user or hold has gone: cached when named, else free.
    void retire(BlockId id);

    /// Adds blocks to the table: the reserved tail, then in place, then further runs. All or nothing.
    Result<void> grow(SequenceKv::State& state, std::uint32_t blocks_more);
    void make_room(std::uint32_t blocks_more);
    void take_tails(std::uint32_t blocks_more, std::uint32_t kept);
    /// The coldest cached block leaves the index: nobody's now, and not yet free. Empty when none is cached.
    std::optional<BlockId> evict();
    void append(SequenceKv::State& state, BlockRun run);
    /// Appends the first `needed` blocks of a run taken from the pool, reserves the others. The number appended.
    std::uint32_t append_and_reserve(SequenceKv::State& state, BlockRun run, std::uint32_t needed);
    void give_back_tail(SequenceKv::State& state, std::uint32_t count);
    void cut(SequenceKv::State& state, std::uint32_t blocks_kept);
    void publish(SequenceKv::State& state, std::span<const BlockHash> chain);

    const Options options_;
    BlockPool pool_;
    PrefixIndex index_;
    std::vector<Block> blocks_;                         // by id
    std::map<std::uint64_t, SequenceKv::State*> open_;  // by number of opening
    std::uint64_t opened_ = 0;
    std::uint32_t leases_ = 0;           // matches and holds that are alive and not empty
    std::uint32_t blocks_reserved_ = 0;  // sum of all tails
    std::uint32_t blocks_pinned_ = 0;
    std::uint32_t blocks_stranded_ = 0;
    std::uint32_t part_blocks_ = 0;    // of the snapshot that is being told; 0: none is
    std::uint32_t snapshot_next_ = 0;  // the first block that it has not told
};

}  // namespace kv_cache
