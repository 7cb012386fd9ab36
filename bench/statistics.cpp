#include "bench/statistics.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace bench {

double percentile(std::span<const double> sorted, double share) {
    CHECK(!sorted.empty());
    CHECK(share >= 0 && share <= 1, "share " << share);
    const double position = share * static_cast<double>(sorted.size() - 1);
    const auto below = static_cast<std::size_t>(std::floor(position));
    const std::size_t above = std::min(below + 1, sorted.size() - 1);
    const double weight = position - static_cast<double>(below);
    return sorted[below] + (sorted[above] - sorted[below]) * weight;
}

Summary summarize(std::vector<double> values) {
    if (values.empty()) { return {}; }
    std::sort(values.begin(), values.end());
    const auto count = static_cast<double>(values.size());
    const double mean = std::accumulate(values.begin(), values.end(), 0.0) / count;
    double squares = 0;
    for (const double value : values) {
        squares += (value - mean) * (value - mean);
    }
    return {.count = values.size(),
            .mean = mean,
            .deviation = std::sqrt(squares / count),
            .p50 = percentile(values, 0.50),
            .p90 = percentile(values, 0.90),
            .p95 = percentile(values, 0.95),
            .p99 = percentile(values, 0.99),
            .maximum = values.back()};
}

}  // namespace bench
