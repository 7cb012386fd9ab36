#include "base/clock.h"

#include <chrono>

#include "tests/support/catch.h"

using namespace std::chrono_literals;

TEST_CASE("a fake clock stands still until it is moved, both of its faces together", "[base]") {
    base::FakeClock clock;
    const auto start = clock.now();
    const auto start_us = clock.unix_us();
    REQUIRE(clock.now() == start);
    REQUIRE(start_us > 0);
    clock.advance(1500us);
    REQUIRE(clock.now() - start == 1500us);
    REQUIRE(clock.unix_us() - start_us == 1500);
    clock.advance(2h);
    REQUIRE(clock.now() - start == 2h + 1500us);
}

TEST_CASE("fake clocks agree on their start", "[base]") {
    REQUIRE(base::FakeClock().now() == base::FakeClock().now());
    REQUIRE(base::FakeClock().unix_us() == base::FakeClock().unix_us());
}

TEST_CASE("the system clock does not run backwards", "[base]") {
    const base::SystemClock clock;
    const auto first = clock.now();
    REQUIRE(clock.now() >= first);
    REQUIRE(clock.unix_us() > 1'700'000'000'000'000);
}
