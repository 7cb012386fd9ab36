#include "gateway/request/retry_budget.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using gateway::RetryBudget;

int taken(RetryBudget& budget, base::TimePoint now) {
    int count = 0;
    while (budget.take(now)) {
        ++count;
    }
    return count;
}

}  // namespace

TEST_CASE("a retry budget begins full, then follows new sequences and time", "[gateway][retry_budget]") {
    base::TimePoint now{};
    RetryBudget budget({.share = 0.25, .floor_per_s = 2, .saved_max = 5}, now);
    REQUIRE(taken(budget, now) == 5);
    for (int sequence = 0; sequence < 9; ++sequence) {
        budget.earn();
    }
    REQUIRE(taken(budget, now) == 2);  // nine quarters
    now += 1500ms;
    REQUIRE(taken(budget, now) == 3);  // and a quarter is kept
    now += 1h;
    REQUIRE(taken(budget, now) == 5);  // no more than can be saved
}

TEST_CASE("without share and floor only what was saved can be taken", "[gateway][retry_budget]") {
    base::TimePoint now{};
    RetryBudget budget({.share = 0, .floor_per_s = 0, .saved_max = 2}, now);
    REQUIRE(taken(budget, now) == 2);
    budget.earn();
    now += 24h;
    REQUIRE(taken(budget, now) == 0);
}
