#pragma once

#include "base/clock.h"

namespace gateway {

/// How many sequences of a gateway may be placed again after a worker failed them: a token bucket that every new
/// sequence fills by a share of a retry, and time by a floor. It begins full, so that the loss of a whole worker is no
/// reason to end its streams, while a pool that fails everything is soon asked little more than once a sequence. Not
/// thread-safe. Source: Finagle's RetryBudget; Beyer et al., Site Reliability Engineering (2016), chapter 21 (retry
/// budgets).
class RetryBudget {
public:
    struct Options {
        double share = 0.2;       // retries that a new sequence earns
        double floor_per_s = 10;  // retries that a second earns
        double saved_max = 1024;  // >= 1: what can be saved
    };
    RetryBudget(Options options, base::TimePoint now);

    /// A sequence was opened.
    void earn();
    /// One retry; false when none is left.
    [[nodiscard]] bool take(base::TimePoint now);

private:
    Options options_;
    double saved_;
    base::TimePoint filled_at_;
};

}  // namespace gateway
