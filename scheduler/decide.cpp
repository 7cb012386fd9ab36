#include "scheduler/decide.h"

namespace scheduler {
namespace {

PlaceOutcome place_among(const Registry::Outlook& outlook, const PlaceRules& rules, PlaceQuery& query) {
    query.cached_blocks = outlook.cached_blocks;
    query.below_pool = outlook.below_pool;
    query.coming = outlook.coming;
    return place({.workers = outlook.workers, .rules = rules, .among = outlook.slots}, query);
}

/// The few that were looked at cannot say that nobody could ever serve the request.
bool is_for_all_to_say(const PlaceOutcome& outcome) {
    const auto* refusal = std::get_if<Refusal>(&outcome);
    return refusal != nullptr && (refusal->reason == "no_worker" || refusal->reason == "never_fits");
}

}  // namespace

PlaceOutcome decide(Registry& registry, const PlaceRules& rules, PlaceQuery query,
                    std::span<const base::BlockHash> chain, base::TimePoint now) {
    const Registry::Outlook outlook = registry.outlook(query, chain, now);
    if (outlook.slots.empty()) { return place_among(outlook, rules, query); }
    // Those of a shortlist are all of the pool's: place() need not count them to know which it is.
    PlaceQuery among_few = query;
    if (query.numerics_id == 0) { among_few.numerics_id = outlook.workers[outlook.slots.front()].numerics_id; }
    PlaceOutcome outcome = place_among(outlook, rules, among_few);
    if (is_for_all_to_say(outcome)) { return decide_by_scan(registry, rules, query, chain, now); }
    if (auto* placement = std::get_if<Placement>(&outcome)) {
        placement->prefill = outlook.slots[placement->prefill];
        placement->decode = outlook.slots[placement->decode];
        if (placement->kv_source) { placement->kv_source = outlook.slots[*placement->kv_source]; }
    }
    return outcome;
}

PlaceOutcome decide_by_scan(Registry& registry, const PlaceRules& rules, PlaceQuery query,
                            std::span<const base::BlockHash> chain, base::TimePoint now) {
    return place_among(registry.outlook_of_all(chain, now), rules, query);
}

}  // namespace scheduler
