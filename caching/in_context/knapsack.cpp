#include "caching/in_context/knapsack.h"

#include <algorithm>
#include <numeric>

namespace caching {

std::vector<std::size_t> knapsack(std::span<const KnapsackItem> items, std::size_t capacity) {
    std::vector<std::size_t> order(items.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    const auto density = [&](std::size_t at) {
        return items[at].value / static_cast<double>(std::max<std::size_t>(items[at].bytes, 1));
    };
    std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
        const double of_a = density(a);
        const double of_b = density(b);
        return of_a != of_b ? of_a > of_b : a > b;
    });
    std::vector<std::size_t> kept;
    std::size_t bytes = 0;
    double value = 0;
    std::size_t best = items.size();
    for (const std::size_t at : order) {
        if (items[at].bytes > capacity) { continue; }
        if (best == items.size() || items[at].value > items[best].value) { best = at; }
        if (items[at].bytes > capacity - bytes) { continue; }
        bytes += items[at].bytes;
        value += items[at].value;
        kept.push_back(at);
    }
    if (best != items.size() && items[best].value > value) { return {best}; }
    std::sort(kept.begin(), kept.end());
    return kept;
}

}  // namespace caching
