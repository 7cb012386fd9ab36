#pragma once

#include <span>

#include "base/block_hash.h"
#include "base/clock.h"
#include "scheduler/place.h"
#include "scheduler/registry.h"

namespace scheduler {

/// place() over the workers of a registry; indices in the placement are its slots. `query.cached_blocks` and
/// `query.coming` follow from `chain`, the hashes of the prompt's blocks. Of more than
/// Registry::Options::scan_workers_max workers only the likeliest are looked at. It is not the registry's news yet: the
/// caller adds what it takes to Registry::in_flight() and, with its chain, to Registry::coming_blocks().
PlaceOutcome decide(Registry& registry, const PlaceRules& rules, PlaceQuery query,
                    std::span<const base::BlockHash> chain, base::TimePoint now);

/// The same over all workers, however many there are: what decide() is held against.
PlaceOutcome decide_by_scan(Registry& registry, const PlaceRules& rules, PlaceQuery query,
                            std::span<const base::BlockHash> chain, base::TimePoint now);

}  // namespace scheduler
