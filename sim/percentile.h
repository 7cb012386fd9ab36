#pragma once

#include <cstddef>
#include <span>

namespace sim {

/// Of ascending values; linear between neighbours, as bench and numpy have it. 0 for none.
inline double percentile(std::span<const double> sorted, double share) {
    if (sorted.empty()) { return 0; }
    const double place = share * static_cast<double>(sorted.size() - 1);
    const auto low = static_cast<std::size_t>(place);
    if (low + 1 >= sorted.size()) { return sorted.back(); }
    return sorted[low] + (sorted[low + 1] - sorted[low]) * (place - static_cast<double>(low));
}

inline double mean(std::span<const double> values) {
    double sum = 0;
    for (const double value : values) {
        sum += value;
    }
    return values.empty() ? 0 : sum / static_cast<double>(values.size());
}

}  // namespace sim
