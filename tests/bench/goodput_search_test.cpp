#include "bench/goodput_search.h"

#include <vector>

#include "tests/support/catch.h"

namespace {

/// Runs the search against a server that meets the targets up to `capacity` requests/s.
std::vector<bench::RatePoint> search_all(const bench::GoodputSearch& search, double capacity) {
    std::vector<bench::RatePoint> tried;
    while (const auto rate = bench::next_rate(search, tried)) {
        tried.push_back({.rate = *rate, .attainment = *rate <= capacity ? 0.97 : 0.4});
        REQUIRE(tried.size() <= search.points_max);
    }
    return tried;
}

}  // namespace

TEST_CASE("the search ends within its precision below the capacity", "[bench]") {
    const double capacity = GENERATE(0.3, 1.0, 2.5, 17.0, 400.0);
    CAPTURE(capacity);
    const bench::GoodputSearch search{.rate_start = 1, .precision = 0.1, .points_max = 40};
    const double goodput = bench::goodput_rate(search, search_all(search, capacity));
    REQUIRE(goodput <= capacity);
    REQUIRE(goodput * 1.1 >= capacity * 0.999);
}

TEST_CASE("the search never exceeds its highest rate", "[bench]") {
    const bench::GoodputSearch search{.rate_start = 1, .rate_max = 6};
    const auto tried = search_all(search, 1000);
    REQUIRE(tried.back().rate == 6);
    REQUIRE(bench::goodput_rate(search, tried) == 6);
}

TEST_CASE("a server that meets the targets at no rate has goodput zero", "[bench]") {
    const bench::GoodputSearch search{};
    REQUIRE(bench::goodput_rate(search, search_all(search, 0)) == 0);
}

TEST_CASE("a good rate above a bad one does not count", "[bench]") {
    const std::vector<bench::RatePoint> tried{
        {.rate = 1, .attainment = 1}, {.rate = 2, .attainment = 0.5}, {.rate = 4, .attainment = 0.95}};
    REQUIRE(bench::goodput_rate({}, tried) == 1);
}
