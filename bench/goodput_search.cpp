#include "bench/goodput_search.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace bench {
namespace {

constexpr double kHalvingsMax =
    10;  // below rate_start / 2^10 the server is taken to be unable to meet the targets at all

double lowest_bad_rate(const GoodputSearch& search, std::span<const RatePoint> tried) {
    double lowest = std::numeric_limits<double>::infinity();
    for (const RatePoint& point : tried) {
        if (point.attainment < search.attainment_min) { lowest = std::min(lowest, point.rate); }
    }
    return lowest;
}

}  // namespace

double goodput_rate(const GoodputSearch& search, std::span<const RatePoint> tried) {
    const double lowest_bad = lowest_bad_rate(search, tried);
    double best = 0;
    for (const RatePoint& point : tried) {
        if (point.attainment >= search.attainment_min && point.rate < lowest_bad) { best = std::max(best, point.rate); }
    }
    return best;
}

std::optional<double> next_rate(const GoodputSearch& search, std::span<const RatePoint> tried) {
    if (tried.size() >= search.points_max) { return std::nullopt; }
    if (tried.empty()) { return std::min(search.rate_start, search.rate_max); }
    const double bad = lowest_bad_rate(search, tried);
    const double good = goodput_rate(search, tried);
    if (std::isinf(bad)) {
        if (good >= search.rate_max) { return std::nullopt; }
        return std::min(good * 2, search.rate_max);
    }
    if (good == 0) {
        const double lower = bad / 2;
        if (lower < search.rate_start / std::exp2(kHalvingsMax)) { return std::nullopt; }
        return lower;
    }
    if (bad <= good * (1 + search.precision)) { return std::nullopt; }
    return std::sqrt(good * bad);
}

}  // namespace bench
