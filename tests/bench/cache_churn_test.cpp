#include "bench/cache_churn.h"

#include "tests/support/catch.h"

TEST_CASE("a cache at capacity serves as well after a day as in its first hour", "[bench][caching]") {
    bench::CacheChurnOptions options;
    options.entries = 1000;
    options.tenants = 3;
    options.tenant_skew = 1;
    options.labels = 1000;
    options.hours = 24;
    options.per_second = 0.1;
    const auto report = bench::play_cache_churn(options);
    const auto number = [&](const char* name) { return report.at(name).to_number<double>(); };
    CHECK(number("entries") <= 1000);
    CHECK(number("entries") >= 850);
    CHECK(number("evicted") + number("expired") > 250);  // a quarter of them was replaced
    CHECK(number("wrong_share_of_hits") <= 0.01);
    const auto& hours = report.at("by_hour").as_array();
    REQUIRE(hours.size() == 24);
    const auto share_of = [&](std::size_t from, std::size_t to) {
        double sum = 0;
        for (std::size_t hour = from; hour < to; ++hour) {
            sum += hours[hour].at("hit_share").to_number<double>() / static_cast<double>(to - from);
        }
        return sum;
    };
    REQUIRE(share_of(0, 6) > 0.1);
    CHECK(share_of(18, 24) > 0.8 * share_of(0, 6));
}
