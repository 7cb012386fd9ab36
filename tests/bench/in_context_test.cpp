#include "bench/in_context.h"

#include "tests/support/catch.h"

namespace {

bench::InContextBenchOptions small_run(std::uint64_t seed) {
    bench::InContextBenchOptions options;
    options.seed = seed;
    options.warm_up = 4000;
    options.step = 1200;
    options.swap = 4000;
    options.loads = {0.5, 1.0, 2.0};
    return options;
}

}  // namespace

TEST_CASE(
    "the router comes near the oracle, offloads more under load, and loses no more quality than allowed, "
    "also after a swap",
    "[bench][in_context]") {
    const auto seed = GENERATE(1u, 2u, 3u);
    CAPTURE(seed);
    const bench::InContextReport report = bench::simulate_in_context(small_run(seed));
    // From an empty store, nothing being known: what is lost is bounded from the first request on.
    CHECK(report.first.loss() < 0.03);
    CHECK(report.warm.regret < report.warm.regret_random / 3);
    REQUIRE(report.steps.size() == 3);
    for (const bench::InContextStretch& step : report.steps) {
        CAPTURE(step.load);
        CHECK(step.loss() < 0.02);
        // Without load the router is near the oracle; with too much of it the account of quality keeps it back.
        if (step.load <= 0.5) { CHECK(step.regret < step.regret_random / 3); }
        CHECK(step.offloaded < step.offloadable);
        // Examples that were chosen are better than none and than any.
        CHECK(step.quality_small > step.quality_small_alone + 0.02);
        CHECK(step.quality_small > step.quality_small_random + 0.02);
        CHECK(step.quality_small > step.quality_small_nearest - 0.05);
    }
    CHECK(report.steps[2].offloaded > report.steps[0].offloaded);
    CHECK(report.steps[2].oracle_offloaded > report.steps[0].oracle_offloaded);
    CHECK(report.examples > 100);
    // A small model that is replaced, without a word, is learnt anew.
    CHECK(report.better.adapted_in >= 0);
    CHECK(report.worse.adapted_in >= 0);
    CHECK(report.worse.regret_end < 0.05);
}

TEST_CASE("who allows more loss offloads more under load", "[bench][in_context]") {
    bench::InContextBenchOptions options = small_run(4);
    options.swap = 1;
    const double strict = bench::simulate_in_context(options).steps.back().offloaded;
    options.loss_target = 0.1;
    const bench::InContextStretch loose = bench::simulate_in_context(options).steps.back();
    CHECK(loose.offloaded > strict + 0.1);
    CHECK(loose.loss() < 0.15);
}

TEST_CASE("the simulation is the same every time", "[bench][in_context]") {
    bench::InContextBenchOptions options = small_run(5);
    options.warm_up = 800;
    options.step = 200;
    options.swap = 400;
    bench::InContextReport one = bench::simulate_in_context(options);
    bench::InContextReport other = bench::simulate_in_context(options);
    one.decide_us = other.decide_us = 0;
    CHECK(boost::json::serialize(bench::to_json(one, options)) ==
          boost::json::serialize(bench::to_json(other, options)));
}
