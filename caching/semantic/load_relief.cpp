#include "caching/semantic/load_relief.h"

#include <algorithm>
#include <cmath>

namespace caching {
namespace {

constexpr double kRiseHalfLifeS = 5;   // of the mean, where the load is above it
constexpr double kFallHalfLifeS = 30;  // and below
constexpr double kHold = 0.05;         // a smaller step is not made, but to the ends
constexpr double kStepPerS = 0.1;
constexpr double kSilenceS = 15;  // without news for so long nothing is known
constexpr double kLoadMost = 100;

double seconds_between(base::TimePoint from, base::TimePoint to) {
    return std::max(std::chrono::duration<double>(to - from).count(), 0.0);
}

}  // namespace

void LoadRelief::see(double load, base::TimePoint now) {
    const double seen = std::isfinite(load) ? std::clamp(load, 0.0, kLoadMost) : 0.0;
    const double passed = seen_ ? seconds_between(*seen_, now) : kSilenceS;
    seen_ = now;
    if (passed >= kSilenceS) {
        mean_ = seen;
        relief_ = 0;
        return;
    }
    mean_ += (seen - mean_) * (1.0 - std::exp2(-passed / (seen > mean_ ? kRiseHalfLifeS : kFallHalfLifeS)));
    const double wanted = std::clamp((mean_ - options_.from) / (options_.full - options_.from), 0.0, 1.0);
    if (std::abs(wanted - relief_) <= kHold && wanted > 0 && wanted < 1) { return; }
    relief_ += std::clamp(wanted - relief_, -kStepPerS * passed, kStepPerS * passed);
}

double LoadRelief::at(base::TimePoint now) const {
    return seen_ && seconds_between(*seen_, now) < kSilenceS ? relief_ : 0.0;
}

}  // namespace caching
