#include "sim/cluster.h"

#include <random>

#include "tests/support/catch.h"

using scheduler::planner::StepTimes;
using sim::ClusterRequest;
using sim::ClusterShape;
using sim::simulate_cluster;

namespace {

/// 1 ms for a prompt token; 10 ms for a decode step and 1 ms for each sequence in it.
StepTimes simple_times() {
    StepTimes times;
    times.fitted = scheduler::planner::FittedForms{
        .prefill = {0, 1e-3, 0}, .decode_small = {10e-3, 0, 1e-3}, .decode_large = {}, .large_from = 1e9};
    return times;
}

ClusterShape split(const StepTimes& times) {
    ClusterShape shape;
    shape.prefill = shape.decode = 1;
    shape.prefill_worker = {.times = &times};
    shape.decode_worker = {.times = &times};
    return shape;
}

ClusterShape mixed(const StepTimes& times) {
    ClusterShape shape;
    shape.mixed = 1;
    shape.mixed_worker = {.times = &times};
    return shape;
}

}  // namespace

TEST_CASE("a request alone: prefill, hand-off, decode", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = split(times);
    const auto plain = simulate_cluster(shape, {{1, 100, 11}}).outcomes[0];
    REQUIRE(plain.ttft_s == Approx(0.1));
    REQUIRE(plain.tpot_s == Approx(0.011));
    REQUIRE(plain.ended_s == Approx(1.21));

    shape.kv_bytes_per_token = 1000;
    shape.link = {.bytes_per_second = 1e6, .latency_seconds = 0.001};
    shape.pushes_layers = false;
    REQUIRE(simulate_cluster(shape, {{0, 100, 11}}).outcomes[0].hand_off_s == Approx(0.101));
    // Layer by layer beside the prompt: only the last of ten is left.
    shape.pushes_layers = true;
    shape.layers = 10;
    REQUIRE(simulate_cluster(shape, {{0, 100, 11}}).outcomes[0].hand_off_s == Approx(0.011));
}

TEST_CASE("two hand-offs of one worker share its link", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = split(times);
    shape.prefill = 2;
    shape.kv_bytes_per_token = 1000;
    shape.link = {.bytes_per_second = 1e5, .latency_seconds = 0};
    shape.pushes_layers = false;
    const auto outcomes = simulate_cluster(shape, {{0, 100, 2}, {0, 100, 2}}).outcomes;
    REQUIRE(outcomes[0].hand_off_s == Approx(1));
    REQUIRE(outcomes[1].hand_off_s == Approx(2));
}

TEST_CASE("mixed steps hold streams back for as long as their prompts take", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = mixed(times);
    const auto alone = simulate_cluster(shape, {{0, 10, 101}}).outcomes[0];
    REQUIRE(alone.tpot_s == Approx(0.011));
    const std::vector<ClusterRequest> two{{0, 10, 101}, {0.5, 1000, 2}};
    const auto whole = simulate_cluster(shape, two);
    REQUIRE(whole.outcomes[0].tpot_s > 0.019);
    // The same prompt in small chunks: later itself, the stream the same in sum.
    shape.mixed_worker.tokens_max = 64;
    const auto chunked = simulate_cluster(shape, two);
    REQUIRE(chunked.outcomes[1].ttft_s > whole.outcomes[1].ttft_s);
}

TEST_CASE("KV without room for it stays on prefill", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = split(times);
    shape.decode_worker.kv_tokens = 150;
    const auto result = simulate_cluster(shape, {{0, 100, 50}, {0, 100, 50}});
    REQUIRE(result.outcomes[0].hand_off_s == 0);
    REQUIRE(result.outcomes[1].hand_off_s > 0.4);  // until the first has ended
    REQUIRE(result.kv_share_max == 1);
}

TEST_CASE("a pipeline decodes as many batches at once as it has stages", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = split(times);
    shape.decode_worker.stages = 2;
    const auto outcomes = simulate_cluster(shape, {{0, 1, 101}, {0, 1, 101}}).outcomes;
    // One lane each: a step of one sequence takes 11 ms; one lane of both would take 12.
    REQUIRE(outcomes[0].tpot_s == Approx(0.011).epsilon(0.01));
    REQUIRE(outcomes[1].tpot_s == Approx(0.011).epsilon(0.02));
}

TEST_CASE("workers that share cores take turns on them", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = split(times);
    shape.prefill = 2;
    // Two prompts of 100 tokens at once on two workers: 0.1 s where each has a core, 0.2 s where they share one.
    const std::vector<ClusterRequest> both{{0, 100, 1}, {0, 100, 1}};
    shape.cores = 2;
    REQUIRE(simulate_cluster(shape, both).outcomes[1].ttft_s == Approx(0.1));
    shape.cores = 1;
    for (const auto& outcome : simulate_cluster(shape, both).outcomes) {
        REQUIRE(outcome.ttft_s == Approx(0.2));
    }
    // The second comes half way: 0.05 s alone, then both at half the pace, until the first ends; then alone again.
    const auto late = simulate_cluster(shape, {{0, 100, 1}, {0.05, 100, 1}});
    REQUIRE(late.outcomes[0].ended_s == Approx(0.15));
    REQUIRE(late.outcomes[1].ended_s == Approx(0.2));
    REQUIRE(late.prefill_busy == Approx((0.15 + 0.15) / 2 / 0.2));
    // Steps of two threads on three cores: both at three quarters of their pace.
    shape.cores = 3;
    shape.prefill_worker.threads = 2;
    REQUIRE(simulate_cluster(shape, both).outcomes[0].ttft_s == Approx(0.1 * 4 / 3));
}

TEST_CASE("workers beside each other read from one memory", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = split(times);
    shape.prefill = 2;
    shape.cores = 4;
    shape.beside = {.prefill_by_prefill = 0.5, .prefill_by_decode = 0.1, .decode_by_prefill = 1};
    // Two prompts of 0.1 s at once: half as long again. One that comes half way: 0.05 s alone, and a third of it later.
    REQUIRE(simulate_cluster(shape, {{0, 100, 1}, {0, 100, 1}}).outcomes[1].ttft_s == Approx(0.15));
    const auto late = simulate_cluster(shape, {{0, 100, 1}, {0.05, 100, 1}});
    REQUIRE(late.outcomes[0].ended_s == Approx(0.05 + 0.05 * 1.5));
    REQUIRE(late.outcomes[1].ended_s == Approx(0.125 + 0.1 - 0.075 / 1.5));
    // While a prompt of 0.3 s is computed, 0.33 of it beside steps of decodes, these go at half their pace.
    const auto beside = simulate_cluster(shape, {{0, 100, 101}, {0.5, 300, 1}});
    REQUIRE(beside.outcomes[1].ttft_s == Approx(0.33));
    REQUIRE(beside.outcomes[0].tpot_s == Approx((1.1 + 0.33 / 2) / 100).epsilon(0.02));
    // Where each has a machine of its own nothing of it counts.
    shape.cores = 0;
    REQUIRE(simulate_cluster(shape, {{0, 100, 1}, {0, 100, 1}}).outcomes[1].ttft_s == Approx(0.1));
}

TEST_CASE("the work beside the engines takes its part of the cores", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = mixed(times);
    shape.cores = 1;
    shape.host.step_seconds = 1e-3;
    // 1 ms after each step, while the next one runs: on one core both take their time.
    REQUIRE(simulate_cluster(shape, {{0, 100, 101}}).outcomes[0].tpot_s == Approx(0.012));
    shape.cores = 2;
    REQUIRE(simulate_cluster(shape, {{0, 100, 101}}).outcomes[0].tpot_s == Approx(0.011));
    shape.cores = 0;
    REQUIRE(simulate_cluster(shape, {{0, 100, 101}}).outcomes[0].tpot_s == Approx(0.011));

    // A prompt of 100 ms is handed over in 50 ms of processor time, while the next one is computed.
    shape = split(times);
    shape.cores = 1;
    const std::vector<ClusterRequest> two{{0, 100, 2}, {0, 100, 1}};
    const double before = simulate_cluster(shape, two).outcomes[1].ttft_s;
    shape.host.handed_token_seconds = 5e-4;
    REQUIRE(simulate_cluster(shape, two).outcomes[1].ttft_s == Approx(before + 0.05));
    shape.cores = 3;
    REQUIRE(simulate_cluster(shape, two).outcomes[1].ttft_s == Approx(0.2));
}

TEST_CASE("who decodes loses its core to prompts of others", "[sim]") {
    const StepTimes times = simple_times();
    ClusterShape shape = split(times);
    const std::vector<ClusterRequest> requests{{0, 100, 101}, {0.5, 300, 1}};
    const double apart = simulate_cluster(shape, requests).outcomes[0].tpot_s;
    REQUIRE(apart == Approx(0.011));
    shape.cores = 1;
    // 0.3 s of a prompt are computed while the other decodes: its hundred steps take 1.4 s in place of 1.1.
    REQUIRE(simulate_cluster(shape, requests).outcomes[0].tpot_s == Approx(0.014));
}

TEST_CASE("with a core for each thread of every worker nothing changes", "[sim][property]") {
    const StepTimes times = simple_times();
    std::mt19937 random{1};
    std::vector<ClusterRequest> requests;
    double at = 0;
    for (int i = 0; i < 300; ++i) {
        at += static_cast<double>(random() % 100) * 1e-3;
        requests.push_back(
            {at, 1 + static_cast<std::uint32_t>(random() % 200), 1 + static_cast<std::uint32_t>(random() % 50)});
    }
    for (const bool is_mixed : {false, true}) {
        ClusterShape shape = is_mixed ? mixed(times) : split(times);
        (is_mixed ? shape.mixed : shape.prefill) = 3;
        const auto own = simulate_cluster(shape, requests);
        shape.cores = 4;
        const auto shared = simulate_cluster(shape, requests);
        for (std::size_t i = 0; i < requests.size(); ++i) {
            REQUIRE(shared.outcomes[i].ttft_s == Approx(own.outcomes[i].ttft_s));
            REQUIRE(shared.outcomes[i].ended_s == Approx(own.outcomes[i].ended_s));
        }
    }
}

TEST_CASE("every request of any cluster ends once, and the same again", "[sim][property]") {
    const auto seed = GENERATE(range(0u, 40u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const StepTimes times = simple_times();
    ClusterShape shape = random() % 2 == 0 ? mixed(times) : split(times);
    for (auto* kind : {&shape.prefill_worker, &shape.decode_worker, &shape.mixed_worker}) {
        kind->stages = 1 + static_cast<std::uint32_t>(random() % 3);
        kind->tokens_max = 20 + static_cast<std::uint32_t>(random() % 200);
        kind->sequences_max = 1 + static_cast<std::uint32_t>(random() % 10);
        kind->kv_tokens = 400 + static_cast<double>(random() % 1000);
    }
    for (auto* count : {&shape.prefill, &shape.decode, &shape.mixed}) {
        if (*count > 0) { *count += static_cast<std::uint32_t>(random() % 3); }
    }
    shape.kv_bytes_per_token = 1000;
    shape.link = {.bytes_per_second = 1e5 * static_cast<double>(1 + random() % 20), .latency_seconds = 1e-3};
    std::vector<ClusterRequest> requests;
    double at = 0;
    for (int i = 0; i < 200; ++i) {
        requests.push_back({at += static_cast<double>(random() % 100) / 1000,
                            1 + static_cast<std::uint32_t>(random() % 200),
                            1 + static_cast<std::uint32_t>(random() % 200)});
    }
    const auto result = simulate_cluster(shape, requests);
    const auto again = simulate_cluster(shape, requests);
    for (std::size_t i = 0; i < requests.size(); ++i) {
        REQUIRE(result.outcomes[i].ttft_s > 0);
        REQUIRE(result.outcomes[i].ended_s >= requests[i].arrival_s + result.outcomes[i].ttft_s - 1e-9);
        REQUIRE((requests[i].output_tokens == 1 || result.outcomes[i].tpot_s >= 0.011 - 1e-9));
        REQUIRE(again.outcomes[i].ended_s == result.outcomes[i].ended_s);
    }
    REQUIRE(result.kv_share_max <= 1 + 1e-9);
}
