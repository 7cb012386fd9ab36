#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace caching {

struct KnapsackItem {
    std::size_t bytes = 0;  // > 0
    double value = 0;       // >= 0
};

/// Which items to keep in `capacity` bytes, by index, in order: the most valuable per byte first, each that still fits;
/// or the most valuable single one, where that is worth more. At least half of what the best choice is worth (Dantzig
/// 1957; Kellerer, Pferschy and Pisinger, "Knapsack Problems", 2004, section 2.1). Ties go to the later item. n log n.
std::vector<std::size_t> knapsack(std::span<const KnapsackItem> items, std::size_t capacity);

}  // namespace caching
