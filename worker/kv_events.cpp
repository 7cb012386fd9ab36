#include "worker/kv_events.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace worker {
namespace {

using base::BlockHash;

constexpr std::chrono::milliseconds kRoomWait{20};  // until it is asked again whether there is room

constexpr std::uint8_t bit(std::size_t level) {
    return static_cast<std::uint8_t>(1u << level);
}

}  // namespace

KvEvents::KvEvents(Options options, const base::Clock& clock, KvEventSink& sink)
    : options_(options), clock_(clock), sink_(sink) {
    CHECK(options_.block_tokens > 0 && options_.batch_blocks_max > 0);
    pending_.push_back({.kind = KvEvent::Kind::cleared});  // of a life before this one
}

KvEvents::~KvEvents() {
    for (const auto& level : levels_) {
        level->cache.listen(nullptr);
    }
}

void KvEvents::add(kv_cache::KvCache& cache) {
    CHECK(levels_.size() < kLevelsMax);
    levels_.push_back(std::make_unique<Level>(*this, cache, levels_.size()));
    cache.listen(levels_.back().get());
    fresh_.clear();  // no sequence publishes what was there before
}

void KvEvents::named(std::size_t level, const BlockHash& hash, const std::optional<BlockHash>& parent) {
    Entry& entry = entries_[hash];
    entry.levels |= bit(level);
    entry.parent = parent;
    if (!entry.tokens.empty()) {
        tell_stored(level, hash, entry);
    } else if (level == 0) {
        fresh_.push_back(hash);
    }
}

void KvEvents::unnamed(std::size_t level, const BlockHash& hash) {
    const auto at = entries_.find(hash);
    CHECK(at != entries_.end(), "a block goes that never came");
    Entry& entry = at->second;
    if (is_told(entry, level)) { tell_removed(level, hash); }
    entry.levels &= static_cast<std::uint8_t>(~bit(level));
    entry.told &= static_cast<std::uint8_t>(~bit(level));
    if (entry.levels == 0) { entries_.erase(at); }
}

void KvEvents::published(Sequence& sequence) {
    std::vector<std::size_t> places;  // of the fresh blocks in the chain, from its end back
    for (std::size_t i = sequence.published_blocks; i > 0 && places.size() < fresh_.size(); --i) {
        if (sequence.chain[i - 1] == fresh_[fresh_.size() - 1 - places.size()]) { places.push_back(i - 1); }
    }
    fresh_.clear();
    for (auto place = places.rbegin(); place != places.rend(); ++place) {
        const auto at = entries_.find(sequence.chain[*place]);
        if (at == entries_.end()) { continue; }
        Entry& entry = at->second;
        const auto begin = sequence.tokens.begin() + static_cast<std::ptrdiff_t>(*place * options_.block_tokens);
        entry.tokens.assign(begin, begin + options_.block_tokens);
        if (*place == 0) { entry.scope = sequence.request.cache_scope; }
        for (std::size_t level = 0; level < levels_.size(); ++level) {
            if ((entry.levels & bit(level)) != 0) { tell_stored(level, at->first, entry); }
        }
    }
}

bool KvEvents::is_told(const Entry& entry, std::size_t level) const {
    return entry.round == round_ && (entry.told & bit(level)) != 0;
}

void KvEvents::tell_stored(std::size_t level, const BlockHash& hash, Entry& entry) {
    if (is_lost_) { return; }
    if (std::exchange(entry.round, round_) != round_) { entry.told = 0; }
    entry.told |= bit(level);
    const bool goes_on = !pending_.empty() && pending_.back().kind == KvEvent::Kind::stored &&
                         pending_.back().level == level && entry.parent &&
                         pending_.back().hashes.back() == block_name(*entry.parent) &&
                         pending_.back().hashes.size() < options_.batch_blocks_max;
    if (!goes_on) {
        KvEvent event{.kind = KvEvent::Kind::stored, .level = level};
        if (entry.parent) { event.parent = block_name(*entry.parent); }
        event.scope = entry.scope;
        pending_.push_back(std::move(event));
    }
    pending_.back().hashes.push_back(block_name(hash));
    pending_.back().tokens.insert(pending_.back().tokens.end(), entry.tokens.begin(), entry.tokens.end());
}

void KvEvents::tell_removed(std::size_t level, const BlockHash& hash) {
    const bool goes_on = !pending_.empty() && pending_.back().kind == KvEvent::Kind::removed &&
                         pending_.back().level == level && pending_.back().hashes.size() < options_.batch_blocks_max;
    if (!goes_on) { pending_.push_back({.kind = KvEvent::Kind::removed, .level = level}); }
    pending_.back().hashes.push_back(block_name(hash));
}

void KvEvents::dropped() {
    if (!entries_.empty() || is_lost_) { return; }  // what is gone was told block by block, or is told when all is
    pending_.clear();
    pending_.push_back({.kind = KvEvent::Kind::cleared});
}

void KvEvents::lose() {
    ++round_;
    is_lost_ = true;
    pending_.clear();
    retold_.clear();
}

std::vector<BlockHash> KvEvents::in_chains() const {
    struct Child {
        BlockHash parent;
        BlockHash hash;
    };
    std::vector<Child> children;
    std::vector<BlockHash> to_visit;  // the next one last
    for (const auto& [hash, entry] : entries_) {
        if (entry.tokens.empty()) { continue; }
        const auto parent = entry.parent ? entries_.find(*entry.parent) : entries_.end();
        if (parent == entries_.end() || parent->second.tokens.empty()) {
            to_visit.push_back(hash);
        } else {
            children.push_back({*entry.parent, hash});
        }
    }
    std::sort(children.begin(), children.end(), [](const Child& a, const Child& b) { return a.parent < b.parent; });
    std::vector<BlockHash> order;
    while (!to_visit.empty()) {
        const BlockHash hash = to_visit.back();
        to_visit.pop_back();
        order.push_back(hash);
        auto child = std::lower_bound(children.begin(), children.end(), hash,
                                      [](const Child& a, const BlockHash& parent) { return a.parent < parent; });
        for (; child != children.end() && child->parent == hash; ++child) {
            to_visit.push_back(child->hash);
        }
    }
    return order;
}

void KvEvents::begin_retelling() {
    is_lost_ = false;
    pending_.push_back({.kind = KvEvent::Kind::cleared});
    retold_ = in_chains();
    retold_next_ = 0;
}

void KvEvents::retell() {
    std::size_t blocks = 0;
    for (; retold_next_ < retold_.size() && blocks < options_.batch_blocks_max; ++retold_next_) {
        const auto at = entries_.find(retold_[retold_next_]);
        if (at == entries_.end() || at->second.tokens.empty()) { continue; }  // gone since, perhaps back without tokens
        for (std::size_t level = 0; level < levels_.size(); ++level) {
            if ((at->second.levels & bit(level)) == 0 || is_told(at->second, level)) { continue; }
            tell_stored(level, at->first, at->second);
            ++blocks;
        }
    }
    if (retold_next_ == retold_.size()) { retold_.clear(); }
}

void KvEvents::tick() {
    if (sink_.take_wish()) { lose(); }
    if (is_lost_ && sink_.has_room()) { begin_retelling(); }
    if (!retold_.empty() && sink_.has_room()) { retell(); }
    flush();
}

std::optional<base::TimePoint> KvEvents::next_tick() const {
    if (!pending_.empty()) { return clock_.now(); }
    if (!is_lost_ && retold_.empty()) { return std::nullopt; }
    return sink_.has_room() ? clock_.now() : clock_.now() + kRoomWait;
}

void KvEvents::flush() {
    for (std::size_t next = 0; next < pending_.size();) {
        KvEventBatch batch{.unix_us = clock_.unix_us(), .events = {}};
        for (std::size_t blocks = 0; next < pending_.size(); ++next) {
            blocks += pending_[next].hashes.size();
            if (!batch.events.empty() && blocks > options_.batch_blocks_max) { break; }
            batch.events.push_back(std::move(pending_[next]));
        }
        if (!sink_.offer(std::move(batch))) { return lose(); }
    }
    pending_.clear();
}

}  // namespace worker
