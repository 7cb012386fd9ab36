#include "kv_cache/kv_cache.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/check.h"
#include "kv_cache/sequence_state.h"

namespace kv_cache {
namespace {

constexpr std::uint32_t kEvictionShare = 16;  // one portion of evictions takes at most this part of the pool
constexpr std::uint32_t kReservedShare = 4;   // groups that grow by more than the least reserve at most this part
constexpr std::uint32_t kKeptShare = 8;       // and what is cached goes before so much of it
/// More blocks than this are not copied while the list of them grows.
constexpr std::uint32_t kBlocksCopied = 16'384;

/// The list of blocks reaches up to the highest that was ever in use: a pool that never fills takes no memory for more.
template <class Blocks>
void make_known(Blocks& blocks, BlockId id) {
    if (base::raw(id) >= blocks.size()) { blocks.resize(base::raw(id) + std::size_t{1}); }
}

}  // namespace

KvCache::KvCache(Options options) : options_(options), pool_(options.blocks_total) {
    CHECK(options_.block_tokens > 0 && options_.group_blocks_initial > 0);
    // Address space alone. With fewer the list is copied as it grows, which takes some ten microseconds at most.
    if (options.blocks_total > kBlocksCopied) { blocks_.reserve(options.blocks_total); }
}

KvCache::~KvCache() {
    CHECK(open_.empty() && leases_ == 0, open_.size() << " sequences, " << leases_ << " matches and holds are alive");
}

std::uint32_t KvCache::blocks_for(std::uint32_t tokens) const {
    return tokens / options_.block_tokens + (tokens % options_.block_tokens != 0 ? 1 : 0);
}

PrefixMatch KvCache::match(std::span<const BlockHash> chain, std::uint32_t tokens_max) {
    const std::size_t blocks_max = std::min<std::size_t>(chain.size(), tokens_max / options_.block_tokens);
    std::vector<BlockId> found;
    for (const BlockHash& hash : chain.first(blocks_max)) {
        const auto block = index_.find(hash);
        if (!block) { break; }
        found.push_back(*block);
    }
    if (found.empty()) { return {}; }
    for (const BlockId id : found) {
        add_reference(id);
    }
    ++leases_;
    return {*this, std::move(found)};
}

std::uint32_t KvCache::cached_tokens(std::span<const BlockHash> chain, std::uint32_t tokens_max) const {
    const std::size_t blocks_max = std::min<std::size_t>(chain.size(), tokens_max / options_.block_tokens);
    std::uint32_t blocks = 0;
    while (blocks < blocks_max && index_.find(chain[blocks])) {
        ++blocks;
    }
    return blocks * options_.block_tokens;
}

void KvCache::begin_snapshot(std::uint32_t part_blocks) {
    CHECK(part_blocks > 0);
    part_blocks_ = part_blocks;
    snapshot_next_ = 0;
}

std::optional<BlockEvents> KvCache::take_events() {
    if (part_blocks_ == 0) { return index_.take_events(); }
    const bool first = snapshot_next_ == 0;
    const std::uint32_t end = snapshot_next_ + std::min(part_blocks_, options_.blocks_total - snapshot_next_);
    std::vector<BlockHash> part;
    for (std::size_t id = snapshot_next_; id < std::min<std::size_t>(end, blocks_.size()); ++id) {
        if (blocks_[id].indexed) { part.push_back(*blocks_[id].hash); }
    }
    snapshot_next_ = end;
    const bool last = snapshot_next_ == options_.blocks_total;
    if (last) { part_blocks_ = 0; }
    return index_.take_part(std::move(part), first, last);
}

Result<SequenceKv> KvCache::open(PrefixMatch&& prefix, std::uint32_t tokens, std::uint64_t conversation) {
    CHECK(tokens > 0 && tokens >= prefix.tokens(), tokens << " tokens, of which " << prefix.tokens() << " are prefix");
    CHECK(prefix.cache_ == nullptr || prefix.cache_ == this);
    const auto blocks_prefix = static_cast<std::uint32_t>(prefix.blocks_.size());
    auto state = std::make_unique<SequenceKv::State>(*this);
    state->blocks.reserve(blocks_for(tokens));
    state->blocks.assign(prefix.blocks_.begin(), prefix.blocks_.end());
    if (auto grown = grow(*state, blocks_for(tokens) - blocks_prefix); !grown) { return base::pass_on(grown); }
    // The references of the match are the sequence's from here on.
    if (prefix.cache_ != nullptr) { --leases_; }
    prefix.cache_ = nullptr;
    prefix.blocks_.clear();
    state->blocks_prefix = blocks_prefix;
    state->blocks_published = blocks_prefix;
    state->conversation = conversation;
    for (const BlockId id : state->blocks) {
        at(id).goes_first = false;
        if (at(id).indexed && at(id).conversation != conversation) { at(id).conversation = 0; }
    }
    state->number = opened_++;
    open_.emplace_hint(open_.end(), state->number, state.get());
    return SequenceKv(std::move(state));
}

BlockHold KvCache::hold(const SequenceKv& sequence, std::uint32_t first_block, std::uint32_t count) {
    CHECK(sequence.is_open() && &sequence.state_->cache == this);
    const std::vector<BlockId>& table = sequence.state_->blocks;
    CHECK(count <= table.size() && first_block <= table.size() - count,
          "blocks " << first_block << " + " << count << " of " << table.size());
    return hold(std::vector<BlockId>(table.begin() + first_block, table.begin() + first_block + count));
}

BlockHold KvCache::hold(const PrefixMatch& match) {
    CHECK(match.cache_ == nullptr || match.cache_ == this);
    return hold(std::vector<BlockId>(match.blocks_));
}

BlockHold KvCache::hold(std::vector<BlockId> blocks) {
    if (blocks.empty()) { return {}; }
    for (const BlockId id : blocks) {
        add_hold(id);
    }
    ++leases_;
    return {*this, std::move(blocks)};
}

std::uint32_t KvCache::drop_prefixes() {
    const std::uint32_t dropped = index_.size();
    while (const auto evicted = evict()) {
        pool_.give_back({*evicted, 1});
    }
    for (Block& block : blocks_) {
        // Its hash stays, as that of a private duplicate: its sequence goes by it.
        if (std::exchange(block.indexed, false)) { index_.remove(*block.hash); }
    }
    CHECK(index_.size() == 0, index_.size() << " blocks are still named");
    for (const auto& [number, state] : open_) {
        state->is_private = true;
    }
    return dropped;
}

bool KvCache::adopt(BlockId block, const BlockHash& hash, std::optional<BlockHash> parent) {
    if (base::raw(block) >= options_.blocks_total || parent == hash || index_.find(hash) ||
        pool_.take_at(block, 1) == 0) {
        return false;
    }
    CHECK(index_.insert(hash, parent, block));
    index_.set_idle(hash);
    make_known(blocks_, block);
    at(block).hash = hash;
    at(block).indexed = true;
    return true;
}

void KvCache::forget(const PrefixMatch& match, std::uint32_t first) {
    CHECK(match.cache_ == nullptr || match.cache_ == this);
    for (std::size_t i = first; i < match.blocks_.size(); ++i) {
        Block& block = at(match.blocks_[i]);
        if (std::exchange(block.indexed, false)) { index_.remove(*block.hash); }
    }
}

BlockCounts KvCache::counts() const {
    BlockCounts counts;
    counts.free = pool_.blocks_free();
    counts.cached = index_.blocks_idle();
    counts.pinned = blocks_pinned_;
    counts.stranded = blocks_stranded_;
    counts.used = options_.blocks_total - counts.free - counts.cached - counts.pinned - counts.stranded;
    return counts;
}

std::uint32_t KvCache::blocks_available() const {
    return pool_.blocks_free() + index_.blocks_idle() + blocks_reserved_;
}

void KvCache::add_reference(BlockId id) {
    Block& block = at(id);
    if (block.references == 0) {
        if (block.holds > 0) {
            --blocks_stranded_;
            ++blocks_pinned_;
        } else if (block.indexed) {
            index_.set_in_use(*block.hash);
        }
    }
    ++block.references;
}

void KvCache::drop_reference(BlockId id) {
    Block& block = at(id);
    CHECK(block.references > 0, "block " << base::raw(id));
    if (--block.references > 0) { return; }
    if (block.holds > 0) {
        --blocks_pinned_;
        ++blocks_stranded_;
    } else {
        retire(id);
    }
}

void KvCache::add_hold(BlockId id) {
    Block& block = at(id);
    CHECK(block.references > 0, "block " << base::raw(id));
    if (block.holds == 0) { ++blocks_pinned_; }
    ++block.holds;
}

void KvCache::drop_hold(BlockId id) {
    Block& block = at(id);
    CHECK(block.holds > 0, "block " << base::raw(id));
    if (--block.holds > 0) { return; }
    if (block.references > 0) {
        --blocks_pinned_;
    } else {
        --blocks_stranded_;
        retire(id);
    }
}

void KvCache::retire(BlockId id) {
    Block& block = at(id);
    const bool goes_first = std::exchange(block.goes_first, false);
    if (block.indexed) {
        index_.set_idle(*block.hash, goes_first);
        return;
    }
    block.conversation = 0;
    // A private duplicate was as good as a use of the block that has its name.
    if (block.hash) { index_.touch(*block.hash); }
    block.hash.reset();
    pool_.give_back({id, 1});
}

Result<void> KvCache::grow(SequenceKv::State& state, std::uint32_t blocks_more) {
    if (blocks_more == 0) { return {}; }
    if (blocks_more > blocks_available()) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          "a sequence needs " + std::to_string(blocks_more) + " more KV blocks, " +
                              std::to_string(blocks_available()) + " of " + std::to_string(options_.blocks_total) +
                              " can be had");
    }
    const std::uint32_t from_tail = std::min(blocks_more, state.tail);
    if (from_tail > 0) {
        append(state, {BlockId{base::raw(state.blocks.back()) + 1}, from_tail});
        state.tail -= from_tail;
        blocks_reserved_ -= from_tail;
        blocks_more -= from_tail;
    }
    if (blocks_more == 0) { return {}; }
    make_room(blocks_more);
    // What is long has room for half as much again, so that it is few runs, as long as tails take little from others.
    const std::uint32_t initial = options_.group_blocks_initial;
    const std::uint32_t budget = options_.blocks_total / kReservedShare;
    const std::uint32_t more = std::min({(static_cast<std::uint32_t>(state.blocks.size()) + blocks_more) / 2,
                                         budget - std::min(budget, blocks_reserved_), pool_.blocks_free() / 2});
    std::uint32_t wish = initial > 1 && more > initial ? blocks_more + more : std::max(blocks_more, initial);
    const auto take = [&](BlockRun run) {
        const std::uint32_t used = append_and_reserve(state, run, blocks_more);
        blocks_more -= used;
        wish -= used;
    };
    // In place: behind the last block, be it the group's own or the end of the shared prefix.
    if (!state.blocks.empty()) {
        const BlockId behind{base::raw(state.blocks.back()) + 1};
        take({behind, pool_.take_at(behind, wish)});
    }
    while (blocks_more > 0) {
        auto run = pool_.take_best_fit(wish);
        if (!run) { run = pool_.take_largest(); }
        CHECK(run.has_value(), blocks_more << " blocks are missing after room was made for them");
        take(*run);
    }
    return {};
}

/// Takes ends of reserved tails, of the longest first, until `blocks_more` are free or no more than `kept` are
/// reserved.
void KvCache::take_tails(std::uint32_t blocks_more, std::uint32_t kept) {
    while (pool_.blocks_free() < blocks_more && blocks_reserved_ > kept) {
        SequenceKv::State* victim = nullptr;
        for (const auto& [number, state] : open_) {
            if (victim == nullptr || state->tail > victim->tail) { victim = state; }
        }
        CHECK(victim != nullptr && victim->tail > 0);
        // Half of it at once, so that who grows by a block at a time gets a run.
        const std::uint32_t wanted = std::max(blocks_more - pool_.blocks_free(), victim->tail / 2);
        give_back_tail(*victim, std::min({victim->tail, wanted, blocks_reserved_ - kept}));
    }
}

/// Frees blocks until `blocks_more` are free: first of tails beyond a share of the pool, then the coldest cached
/// blocks, then the other tails, which their sequences are likely to need soon. The caller has checked that there are
/// enough.
void KvCache::make_room(std::uint32_t blocks_more) {
    if (pool_.blocks_free() >= blocks_more) { return; }
    const std::uint32_t share = options_.blocks_total / kKeptShare;
    if (blocks_reserved_ > share) {
        std::uint32_t of_beginners = 0;  // tails that are no longer than what a group begins with
        for (const auto& [number, state] : open_) {
            of_beginners += std::min(state->tail, options_.group_blocks_initial);
        }
        take_tails(blocks_more, std::max(share, of_beginners));
    }
    const std::uint32_t portion =
        std::min(options_.group_blocks_initial, std::max(1u, options_.blocks_total / kEvictionShare));
    const std::uint32_t wanted = std::max(blocks_more, portion);
    while (pool_.blocks_free() < wanted) {
        const auto evicted = evict();
        if (!evicted) { break; }
        pool_.give_back({*evicted, 1});
    }
    take_tails(blocks_more, 0);
    CHECK(pool_.blocks_free() >= blocks_more, pool_.blocks_free() << " blocks are free, " << blocks_more << " wanted");
}

std::optional<BlockId> KvCache::evict() {
    const auto evicted = index_.evict();
    if (!evicted) { return std::nullopt; }
    Block& block = at(*evicted);
    block.indexed = false;
    block.conversation = 0;
    block.hash.reset();
    return evicted;
}

void KvCache::append(SequenceKv::State& state, BlockRun run) {
    if (run.count > 0) { make_known(blocks_, BlockId{base::raw(run.first) + run.count - 1}); }
    for (std::uint32_t i = 0; i < run.count; ++i) {
        const BlockId id{base::raw(run.first) + i};
        Block& block = at(id);
        CHECK(block.references == 0 && block.holds == 0 && !block.hash, "block " << base::raw(id));
        block.references = 1;
        state.blocks.push_back(id);
    }
}

std::uint32_t KvCache::append_and_reserve(SequenceKv::State& state, BlockRun run, std::uint32_t needed) {
    const std::uint32_t used = std::min(run.count, needed);
    append(state, {run.first, used});
    state.tail = run.count - used;
    blocks_reserved_ += state.tail;
    return used;
}

void KvCache::give_back_tail(SequenceKv::State& state, std::uint32_t count) {
    if (count == 0) { return; }
    CHECK(count <= state.tail && !state.blocks.empty());
    state.tail -= count;
    blocks_reserved_ -= count;
    pool_.give_back({BlockId{base::raw(state.blocks.back()) + 1 + state.tail}, count});
}

void KvCache::cut(SequenceKv::State& state, std::uint32_t blocks_kept) {
    if (blocks_kept >= state.blocks.size()) { return; }
    give_back_tail(state, state.tail);
    // From the end: ends of chains become idle, and so are evicted, before their beginnings.
    while (state.blocks.size() > blocks_kept) {
        drop_reference(state.blocks.back());
        state.blocks.pop_back();
    }
    state.blocks_prefix = std::min(state.blocks_prefix, blocks_kept);
    state.blocks_published = std::min(state.blocks_published, blocks_kept);
}

void KvCache::publish(SequenceKv::State& state, std::span<const BlockHash> chain) {
    CHECK(chain.size() <= state.blocks.size(), chain.size() << " hashes, " << state.blocks.size() << " blocks");
    const auto known = std::min<std::size_t>(chain.size(), state.blocks_published);
    CHECK(known == 0 || at(state.blocks[known - 1]).hash == chain[known - 1], "the chain has changed");
    for (std::uint32_t i = state.blocks_published; i < chain.size(); ++i) {
        Block& block = at(state.blocks[i]);
        const auto parent = i == 0 ? std::nullopt : std::optional(chain[i - 1]);
        block.hash = chain[i];
        block.conversation = state.conversation;
        block.indexed = index_.insert(chain[i], parent, state.blocks[i]);
        state.blocks_published = i + 1;
    }
}

}  // namespace kv_cache
