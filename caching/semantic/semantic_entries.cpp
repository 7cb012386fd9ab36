// The keeping of entries: removal, room, invalidation. What they answer is semantic_cache.cpp's.
#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"
#include "caching/semantic/semantic_cache.h"
#include "caching/semantic/words.h"

namespace caching {
namespace {

constexpr std::size_t kDrawn = 16;         // entries that an eviction chooses from
constexpr std::size_t kDrawnTries = 64;    // to find them among those of other categories
constexpr double kHalfLifeSeconds = 3600;  // of a hit's worth
constexpr double kNewWorth = 0.3;          // hits that an entry counts for before its first
constexpr std::size_t kSweptEach = 8;      // expired entries, at the most, for one that is stored
constexpr std::size_t kBooksBytes = 160;   // of an entry's places in maps and lists

/// Takes the id at `place` out; the last one takes its place. Returns the one that moved.
EntryId take_out(std::vector<EntryId>& list, std::size_t place) {
    CHECK(place < list.size());
    const EntryId moved = list.back();
    list[place] = moved;
    list.pop_back();
    return moved;
}

}  // namespace

double SemanticCache::value_per_byte(const Entry& entry, base::TimePoint now) const {
    const double seconds = std::chrono::duration<double>(now - entry.valued).count();
    const double hits = entry.value * std::exp2(-seconds / kHalfLifeSeconds);
    return (hits + (entry.value == 0 ? kNewWorth * std::exp2(-seconds / kHalfLifeSeconds) : 0)) * entry.saved_s /
           static_cast<double>(entry.bytes);
}

std::uint32_t SemanticCache::tenant_index(const std::string& name) {
    const auto [place, made] = tenant_of_name_.try_emplace(name, static_cast<std::uint32_t>(tenants_.size()));
    if (made) { tenants_.push_back({name, 0, {}}); }
    return place->second;
}

std::size_t SemanticCache::bytes_of(const Entry& entry, std::size_t dimensions) {
    const TextProfile& kept = entry.profile;
    return sizeof(Entry) + kBooksBytes + entry.document.size() + (entry.has_vector ? dimensions + 12 : 0) +
           4 * (kept.content.size() + kept.numbers.size() + kept.identifiers.size() + kept.names.size() +
                kept.all.size() + kept.times.size() + kept.directed.size() + kept.poles.size());
}

void SemanticCache::add(EntryId id, Entry entry, std::span<const float> vector) {
    if (entry.has_vector) {
        auto [place, made] = partitions_.try_emplace(entry.partition, vector.size(), dot_rows_, options_.graph_from);
        entry.has_vector = place->second.dimensions() == vector.size();
        if (entry.has_vector) {
            entry.row = place->second.add(id, vector);
            ++place->second.fates[entry.meaning].questions;
            place->second.kinds.resize(options_.categories.size());
            ++place->second.kinds[entry.category];
        }
    }
    Tenant& tenant = tenants_[entry.tenant];
    entry.in_order = order_.size();
    entry.in_tenant = tenant.entries.size();
    order_.push_back(id);
    tenant.entries.push_back(id);
    tenant.bytes += entry.bytes;
    learnt_[entry.category].bytes += entry.bytes;
    bytes_ += entry.bytes;
    exact_[entry.exact] = id;
    by_expiry_.emplace(entry.created + entry.ttl, id);
    entries_.emplace(id, std::move(entry));
}

void SemanticCache::remove(EntryId id) {
    const auto gone = remove_untold(id);
    if (gone && journal_ != nullptr) { journal_->erase({*gone}); }
}

/// Its exact name, where no other entry has it.
std::optional<base::BlockHash> SemanticCache::remove_untold(EntryId id) {
    const auto found = entries_.find(id);
    CHECK(found != entries_.end());
    Entry& entry = found->second;
    if (entry.has_vector) {
        const auto place = partitions_.find(entry.partition);
        CHECK(place != partitions_.end());
        Partition& partition = place->second;
        const EntryId moved = partition.remove(entry.row);
        if (moved != id) { entries_.at(moved).row = entry.row; }
        --partition.kinds[entry.category];
        const auto fate = partition.fates.find(entry.meaning);
        if (fate != partition.fates.end() && --fate->second.questions == 0) { partition.fates.erase(fate); }
        if (partition.size() == 0) { partitions_.erase(place); }
    }
    if (const EntryId moved = take_out(order_, entry.in_order); moved != id) {
        entries_.at(moved).in_order = entry.in_order;
    }
    Tenant& tenant = tenants_[entry.tenant];
    if (const EntryId moved = take_out(tenant.entries, entry.in_tenant); moved != id) {
        entries_.at(moved).in_tenant = entry.in_tenant;
    }
    tenant.bytes -= entry.bytes;
    learnt_[entry.category].bytes -= entry.bytes;
    bytes_ -= entry.bytes;
    by_expiry_.erase({entry.created + entry.ttl, id});
    std::optional<base::BlockHash> gone;
    if (const auto exact = exact_.find(entry.exact); exact != exact_.end() && exact->second == id) {
        gone = entry.exact;
        exact_.erase(exact);
    }
    entries_.erase(found);
    return gone;
}

/// What is beyond its time goes first: of all entries the oldest such, of a tenant's or a category's one that is drawn.
/// Else the drawn entry that is worth least a byte.
bool SemanticCache::evict_one(const std::vector<EntryId>& among, std::optional<std::uint32_t> category) {
    const base::TimePoint now = clock_.now();
    if (&among == &order_ && !category && !by_expiry_.empty() && by_expiry_.begin()->first <= now) {
        remove(by_expiry_.begin()->second);
        ++counts_.expired;
        return true;
    }
    std::optional<EntryId> least;
    double least_value = 0;
    std::size_t drawn = 0;
    for (std::size_t tries = 0; tries < kDrawnTries && drawn < kDrawn && !among.empty(); ++tries) {
        const EntryId id = among[static_cast<std::size_t>(random_() % among.size())];
        const Entry& entry = entries_.at(id);
        if (category && entry.category != *category) { continue; }
        ++drawn;
        const double value = alive(entry, now) ? value_per_byte(entry, now) : -1.0;
        if (!least || value < least_value) {
            least = id;
            least_value = value;
        }
    }
    if (!least) { return false; }
    remove(*least);
    ++counts_.evicted;
    return true;
}

bool SemanticCache::is_nearly_full() const {
    const double bytes_from = options_.doorkeeper_from * static_cast<double>(options_.bytes_max);
    const double entries_from = options_.doorkeeper_from * static_cast<double>(options_.entries_max);
    return static_cast<double>(bytes_) > bytes_from || static_cast<double>(entries_.size()) > entries_from;
}

void SemanticCache::sweep_expired() {
    const base::TimePoint now = clock_.now();
    for (std::size_t swept = 0; swept < kSweptEach && is_nearly_full(); ++swept) {
        if (by_expiry_.empty() || by_expiry_.begin()->first > now) { return; }
        remove(by_expiry_.begin()->second);
        ++counts_.expired;
    }
}

bool SemanticCache::make_room(std::uint32_t tenant, std::uint32_t category, std::size_t bytes) {
    const auto most = static_cast<double>(options_.bytes_max);
    const auto tenant_most = static_cast<std::size_t>(most * options_.tenant_share);
    const auto category_most = static_cast<std::size_t>(most * options_.categories[category].quota_share);
    if (bytes > std::min({options_.bytes_max, tenant_most, category_most}) || options_.entries_max == 0) {
        return false;
    }
    while (tenants_[tenant].bytes + bytes > tenant_most) {
        if (!evict_one(tenants_[tenant].entries, std::nullopt)) { return false; }
    }
    while (learnt_[category].bytes + bytes > category_most) {
        if (!evict_one(order_, category)) { return false; }
    }
    while (bytes_ + bytes > options_.bytes_max || entries_.size() >= options_.entries_max) {
        if (!evict_one(order_, std::nullopt)) { return false; }
    }
    return true;
}

bool SemanticCache::matches(const EntryFilter& filter, EntryId id, const Entry& entry, base::TimePoint now) const {
    if (filter.entry && *filter.entry != id) { return false; }
    if (filter.tenant && *filter.tenant != tenants_[entry.tenant].name) { return false; }
    if (filter.model_revision && *filter.model_revision != entry.revision) { return false; }
    if (filter.category && *filter.category != options_.categories[entry.category].name) { return false; }
    if (filter.tag && std::find(entry.tags.begin(), entry.tags.end(), *filter.tag) == entry.tags.end()) {
        return false;
    }
    return !filter.older_than || now - entry.created > *filter.older_than;
}

std::vector<EntryId> SemanticCache::invalidate(const EntryFilter& filter, bool dry_run) {
    std::vector<EntryId> chosen;
    const base::TimePoint now = clock_.now();
    if (filter.near_text) {
        const std::string text = canonical_text(*filter.near_text);
        const auto vectors = embedder_.embed(std::span(&text, 1));
        const std::vector<float> words = hashed_.embed_one(text);
        for (const auto& [key, partition] : partitions_) {
            // A purge must not fail because a model is away: then the words alone say what is near.
            const bool is_embedded = vectors && vectors->front().size() == partition.dimensions();
            const std::vector<float> query =
                is_embedded ? vectors->front() : hashed_part(words, partition.dimensions());
            if (query.empty()) { continue; }
            for (const Near& near : partition.nearest(query, partition.size())) {
                if (static_cast<double>(near.similarity) < filter.near_similarity) { break; }
                if (matches(filter, near.entry, entries_.at(near.entry), now)) { chosen.push_back(near.entry); }
            }
        }
    } else {
        for (const auto& [id, entry] : entries_) {
            if (matches(filter, id, entry, now)) { chosen.push_back(id); }
        }
    }
    std::sort(chosen.begin(), chosen.end());
    if (dry_run) { return chosen; }
    std::vector<base::BlockHash> gone;
    for (const EntryId id : chosen) {
        if (const auto name = remove_untold(id)) { gone.push_back(*name); }
    }
    if (journal_ != nullptr && !gone.empty()) { journal_->erase(std::move(gone)); }
    if (filter.is_all()) {
        everything_ = Calibration({}, Calibration::start_weights());
        learnt_ = fresh_learnt();
        if (journal_ != nullptr) { journal_->learnt(learning()); }
    }
    return chosen;
}

CacheCounts SemanticCache::counts() const {
    CacheCounts counts = counts_;
    counts.entries = entries_.size();
    counts.bytes = bytes_;
    counts.partitions = partitions_.size();
    return counts;
}

void SemanticCache::for_each(const std::function<void(const EntryView&)>& visit) const {
    const base::TimePoint now = clock_.now();
    for (const auto& [id, entry] : entries_) {
        visit({id, tenants_[entry.tenant].name, options_.categories[entry.category].name, entry.document,
               now - entry.created, entry.value, entry.bytes});
    }
}

}  // namespace caching
