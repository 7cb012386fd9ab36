#include "gateway/request/retry_budget.h"

#include <algorithm>

#include "base/check.h"

namespace gateway {

RetryBudget::RetryBudget(Options options, base::TimePoint now)
    : options_(options), saved_(options.saved_max), filled_at_(now) {
    CHECK(options_.share >= 0 && options_.floor_per_s >= 0 && options_.saved_max >= 1);
}

void RetryBudget::earn() {
    saved_ = std::min(saved_ + options_.share, options_.saved_max);
}

bool RetryBudget::take(base::TimePoint now) {
    const double seconds = std::chrono::duration<double>(now - filled_at_).count();
    filled_at_ = now;
    saved_ = std::min(saved_ + seconds * options_.floor_per_s, options_.saved_max);
    if (saved_ < 1) { return false; }
    saved_ -= 1;
    return true;
}

}  // namespace gateway
