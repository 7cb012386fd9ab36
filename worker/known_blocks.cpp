#include "worker/known_blocks.h"

#include <algorithm>
#include <utility>

namespace worker {

std::uint32_t KnownBlocks::tokens(std::span<const base::BlockHash> chain, std::uint32_t tokens_max) const {
    std::uint32_t most = 0;
    for (const kv_cache::KvCache* cache : caches_) {
        most = std::max(most, cache->cached_tokens(chain, tokens_max));
    }
    return most;
}

bool KnownBlocks::is_known(const base::BlockHash& hash) const {
    return std::any_of(caches_.begin(), caches_.end(), [&](const kv_cache::KvCache* cache) {
        return cache->cached_tokens(std::span(&hash, 1), cache->options().block_tokens) > 0;
    });
}

void KnownBlocks::begin_snapshot() {
    telling_ = 0;
    begins_ = true;
    has_begun_ = false;
}

std::optional<kv_cache::BlockEvents> KnownBlocks::take_events() {
    kv_cache::BlockEvents all;
    all.snapshot = std::exchange(begins_, false);
    const auto take = [&](kv_cache::KvCache& cache) {
        const auto events = cache.take_events();
        if (!events) { return; }
        all.stored.insert(all.stored.end(), events->stored.begin(), events->stored.end());
        all.removed.insert(all.removed.end(), events->removed.begin(), events->removed.end());
    };
    for (kv_cache::KvCache* cache : caches_) {
        take(*cache);
    }
    if (snapshot_unfinished() && !has_begun_) {  // its changes up to now are taken: none is lost
        caches_[telling_]->begin_snapshot();
        take(*caches_[telling_]);
        has_begun_ = true;
    }
    if (snapshot_unfinished() && !caches_[telling_]->snapshot_unfinished()) {
        ++telling_;
        has_begun_ = false;
    }
    std::erase_if(all.removed, [this](const base::BlockHash& hash) { return is_known(hash); });
    std::erase_if(all.stored, [this](const base::BlockHash& hash) { return !is_known(hash); });
    // Told twice where two hold it: that changes nothing.
    std::sort(all.stored.begin(), all.stored.end());
    all.stored.erase(std::unique(all.stored.begin(), all.stored.end()), all.stored.end());
    std::sort(all.removed.begin(), all.removed.end());
    all.removed.erase(std::unique(all.removed.begin(), all.removed.end()), all.removed.end());
    if (all.snapshot) { all.removed.clear(); }
    if (!all.snapshot && all.stored.empty() && all.removed.empty()) { return std::nullopt; }
    all.number = ++number_;
    return all;
}

void KnownBlocks::forget_events() {
    for (kv_cache::KvCache* cache : caches_) {
        cache->forget_events();
    }
}

std::size_t KnownBlocks::events_pending() const {
    std::size_t pending = 0;
    for (const kv_cache::KvCache* cache : caches_) {
        pending += cache->events_pending();
    }
    return pending;
}

}  // namespace worker
