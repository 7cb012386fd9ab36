#include "bench/scheduler_decisions.h"

#include "tests/support/catch.h"

TEST_CASE("bench scheduler decides for few and for many workers, and over gRPC", "[bench][scheduler]") {
    bench::SchedulerBenchOptions options;
    options.workers = {4, 60};
    options.placements = 300;
    options.prompt_tokens = 4000;
    options.scans = 100;
    options.service_workers_max = 4;
    options.service_placements = 80;
    options.prefill_share = GENERATE(0.0, 0.5);
    const auto figures = bench::measure_scheduler(options);
    if (!figures) { FAIL(figures.error().message); }
    REQUIRE(figures->size() == 2);
    const bench::SchedulerFigure& few = figures->front();
    REQUIRE(few.placements == 300);
    REQUIRE(few.refused_share == 0);
    REQUIRE(few.same_as_scan_share == 1);  // they are all looked at
    REQUIRE(few.decide_us.count == 300);
    REQUIRE(few.service_us.count == 80);
    REQUIRE(few.service_per_s > 0);
    REQUIRE(few.clocks_us > 0);
    const bench::SchedulerFigure& many = figures->back();
    REQUIRE(many.workers == 60);
    REQUIRE(many.scan_us.count == 100);
    REQUIRE(many.same_as_scan_share > 0.9);
    REQUIRE(many.as_good_share >= many.same_as_scan_share);
    REQUIRE(many.placements_per_s > 0);
    REQUIRE(many.service_us.count == 0);  // more than it is measured with
}

TEST_CASE("bench scheduler refuses sizes that make no sense", "[bench][scheduler]") {
    bench::SchedulerBenchOptions options;
    options.placements = 1;
    SECTION("one worker has no choice") {
        options.workers = {1};
    }
    SECTION("a prompt that all hold") {
        options.prompt_tokens = 100;
    }
    const auto figures = bench::measure_scheduler(options);
    REQUIRE_FALSE(figures.has_value());
    REQUIRE(figures.error().code == base::ErrorCode::invalid_argument);
}
