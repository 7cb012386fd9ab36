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

std::size_t KnownBlocks::level_of(const base::BlockHash& hash) const {
    const auto nearest = std::find_if(caches_.begin(), caches_.end(), [&](const kv_cache::KvCache* cache) {
        return cache->cached_tokens(std::span(&hash, 1), cache->options().block_tokens) > 0;
    });
    return static_cast<std::size_t>(nearest - caches_.begin());
}

void KnownBlocks::begin_snapshot() {
    telling_ = 0;
    begins_ = true;
    has_begun_ = false;
}

std::optional<KnownBlockEvents> KnownBlocks::take_events() {
    KnownBlockEvents told;
    kv_cache::BlockEvents& all = told.events;
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
    const auto sort_out = [](std::vector<base::BlockHash>& hashes) {  // of two caches: told twice
        std::sort(hashes.begin(), hashes.end());
        hashes.erase(std::unique(hashes.begin(), hashes.end()), hashes.end());
    };
    sort_out(all.stored);
    sort_out(all.removed);
    told.below.resize(caches_.size() - 1);
    const auto is_gone = [&](const base::BlockHash& hash) {
        const std::size_t level = level_of(hash);
        if (level > 0 && level < caches_.size()) { told.below[level - 1].push_back(hash); }
        return level == caches_.size();
    };
    std::erase_if(all.stored, is_gone);
    std::erase_if(all.removed, [&](const base::BlockHash& hash) { return !is_gone(hash); });
    bool any_below = false;
    for (std::vector<base::BlockHash>& hashes : told.below) {
        sort_out(hashes);
        any_below = any_below || !hashes.empty();
    }
    if (all.snapshot) { all.removed.clear(); }
    if (!all.snapshot && all.stored.empty() && all.removed.empty() && !any_below) { return std::nullopt; }
    all.number = ++number_;
    return told;
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
