#include "base/clock.h"

#include <chrono>
#include <cstdint>
#include <limits>

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

TEST_CASE("a deadline travels as the time that is left, whatever the clocks of the other host say", "[base]") {
    const base::TimePoint here{777s};
    const base::TimePoint there{5h};
    REQUIRE(base::deadline_in(base::time_left_us(here + 12s, here), there) == there + 12s);
    REQUIRE(base::deadline_in(base::time_left_us(here - 3s, here), there) == there - 3s);
    REQUIRE(base::time_left_us(here, here) < 0);  // 0 would mean that there is none
    REQUIRE(base::time_left_us(here + 400ns, here) != 0);
}

TEST_CASE("a wild number from a message is a deadline of a day at most", "[base]") {
    const base::TimePoint now{1s};
    REQUIRE(base::deadline_in(std::numeric_limits<std::int64_t>::max(), now) == now + 24h);
    REQUIRE(base::deadline_in(std::numeric_limits<std::int64_t>::min(), now) == now - 24h);
}

TEST_CASE("the system clock does not run backwards", "[base]") {
    const base::SystemClock clock;
    const auto first = clock.now();
    REQUIRE(clock.now() >= first);
    REQUIRE(clock.unix_us() > 1'700'000'000'000'000);
}
