// Ends of steps that are passed in a row, held against the same ones taken from the queue of events one by one.
#include <random>

#include "base/log.h"
#include "tests/sim/serving_world.h"

#include "tests/support/catch.h"
#include "tests/support/seeds.h"

namespace {

using namespace sim_test;

std::uint32_t draw(std::mt19937_64& random, std::uint32_t values) {
    return static_cast<std::uint32_t>(random() % values);
}

/// Requests in bursts, a third of whose prompts begin as one before.
sim::ServingTrace bursts(std::mt19937_64& random, std::uint32_t block_tokens) {
    sim::ServingTrace trace;
    trace.block_tokens = block_tokens;
    const double gap_ms = 2.0 * (1 + draw(random, 40));
    const std::uint32_t count = 20 + draw(random, 150);
    double at = 0;
    for (std::uint64_t i = 0; i < count; ++i) {
        // Whole milliseconds: steps of a few ends fall on arrivals now and then.
        if (draw(random, 3) != 0) { at += gap_ms * draw(random, 3) * 1e-3; }
        sim::ServedRequest request{
            .arrival_s = at, .prompt_tokens = 1 + draw(random, 300), .output_tokens = 1 + draw(random, 120)};
        request.first_block = trace.blocks.size();
        request.blocks = request.prompt_tokens / trace.block_tokens;
        const std::uint64_t begins_as = draw(random, 3) == 0 ? i - std::min<std::uint64_t>(i, 1 + draw(random, 9)) : i;
        for (std::uint64_t block = 0; block < request.blocks; ++block) {
            const std::uint64_t name = (begins_as + 1) * 1024 + block;
            trace.blocks.push_back({name * 0x9e3779b97f4a7c15u, name});
        }
        trace.requests.push_back(request);
    }
    return trace;
}

sim::ServingOptions cluster(std::mt19937_64& random, const scheduler::planner::StepTimes& times) {
    sim::ServingOptions options = mixed(times, 1 + draw(random, 6));
    options.checks = false;
    options.keeps_token_times = false;
    options.noise = draw(random, 3) == 0 ? 0 : 0.02;
    options.seed = random();
    if (draw(random, 2) == 0) {
        options.pools.front().role = proto::Role::prefill;
        options.pools.push_back(options.pools.front());
        options.pools.back().role = proto::Role::decode;
        options.pools.back().count = 1 + draw(random, 4);
        options.links = {.kv_bytes_per_token = 1e5, .bytes_per_second = draw(random, 2) == 0 ? 0 : 1e9};
    }
    for (sim::ServingPool& pool : options.pools) {
        // Some pools are so small that sequences give way.
        pool.kv_tokens = draw(random, 3) == 0 ? 1'200 : 100'000;
        pool.limits.batch_sequences_max = draw(random, 4) == 0 ? 6 : pool.limits.batch_sequences_max;
    }
    if (draw(random, 2) == 0) {
        options.ttft_target_s = 2;
        options.tpot_target_s = 0.05;
    }
    return options;
}

void require_equal(const sim::ServingResult& one, const sim::ServingResult& other) {
    REQUIRE(one.outcomes.size() == other.outcomes.size());
    for (std::size_t i = 0; i < one.outcomes.size(); ++i) {
        CAPTURE(i);
        const sim::ServedOutcome& left = one.outcomes[i];
        const sim::ServedOutcome& right = other.outcomes[i];
        REQUIRE(left.first_token_s == right.first_token_s);
        REQUIRE(left.last_token_s == right.last_token_s);
        REQUIRE(left.ended_s == right.ended_s);
        REQUIRE(left.tokens == right.tokens);
        REQUIRE(left.cached_tokens == right.cached_tokens);
        REQUIRE(left.placements == right.placements);
        REQUIRE(left.error == right.error);
    }
    REQUIRE(one.counts.events == other.counts.events);
    REQUIRE(one.counts.steps == other.counts.steps);
    REQUIRE(one.counts.tokens == other.counts.tokens);
    REQUIRE(one.counts.preemptions == other.counts.preemptions);
    REQUIRE(one.counts.placements == other.counts.placements);
    REQUIRE(one.counts.refused == other.counts.refused);
    REQUIRE(one.counts.hand_offs == other.counts.hand_offs);
    REQUIRE(one.counts.hand_off_seconds == other.counts.hand_off_seconds);
    REQUIRE(one.counts.busy_seconds == other.counts.busy_seconds);
    REQUIRE(one.ended_s == other.ended_s);
}

}  // namespace

TEST_CASE("a run whose quiet steps are passed in a row comes out as one that takes them one by one",
          "[sim][property]") {
    spdlog::set_level(spdlog::level::off);
    std::uint64_t quiet = 0;
    std::uint64_t steps = 0;
    std::uint64_t preemptions = 0;
    std::uint64_t hand_offs = 0;
    const std::uint32_t seeds = test_support::seeds_of(120);
    for (std::uint32_t seed = 0; seed < seeds; ++seed) {
        CAPTURE(seed);
        std::mt19937_64 random{seed};
        const auto times = linear_times();
        const auto trace = bursts(random, draw(random, 2) == 0 ? 16 : 128);
        auto options = cluster(random, times);
        const auto in_a_row = sim::simulate_serving(options, trace);
        options.passes_quiet_steps = false;
        const auto one_by_one = sim::simulate_serving(options, trace);
        REQUIRE(in_a_row.has_value());
        REQUIRE(one_by_one.has_value());
        require_equal(*in_a_row, *one_by_one);
        REQUIRE(one_by_one->counts.quiet_steps == 0);
        quiet += in_a_row->counts.quiet_steps;
        steps += in_a_row->counts.steps;
        preemptions += in_a_row->counts.preemptions;
        hand_offs += in_a_row->counts.hand_offs;
    }
    CAPTURE(quiet, steps);
    CHECK(quiet > steps / 10);
    CHECK(preemptions > 0);
    CHECK(hand_offs > 0);
}
