#include "caching/exact/answer_book.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "base/check.h"

namespace caching {
namespace {

constexpr std::size_t kOverhead = 256;  // of an entry's nodes in lists and tables, rounded up

}  // namespace

std::size_t SavedAnswer::bytes() const {
    std::size_t total = sizeof(SavedAnswer) + kOverhead + tenant.size() + model.size() + revision.size() +
                        answer.text.size() + (answer.stop_string ? answer.stop_string->size() : 0);
    for (const std::string& tag : tags) {
        total += sizeof(std::string) + tag.size();
    }
    return total;
}

bool AnswerFilter::matches(const SavedAnswer& answer) const {
    return (!id || *id == answer.id) && (!key || *key == answer.key) && (!tenant || *tenant == answer.tenant) &&
           (!model || *model == answer.model) && (!revision || *revision == answer.revision) &&
           (!tag || std::find(answer.tags.begin(), answer.tags.end(), *tag) != answer.tags.end()) &&
           (!created_before_unix_us || answer.created_unix_us < *created_before_unix_us);
}

const SavedAnswer* AnswerBook::find(const base::BlockHash& key) {
    const auto found = by_key_.find(key);
    if (found == by_key_.end()) { return nullptr; }
    Entry& entry = *found->second;
    entries_.splice(entries_.begin(), entries_, found->second);
    entry.tenant->entries.splice(entry.tenant->entries.begin(), entry.tenant->entries, entry.in_tenant);
    return &entry.answer;
}

std::vector<base::BlockHash> AnswerBook::put(SavedAnswer answer) {
    std::vector<base::BlockHash> gone;
    if (const auto before = by_key_.find(answer.key); before != by_key_.end()) { remove(before->second); }
    const std::size_t bytes = answer.bytes();
    const auto share = static_cast<std::size_t>(static_cast<double>(options_.bytes_max) * options_.tenant_share);
    if (bytes > std::min(options_.bytes_max, share) || options_.entries_max == 0) {
        gone.push_back(answer.key);
        return gone;
    }
    make_room(answer.tenant, bytes, gone);
    answer.id = next_id_++;
    Tenant& tenant = tenants_[answer.tenant];
    entries_.push_front({.answer = std::move(answer), .bytes = bytes, .tenant = &tenant, .in_tenant = {}});
    Entry& entry = entries_.front();
    tenant.entries.push_front(&entry);
    entry.in_tenant = tenant.entries.begin();
    tenant.bytes += bytes;
    bytes_ += bytes;
    by_key_[entry.answer.key] = entries_.begin();
    return gone;
}

void AnswerBook::make_room(const std::string& name, std::size_t bytes, std::vector<base::BlockHash>& gone) {
    const auto evict = [&](const base::BlockHash key) {
        gone.push_back(key);
        remove(by_key_.at(key));
        ++evicted_;
    };
    const auto share = static_cast<std::size_t>(static_cast<double>(options_.bytes_max) * options_.tenant_share);
    for (auto tenant = tenants_.find(name); tenant != tenants_.end() && tenant->second.bytes + bytes > share;
         tenant = tenants_.find(name)) {
        evict(tenant->second.entries.back()->answer.key);
    }
    while (!entries_.empty() && (bytes_ + bytes > options_.bytes_max || entries_.size() >= options_.entries_max)) {
        evict(entries_.back().answer.key);
    }
}

void AnswerBook::remove(std::list<Entry>::iterator entry) {
    Tenant& tenant = *entry->tenant;
    CHECK(bytes_ >= entry->bytes && tenant.bytes >= entry->bytes);
    bytes_ -= entry->bytes;
    tenant.bytes -= entry->bytes;
    tenant.entries.erase(entry->in_tenant);
    if (tenant.entries.empty()) { tenants_.erase(entry->answer.tenant); }
    by_key_.erase(entry->answer.key);
    entries_.erase(entry);
}

std::vector<base::BlockHash> AnswerBook::purge(const AnswerFilter& filter, bool dry_run) {
    std::vector<base::BlockHash> chosen;
    for (const Entry& entry : entries_) {
        if (filter.matches(entry.answer)) { chosen.push_back(entry.answer.key); }
    }
    if (dry_run) { return chosen; }
    for (const base::BlockHash& key : chosen) {
        remove(by_key_.at(key));
    }
    return chosen;
}

void AnswerBook::for_each(const std::function<bool(const SavedAnswer&)>& visit) const {
    for (const Entry& entry : entries_) {
        if (!visit(entry.answer)) { return; }
    }
}

}  // namespace caching
