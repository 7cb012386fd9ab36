#pragma once

#include <cstddef>
#include <span>
#include <vector>

namespace bench {

/// What is told of a set of measurements. All zero when there are none.
struct Summary {
    std::size_t count = 0;
    double mean = 0;
    double deviation = 0;  // standard, of all values (not of a sample)
    double p50 = 0;
    double p90 = 0;
    double p95 = 0;
    double p99 = 0;
    double maximum = 0;
};

/// The value below which `share` (0..1) of `sorted` (ascending, not empty) lies, linear between neighbours: 0 gives the
/// smallest, 1 the largest. The same as numpy.percentile's default.
double percentile(std::span<const double> sorted, double share);

/// Any order; NaN is not allowed.
Summary summarize(std::vector<double> values);

}  // namespace bench
