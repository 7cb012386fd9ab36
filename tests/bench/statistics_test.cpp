#include "bench/statistics.h"

#include <vector>

#include "tests/support/catch.h"

TEST_CASE("a percentile lies linearly between its neighbours", "[bench]") {
    const std::vector<double> values{1, 2, 3, 4, 5};
    REQUIRE(bench::percentile(values, 0) == 1);
    REQUIRE(bench::percentile(values, 0.5) == 3);
    REQUIRE(bench::percentile(values, 0.9) == Approx(4.6));
    REQUIRE(bench::percentile(values, 1) == 5);
    REQUIRE(bench::percentile(std::vector<double>{7}, 0.99) == 7);
}

TEST_CASE("a summary does not depend on the order of the values", "[bench]") {
    const bench::Summary summary = bench::summarize({30, 10, 20, 40});
    REQUIRE(summary.count == 4u);
    REQUIRE(summary.mean == Approx(25));
    REQUIRE(summary.p50 == Approx(25));
    REQUIRE(summary.p90 == Approx(37));
    REQUIRE(summary.p99 == Approx(39.7));
    REQUIRE(summary.maximum == 40);
}

TEST_CASE("a summary of nothing is zero", "[bench]") {
    const bench::Summary summary = bench::summarize({});
    REQUIRE(summary.count == 0u);
    REQUIRE(summary.p99 == 0);
}
