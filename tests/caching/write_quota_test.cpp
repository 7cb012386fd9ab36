#include "caching/exact/write_quota.h"

#include <string>

#include "base/clock.h"
#include "tests/support/catch.h"

using caching::WriteQuota;
using namespace std::chrono_literals;

namespace {

std::size_t taken(WriteQuota& quota, const std::string& tenant, const base::FakeClock& clock, std::size_t tries) {
    std::size_t count = 0;
    for (std::size_t at = 0; at < tries; ++at) {
        count += quota.take(tenant, clock.now()) ? 1 : 0;
    }
    return count;
}

}  // namespace

TEST_CASE("each tenant has so many writes a minute of its own, at once or one by one", "[caching][quota]") {
    const WriteQuota::Options options{.per_minute = 60};
    WriteQuota quota(options);
    base::FakeClock clock;
    CHECK(taken(quota, "a", clock, 1000) == 60);
    CHECK(taken(quota, "b", clock, 10) == 10);  // what a did is nothing to b
    clock.advance(5s);
    CHECK(taken(quota, "a", clock, 1000) == 5);
    clock.advance(1h);
    CHECK(taken(quota, "a", clock, 1000) == 60);  // a minute's, however long it was idle
    std::size_t steady = 0;
    for (int second = 0; second < 600; ++second) {
        clock.advance(1s);
        steady += taken(quota, "a", clock, 3);
    }
    CHECK(steady <= 600);
    CHECK(steady >= 599);
}

TEST_CASE("without a bound nothing is remembered", "[caching][quota]") {
    WriteQuota quota({});
    base::FakeClock clock;
    CHECK(taken(quota, "a", clock, 100'000) == 100'000);
    CHECK(quota.tenants() == 0);
}

TEST_CASE("tenants that can be made at will do not make it grow", "[caching][quota]") {
    WriteQuota quota({.per_minute = 2, .tenants_max = 100});
    base::FakeClock clock;
    std::size_t count = 0;
    for (int number = 0; number < 1000; ++number) {
        count += taken(quota, "made-" + std::to_string(number), clock, 1);
        REQUIRE(quota.tenants() <= 100);
    }
    CHECK(count == 100);  // further ones write nothing while so many are at it
    CHECK(taken(quota, "made-3", clock, 5) == 1);
    clock.advance(2min);
    CHECK(taken(quota, "newcomer", clock, 1) == 1);  // the others were idle long enough to be forgotten
    CHECK(quota.tenants() == 1);
}
