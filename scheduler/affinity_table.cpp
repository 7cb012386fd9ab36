#include "scheduler/affinity_table.h"

namespace scheduler {

std::optional<AffinityTable::Last> AffinityTable::find(AffinityName name) const {
    const auto at = known_.find(name);
    return at == known_.end() ? std::nullopt : std::optional(at->second.last);
}

void AffinityTable::note(AffinityName name, const Last& last) {
    if (name == AffinityName::none || names_max_ == 0) { return; }
    if (const auto at = known_.find(name); at != known_.end()) {
        at->second.last = last;
        ages_.splice(ages_.end(), ages_, at->second.age);
        return;
    }
    if (known_.size() >= names_max_) {
        known_.erase(ages_.front());
        ages_.pop_front();
    }
    known_.emplace(name, Known{last, ages_.insert(ages_.end(), name)});
}

void AffinityTable::forget(AffinityName name) {
    const auto at = known_.find(name);
    if (at == known_.end()) { return; }
    ages_.erase(at->second.age);
    known_.erase(at);
}

}  // namespace scheduler
