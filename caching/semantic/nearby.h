#pragma once

#include <cstdint>
#include <vector>

#include "caching/semantic/calibration.h"
#include "caching/semantic/partition.h"

namespace caching {

/// A question that is near another one and whose answer no gate keeps back.
struct Nearby {
    EntryId id{};
    std::uint64_t meaning = 0;  // of its answer
    double similarity = 0;
    double apart = 0;  // Partition::apart(), of an embedder of two
};

/// Whose answer may be the right one, of those that are near, nearest first: the nearest question's; and the one that
/// has most of what is near for it, the nearer the heavier, where that is another one.
std::vector<std::uint64_t> likely_meanings(const std::vector<Nearby>& near);

/// What those that are near, nearest first, say of an answer that one of them has: similarity, rival, support, mean,
/// vote, apart, rival_apart.
Evidence evidence_of(const std::vector<Nearby>& near, std::uint64_t meaning);

/// The nearest with this answer; it is there.
const Nearby& nearest_of(const std::vector<Nearby>& near, std::uint64_t meaning);

}  // namespace caching
