// The leases that kv_cache.h declares (their contract stands there): thin owners that hand everything back to their
// KvCache.
#include <utility>

#include "base/check.h"
#include "kv_cache/kv_cache.h"
#include "kv_cache/sequence_state.h"

namespace kv_cache {

PrefixMatch::PrefixMatch(PrefixMatch&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)), blocks_(std::exchange(other.blocks_, {})) {}

PrefixMatch& PrefixMatch::operator=(PrefixMatch&& other) noexcept {
    PrefixMatch taken(std::move(other));
    std::swap(cache_, taken.cache_);
    std::swap(blocks_, taken.blocks_);
    return *this;
}

PrefixMatch::~PrefixMatch() {
    if (cache_ == nullptr) { return; }
    for (auto id = blocks_.rbegin(); id != blocks_.rend(); ++id) {
        cache_->drop_reference(*id);
    }
    --cache_->leases_;
}

std::uint32_t PrefixMatch::tokens() const {
    if (cache_ == nullptr) { return 0; }
    return static_cast<std::uint32_t>(blocks_.size()) * cache_->options().block_tokens;
}

SequenceKv::SequenceKv() = default;
SequenceKv::SequenceKv(std::unique_ptr<State> state) : state_(std::move(state)) {}
SequenceKv::SequenceKv(SequenceKv&& other) noexcept = default;

SequenceKv& SequenceKv::operator=(SequenceKv&& other) noexcept {
    SequenceKv taken(std::move(other));
    std::swap(state_, taken.state_);
    return *this;
}

SequenceKv::~SequenceKv() {
    close();
}

void SequenceKv::close() {
    if (state_ == nullptr) { return; }
    KvCache& cache = state_->cache;
    cache.cut(*state_, 0);
    cache.open_.erase(state_->number);
    state_.reset();
}

Result<void> SequenceKv::reserve(std::uint32_t tokens) {
    CHECK(is_open());
    const std::uint32_t blocks_needed = state_->cache.blocks_for(tokens);
    if (blocks_needed <= state_->blocks.size()) { return {}; }
    return state_->cache.grow(*state_, blocks_needed - static_cast<std::uint32_t>(state_->blocks.size()));
}

void SequenceKv::truncate(std::uint32_t tokens) {
    CHECK(is_open());
    const std::uint32_t block_tokens = state_->cache.options().block_tokens;
    CHECK(tokens % block_tokens == 0 || tokens / block_tokens >= state_->blocks_published,
          "token " << tokens << " lies inside a published block");
    state_->cache.cut(*state_, state_->cache.blocks_for(tokens));
}

std::span<const BlockId> SequenceKv::blocks() const {
    CHECK(is_open());
    return state_->blocks;
}

std::vector<BlockRun> SequenceKv::runs() const {
    std::vector<BlockRun> runs;
    for (const BlockId id : blocks()) {
        if (!runs.empty() && runs.back().end() == id) {
            ++runs.back().count;
        } else {
            runs.push_back({id, 1});
        }
    }
    return runs;
}

std::uint32_t SequenceKv::blocks_published() const {
    CHECK(is_open());
    return state_->is_private ? 0 : state_->blocks_published;
}

std::uint32_t SequenceKv::tokens_capacity() const {
    return static_cast<std::uint32_t>(blocks().size()) * state_->cache.options().block_tokens;
}

std::uint32_t SequenceKv::prefix_tokens() const {
    CHECK(is_open());
    return state_->blocks_prefix * state_->cache.options().block_tokens;
}

void SequenceKv::publish(std::span<const BlockHash> chain) {
    CHECK(is_open());
    if (!state_->is_private) { state_->cache.publish(*state_, chain); }
}

void SequenceKv::keep_private() {
    CHECK(is_open());
    state_->is_private = true;
}

bool SequenceKv::is_private() const {
    CHECK(is_open());
    return state_->is_private;
}

void SequenceKv::give_up_first() {
    CHECK(is_open());
    if (state_->conversation == 0) { return; }
    for (const BlockId id : state_->blocks) {
        KvCache::Block& block = state_->cache.at(id);
        block.goes_first = block.indexed && block.conversation == state_->conversation;
    }
}

BlockHold::BlockHold(BlockHold&& other) noexcept
    : cache_(std::exchange(other.cache_, nullptr)), blocks_(std::exchange(other.blocks_, {})) {}

BlockHold& BlockHold::operator=(BlockHold&& other) noexcept {
    BlockHold taken(std::move(other));
    std::swap(cache_, taken.cache_);
    std::swap(blocks_, taken.blocks_);
    return *this;
}

BlockHold::~BlockHold() {
    release();
}

void BlockHold::release() {
    if (cache_ == nullptr) { return; }
    for (auto id = blocks_.rbegin(); id != blocks_.rend(); ++id) {
        cache_->drop_hold(*id);
    }
    --cache_->leases_;
    cache_ = nullptr;
    blocks_.clear();
}

}  // namespace kv_cache
