// Workers of one machine on fewer cores than they have threads.
#include "tests/sim/serving_world.h"

#include "tests/support/catch.h"

namespace {

using namespace sim_test;

/// One request for each of two workers, at once.
sim::ServingTrace two_at_once(std::uint32_t prompt, std::uint32_t output) {
    return even_trace(2, 0, prompt, output);
}

sim::ServingOptions two_on(const scheduler::planner::StepTimes& times, std::uint32_t cores, std::uint32_t threads) {
    auto options = mixed(times, 2);
    options.policy = sim::Policy::round_robin;
    options.noise = 0;
    options.cores = cores;
    options.pools[0].threads = threads;
    return options;
}

}  // namespace

TEST_CASE("two workers on one core take twice as long, each on its own core as long as ever", "[sim][serving]") {
    const auto times = linear_times();
    const auto trace = two_at_once(500, 11);
    const auto alone = played(two_on(times, 0, 1), trace);
    const auto enough = played(two_on(times, 2, 1), trace);
    const auto shared = played(two_on(times, 1, 1), trace);
    const auto wide = played(two_on(times, 2, 2), trace);  // threads of two are four
    for (std::size_t i = 0; i < 2; ++i) {
        CAPTURE(i);
        REQUIRE(alone.outcomes[i].first_token_s == Approx(0.105).epsilon(0.01));
        CHECK(enough.outcomes[i].first_token_s == alone.outcomes[i].first_token_s);
        CHECK(enough.outcomes[i].last_token_s == alone.outcomes[i].last_token_s);
        CHECK(shared.outcomes[i].first_token_s == Approx(2 * alone.outcomes[i].first_token_s).epsilon(0.001));
        CHECK(shared.outcomes[i].last_token_s == Approx(2 * alone.outcomes[i].last_token_s).epsilon(0.001));
        CHECK(wide.outcomes[i].last_token_s == shared.outcomes[i].last_token_s);
    }
}

TEST_CASE("a core is shared for as long as two compute, and no longer", "[sim][serving]") {
    const auto times = linear_times();
    auto trace = two_at_once(500, 1);
    trace.requests[1].prompt_tokens = 1000;  // 205 ms alone
    const auto result = played(two_on(times, 1, 1), trace);
    // Until 210 ms both have half a core; then 100 ms are left of the longer one, which has it to itself.
    CHECK(result.outcomes[0].first_token_s == Approx(0.210).epsilon(0.005));
    CHECK(result.outcomes[1].first_token_s == Approx(0.310).epsilon(0.005));
    CHECK(result.counts.busy_seconds == Approx(0.520).epsilon(0.005));
}

TEST_CASE("who begins while another computes slows it from then on", "[sim][serving]") {
    const auto times = linear_times();
    auto trace = two_at_once(1000, 1);
    trace.requests[1] = {0.105, 500, 1};
    const auto result = played(two_on(times, 1, 1), trace);
    // 105 ms alone; then 100 ms are left of one and 105 of the other, at half the pace.
    CHECK(result.outcomes[0].first_token_s == Approx(0.305).epsilon(0.005));
    CHECK(result.outcomes[1].first_token_s == Approx(0.310).epsilon(0.005));
}

TEST_CASE("steps of workers beside each other go slower, by what each of them does", "[sim][serving]") {
    const auto times = linear_times();
    auto options = two_on(times, 2, 1);
    options.beside = {
        .prefill_by_prefill = 0.5, .prefill_by_decode = 0.1, .decode_by_prefill = 1, .decode_by_decode = 0.2};
    const auto prompts = played(options, two_at_once(500, 1));
    CHECK(prompts.outcomes[0].first_token_s == Approx(1.5 * 0.105).epsilon(0.005));
    CHECK(prompts.outcomes[1].first_token_s == Approx(1.5 * 0.105).epsilon(0.005));
    // Both decode at once, a fifth slower each: steps of 5.35 ms.
    const auto answers = played(options, two_at_once(500, 101));
    const auto& one = answers.outcomes[0];
    CHECK((one.last_token_s - one.first_token_s) / 100 == Approx(1.2 * 5.35e-3).epsilon(0.02));
    // A prompt of 205 ms beside who decodes: a tenth slower, and as long as it is computed a step takes twice as long.
    auto trace = two_at_once(500, 101);
    trace.requests[1] = {0.2, 1000, 1};
    const auto mixed = played(options, trace);
    CHECK(mixed.outcomes[1].first_token_s - 0.2 == Approx(1.1 * 0.205).epsilon(0.01));
    CHECK(mixed.outcomes[0].last_token_s - mixed.outcomes[0].first_token_s ==
          Approx(100 * 5.35e-3 + 1.1 * 0.205 / 2).epsilon(0.03));
}

TEST_CASE("with shared cores the same seed gives the same, whatever else is kept of it", "[sim][serving]") {
    const auto times = linear_times();
    auto options = two_on(times, 1, 1);
    options.noise = 0.05;
    const auto trace = even_trace(60, 0.15, 300, 20);
    const auto one = played(options, trace);
    options.checks = false;
    options.keeps_token_times = false;
    const auto other = played(options, trace);
    REQUIRE(errors(one) == 0);
    for (std::size_t i = 0; i < trace.requests.size(); ++i) {
        CAPTURE(i);
        CHECK(one.outcomes[i].first_token_s == other.outcomes[i].first_token_s);
        CHECK(one.outcomes[i].last_token_s == other.outcomes[i].last_token_s);
    }
}

TEST_CASE("workers that share cores die, slow down and are cut off as others do", "[sim][serving]") {
    const auto times = linear_times();
    auto options = two_on(times, 1, 1);
    options.policy = sim::Policy::sluice;
    options.faults = {{.at_s = 1, .kind = sim::Fault::Kind::death, .target = "mixed-0", .duration_s = 3},
                      {.at_s = 2, .kind = sim::Fault::Kind::slow, .target = "mixed-1", .duration_s = 2}};
    const auto result = played(options, even_trace(40, 0.2, 300, 10));
    CHECK(errors(result) == 0);
}
