#pragma once

#include <cstddef>
#include <optional>
#include <span>

namespace bench {

/// One run of a sweep.
struct RatePoint {
    double rate;        // requests/s offered
    double attainment;  // share of requests that met the targets, 0..1
};

struct GoodputSearch {
    double rate_start = 1;        // > 0; the first rate tried
    double rate_max = 1024;       // never more than this
    double attainment_min = 0.9;  // what counts as good
    double precision = 0.1;       // stop when the lowest bad rate is within this share of the highest good one
    std::size_t points_max = 16;  // runs at most
};

/// The rate to try next: doubled while all is good, halved while all is bad, then between the two. Empty when the
/// answer is precise enough or the points are used up. Pure.
std::optional<double> next_rate(const GoodputSearch& search, std::span<const RatePoint> tried);

/// The highest rate that was good, with every lower one that was tried good too; 0 when there is none. Pure.
double goodput_rate(const GoodputSearch& search, std::span<const RatePoint> tried);

}  // namespace bench
