#include "sim/vllm_replay.h"

#include <random>

#include "sim/vllm_pool.h"

#include "tests/support/catch.h"

using scheduler::planner::StepTimes;
using sim::replay_vllm;
using sim::ReplayOptions;
using sim::ReplayRequest;

namespace {

/// A prompt token takes 1 ms, a step with decoding sequences alone 10 ms.
StepTimes simple_times() {
    StepTimes times;
    times.fitted = {
        .prefill = {0, 1e-3, 0}, .decode_small = {10e-3, 0, 0}, .decode_large = {10e-3, 0, 0}, .large_from = 1000};
    return times;
}

ReplayOptions options(std::uint32_t blocks) {
    ReplayOptions options;
    options.blocks_total = blocks;
    options.plans_ahead = false;
    return options;
}

}  // namespace

TEST_CASE("a request alone takes its steps one after the other", "[sim]") {
    const auto result = replay_vllm(options(100), simple_times(), {{"a", 5.0, 100, 11}});
    REQUIRE(result);
    REQUIRE(result->outcomes[0].ttft_s == Approx(0.1));
    REQUIRE(*result->outcomes[0].tpot_s == Approx(0.01));
    REQUIRE(result->steps == 11);
    REQUIRE(result->makespan_s == Approx(0.2));
    const auto one = replay_vllm(options(100), simple_times(), {{"a", 0, 100, 1}});
    REQUIRE_FALSE(one->outcomes[0].tpot_s);
}

TEST_CASE("prompts are cut to the step's tokens, running sequences first", "[sim]") {
    ReplayOptions small = options(1000);
    small.tokens_max = 50;
    const auto result = replay_vllm(small, simple_times(), {{"a", 0, 50, 3}, {"b", 0, 98, 1}});
    REQUIRE(result);
    // a: 50. Then a's token and 49 of b (49 ms), twice.
    REQUIRE(result->outcomes[0].ttft_s == Approx(0.05));
    REQUIRE(result->outcomes[1].ttft_s == Approx(0.05 + 0.049 * 2));
    REQUIRE(result->steps == 3);
}

TEST_CASE("who plans ahead sees a newcomer one step later", "[sim]") {
    ReplayOptions ahead = options(1000);
    ahead.plans_ahead = true;
    const std::vector<ReplayRequest> requests{{"a", 0, 10, 100}, {"b", 0.105, 10, 2}};
    const auto later = replay_vllm(ahead, simple_times(), requests);
    const auto now = replay_vllm(options(1000), simple_times(), requests);
    REQUIRE(now->outcomes[1].ttft_s == Approx(0.015));
    REQUIRE(later->outcomes[1].ttft_s == Approx(0.025));
}

TEST_CASE("where KV runs out the latest sequence gives way and finds what nobody took", "[sim]") {
    // Room for 8 blocks of 16; each needs 3 for its prompt and in the end 6.
    const std::vector<ReplayRequest> requests{{"a", 0, 48, 48}, {"b", 0, 48, 48}};
    ReplayOptions tight = options(8);
    const auto kept = replay_vllm(tight, simple_times(), requests);
    tight.keeps_prefixes = false;
    const auto lost = replay_vllm(tight, simple_times(), requests);
    REQUIRE(kept);
    REQUIRE(kept->preemptions > 0);
    REQUIRE(kept->outcomes[0].ended_s < kept->outcomes[1].ended_s);
    REQUIRE(kept->outcomes[1].ended_s <= lost->outcomes[1].ended_s);
}

TEST_CASE("a request that can never run is refused", "[sim]") {
    REQUIRE(replay_vllm(options(2), simple_times(), {{"a", 0, 30, 3}}).error().message.find("can never run") !=
            std::string::npos);
    REQUIRE_FALSE(replay_vllm(options(2), simple_times(), {{"a", 0, 0, 3}}));
    REQUIRE(replay_vllm(options(2), simple_times(), {})->outcomes.empty());
}

TEST_CASE("every request of any load ends, and blocks are neither lost nor doubled", "[sim]") {
    const auto seed = GENERATE(range(0u, 30u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    ReplayOptions some = options(10 + static_cast<std::uint32_t>(random() % 40));
    some.plans_ahead = random() % 2 == 0;
    some.keeps_prefixes = random() % 2 == 0;
    some.tokens_max = 8 + static_cast<std::uint32_t>(random() % 100);
    some.sequences_max = 1 + static_cast<std::uint32_t>(random() % 20);
    std::vector<ReplayRequest> requests;
    for (int i = 0; i < 60; ++i) {
        requests.push_back({std::to_string(i), static_cast<double>(random() % 1000) / 200,
                            1 + static_cast<std::uint32_t>(random() % 80),
                            1 + static_cast<std::uint32_t>(random() % 80)});
    }
    const auto result = replay_vllm(some, simple_times(), requests);
    REQUIRE(result);
    const auto again = replay_vllm(some, simple_times(), requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
        REQUIRE(result->outcomes[i].ttft_s > 0);
        REQUIRE(result->outcomes[i].ended_s > 0);
        REQUIRE(again->outcomes[i].ended_s == result->outcomes[i].ended_s);
    }
    REQUIRE(result->running_max <= some.sequences_max);
    REQUIRE(result->kv_share_max <= 1);
}

TEST_CASE("freed blocks are kept until they are given out, the oldest first", "[sim]") {
    sim::VllmPool pool(4);
    sim::VllmPool::Blocks a;
    pool.take(a, 1, 0, 3);
    REQUIRE(pool.free_blocks() == 1);
    pool.give_back(a);
    REQUIRE(pool.free_blocks() == 4);
    REQUIRE(pool.kept(a, 1, 10) == 3);
    REQUIRE(pool.kept(a, 1, 2) == 2);
    sim::VllmPool::Blocks b;
    pool.take(b, 2, 0, 2);  // the one never used, then a's last
    REQUIRE(pool.kept(a, 1, 10) == 2);
    pool.take(a, 1, 2, 0);
    REQUIRE(a.held.size() == 2);
    REQUIRE(pool.free_blocks() == 0);
}
