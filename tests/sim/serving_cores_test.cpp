// Workers of one machine on fewer cores than they have threads.
#include <random>

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

TEST_CASE("work beside the engines takes its part of the cores after each step", "[sim][serving]") {
    const auto times = linear_times();
    const auto gap = [&](std::uint32_t cores, double step_seconds) {
        auto options = two_on(times, cores, 1);
        options.host.step_seconds = step_seconds;
        const auto result = played(options, two_at_once(500, 101));
        CHECK(result.outcomes[0].last_token_s == result.outcomes[1].last_token_s);
        return (result.outcomes[0].last_token_s - result.outcomes[0].first_token_s) / 100;
    };
    // Both end a step every 5.35 ms, with 1 ms of work each. With three threads on two cores both wait for half of it.
    CHECK(gap(2, 1e-3) == Approx(gap(2, 0) + 1e-3).epsilon(0.01));
    CHECK(gap(1, 1e-3) == Approx(2 * gap(2, 0) + 2e-3).epsilon(0.01));
    CHECK(gap(3, 1e-3) == gap(2, 0));
    CHECK(gap(0, 1e-3) == gap(2, 0));  // nobody shares anything
}

TEST_CASE("handing KV over takes its part of the cores from whoever computes meanwhile", "[sim][serving]") {
    const auto times = linear_times();
    const auto second_first_token = [&](std::uint32_t cores, double handed_token_seconds) {
        auto options = mixed(times, 1);
        options.pools.push_back(options.pools[0]);
        options.pools[0].role = proto::Role::prefill;
        options.pools[1].role = proto::Role::decode;
        options.links = {.kv_bytes_per_token = 1000};
        options.noise = 0;
        options.cores = cores;
        options.host.handed_token_seconds = handed_token_seconds;
        auto trace = even_trace(2, 0.01, 500, 2);
        trace.requests[1].output_tokens = 1;
        return played(options, trace).outcomes[1].first_token_s;
    };
    // 50 ms for the first prompt, while the second is computed.
    CHECK(second_first_token(1, 1e-4) == Approx(second_first_token(1, 0) + 0.05).epsilon(1e-3));
    CHECK(second_first_token(3, 1e-4) == second_first_token(3, 0));
}

TEST_CASE("a core does in all what the engine and the work beside it need", "[sim][serving][property]") {
    const auto seed = GENERATE(range(0u, 50u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto any = [&](std::uint32_t least, std::uint32_t most) {
        return std::uniform_int_distribution<std::uint32_t>(least, most)(random);
    };
    const auto times = linear_times();
    auto options = mixed(times, 1);
    options.noise = 0;
    options.cores = 1;
    sim::ServingTrace trace;
    trace.requests.push_back({0.001 * any(0, 1000), any(200, 800), any(1, 40)});
    const auto alone = played(options, trace);
    // Less than half of a step, so that it has ended when the next one does; of the last step it comes too late.
    options.host = {.step_seconds = 1e-5 * any(0, 200)};
    const auto shared = played(options, trace);
    const double work = static_cast<double>(alone.counts.steps - 1) * options.host.step_seconds;
    CHECK(shared.counts.steps == alone.counts.steps);
    CHECK(shared.outcomes[0].last_token_s == Approx(alone.outcomes[0].last_token_s + work).margin(1e-6));
    CHECK(shared.counts.busy_seconds == Approx(alone.counts.busy_seconds + work).margin(1e-6));

    options.cores = 2;  // the engine has one to itself
    const auto apart = played(options, trace);
    CHECK(apart.outcomes[0].first_token_s == alone.outcomes[0].first_token_s);
    CHECK(apart.outcomes[0].last_token_s == alone.outcomes[0].last_token_s);
}

TEST_CASE("with shared cores the same seed gives the same, whatever else is kept of it", "[sim][serving]") {
    const auto times = linear_times();
    auto options = two_on(times, 1, 1);
    options.noise = 0.05;
    options.host = {.step_seconds = 5e-4};
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
    options.host = {.step_seconds = 5e-4};
    options.faults = {{.at_s = 1, .kind = sim::Fault::Kind::death, .target = "mixed-0", .duration_s = 3},
                      {.at_s = 2, .kind = sim::Fault::Kind::slow, .target = "mixed-1", .duration_s = 2}};
    const auto result = played(options, even_trace(40, 0.2, 300, 10));
    CHECK(errors(result) == 0);
}
