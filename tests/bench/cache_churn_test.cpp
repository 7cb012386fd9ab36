#include "bench/cache_churn.h"

#include <cmath>

#include "tests/support/catch.h"

namespace {

/// Of requests in hours [from, to) of a day, the mean share that was found.
double hit_share(const boost::json::object& report, std::size_t from, std::size_t to) {
    const auto& hours = report.at("by_hour").as_array();
    REQUIRE(hours.size() == 24);
    double sum = 0;
    for (std::size_t hour = from; hour < to; ++hour) {
        sum += hours[hour].at("hit_share").to_number<double>();
    }
    return sum / static_cast<double>(to - from);
}

}  // namespace

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
    REQUIRE(hit_share(report, 0, 6) > 0.1);
    CHECK(hit_share(report, 18, 24) > 0.8 * hit_share(report, 0, 6));
}

TEST_CASE("what is beyond its time makes room for who comes new, all day long", "[bench][caching]") {
    bench::CacheChurnOptions options;
    options.entries = 1000;
    options.tenants = 3;
    options.labels = 1000;
    options.hours = 24;
    options.per_second = 0.1;
    options.ttl_hours = 2.5;  // within which fewer questions come than there is room for
    const auto report = bench::play_cache_churn(options);
    const auto number = [&](const char* name) { return report.at(name).to_number<double>(); };
    CHECK(number("filled_by_requests") / options.per_second / 3600 >
          options.ttl_hours);  // some of it is over when it is full
    CHECK(number("expired") > 1000);
    CHECK(number("turned_away") == 0);
    CHECK(number("evicted") == 0);
    CHECK(number("entries") <= 1000);
    CHECK(hit_share(report, 16, 24) > 0.9 * hit_share(report, 0, 8));
}

TEST_CASE("a graph finds the answers that the scan finds, through hours of churn", "[bench][caching]") {
    bench::CacheChurnOptions options;
    options.entries = 1500;
    options.tenants = 2;
    options.labels = 2000;
    options.hours = 12;
    options.per_second = 0.1;
    options.graph_from = 100;
    const auto by_graph = bench::play_cache_churn(options);
    options.graph_from = 1'000'000;
    const auto by_scan = bench::play_cache_churn(options);
    const auto hits = [](const boost::json::object& report) {
        return report.at("hits_exact").to_number<double>() + report.at("hits_semantic").to_number<double>();
    };
    REQUIRE(hits(by_scan) > 500);
    CHECK(std::abs(hits(by_graph) - hits(by_scan)) <= 0.01 * hits(by_scan));
    CHECK(by_graph.at("wrong_share_of_hits").to_number<double>() <= 0.01);
}
