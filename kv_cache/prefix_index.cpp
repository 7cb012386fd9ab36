#include "kv_cache/prefix_index.h"

#include <algorithm>

#include "base/check.h"

namespace kv_cache {
namespace {

std::vector<BlockHash> take_sorted(std::unordered_set<BlockHash>& hashes) {
    std::vector<BlockHash> sorted(hashes.begin(), hashes.end());
    std::sort(sorted.begin(), sorted.end());
    hashes.clear();
    return sorted;
}

}  // namespace

std::optional<BlockId> PrefixIndex::find(const BlockHash& hash) const {
    const auto found = entries_.find(hash);
    if (found == entries_.end()) { return std::nullopt; }
    return found->second.block;
}

bool PrefixIndex::insert(const BlockHash& hash, std::optional<BlockHash> parent, BlockId block) {
    CHECK(parent != hash);
    if (!entries_.emplace(hash, Entry{block, parent, 0}).second) { return false; }
    // A hash that went and came back since the last event is no change; but it may have come back as a block whose part
    // of a snapshot was told before it was there.
    if (removed_.erase(hash) == 0 || telling_) { stored_.insert(hash); }
    if (listener_ != nullptr) { listener_->named(hash, parent); }
    return true;
}

void PrefixIndex::make_idle(const BlockHash& hash, Entry& entry, bool goes_first) {
    entry.idle_since = goes_first ? ++first_counter_ : ++idle_counter_;
    ++blocks_idle_;
    if (!idle_children_.contains(hash)) { evictable_.emplace(entry.idle_since, hash); }
    if (!entry.parent) { return; }
    if (++idle_children_[*entry.parent] > 1) { return; }
    const auto parent = entries_.find(*entry.parent);
    if (parent != entries_.end() && parent->second.idle_since != 0) {
        evictable_.erase({parent->second.idle_since, *entry.parent});
    }
}

void PrefixIndex::make_busy(const BlockHash& hash, Entry& entry) {
    evictable_.erase({entry.idle_since, hash});
    entry.idle_since = 0;
    --blocks_idle_;
    if (!entry.parent) { return; }
    const auto children = idle_children_.find(*entry.parent);
    CHECK(children != idle_children_.end() && children->second > 0);
    if (--children->second > 0) { return; }
    idle_children_.erase(children);
    const auto parent = entries_.find(*entry.parent);
    if (parent != entries_.end() && parent->second.idle_since != 0) {
        evictable_.emplace(parent->second.idle_since, *entry.parent);
    }
}

void PrefixIndex::set_idle(const BlockHash& hash, bool goes_first) {
    const auto found = entries_.find(hash);
    CHECK(found != entries_.end() && found->second.idle_since == 0);
    make_idle(hash, found->second, goes_first);
}

void PrefixIndex::set_in_use(const BlockHash& hash) {
    const auto found = entries_.find(hash);
    CHECK(found != entries_.end() && found->second.idle_since != 0);
    make_busy(hash, found->second);
}

void PrefixIndex::touch(const BlockHash& hash) {
    const auto found = entries_.find(hash);
    if (found == entries_.end() || found->second.idle_since == 0) { return; }
    make_busy(hash, found->second);
    make_idle(hash, found->second, false);
}

std::optional<NamedBlock> PrefixIndex::next_to_evict() const {
    if (evictable_.empty()) {
        CHECK(blocks_idle_ == 0, "chains of " << blocks_idle_ << " blocks have no end");
        return std::nullopt;
    }
    const BlockHash& hash = evictable_.begin()->second;
    const auto found = entries_.find(hash);
    CHECK(found != entries_.end());
    return NamedBlock{found->second.block, hash, found->second.parent};
}

std::optional<BlockId> PrefixIndex::evict() {
    const auto victim = next_to_evict();
    if (!victim) { return std::nullopt; }
    const auto found = entries_.find(victim->hash);
    make_busy(victim->hash, found->second);
    entries_.erase(found);
    if (stored_.erase(victim->hash) == 0 || telling_) { removed_.insert(victim->hash); }
    if (listener_ != nullptr) { listener_->unnamed(victim->hash); }
    return victim->block;
}

void PrefixIndex::remove(const BlockHash& hash) {
    const auto found = entries_.find(hash);
    CHECK(found != entries_.end() && found->second.idle_since == 0);
    entries_.erase(found);
    if (stored_.erase(hash) == 0 || telling_) { removed_.insert(hash); }
    if (listener_ != nullptr) { listener_->unnamed(hash); }
}

void PrefixIndex::listen(NameListener* listener) {
    listener_ = listener;
    if (listener_ == nullptr) { return; }
    for (const auto& [hash, entry] : entries_) {
        listener_->named(hash, entry.parent);
    }
}

std::optional<BlockEvents> PrefixIndex::take_events() {
    if (stored_.empty() && removed_.empty()) { return std::nullopt; }
    BlockEvents events;
    events.number = ++event_number_;
    events.stored = take_sorted(stored_);
    events.removed = take_sorted(removed_);
    return events;
}

BlockEvents PrefixIndex::take_part(std::vector<BlockHash> part, bool first, bool last) {
    telling_ = !last;
    if (first) { forget_events(); }
    std::erase_if(part, [this](const BlockHash& hash) { return stored_.contains(hash); });
    BlockEvents events;
    events.number = ++event_number_;
    events.snapshot = first;
    events.stored = take_sorted(stored_);
    events.removed = take_sorted(removed_);
    events.stored.insert(events.stored.end(), part.begin(), part.end());
    return events;
}

void PrefixIndex::forget_events() {
    stored_.clear();
    removed_.clear();
}

}  // namespace kv_cache
