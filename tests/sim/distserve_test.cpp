#include "sim/distserve.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <sstream>

#include "scheduler/planner/fitted_tables.h"
#include "sim/percentile.h"

#include "tests/support/catch.h"

// Rows that DistServe's own simulator gave (LLMServe/DistServe, commit 82831f1, run unmodified) for one generator and
// seed: mean, P50, P90, P99 of TTFT, mean and P90 of TPOT, share that met both targets.

namespace {

using scheduler::planner::FittedForms;
using sim::DistserveCluster;
using sim::DistserveRequest;

std::vector<DistserveRequest> chat(double rate, std::size_t count, std::uint64_t x = 1) {
    const auto draw = [&x] {
        x = (1103515245 * x + 12345) % (std::uint64_t{1} << 31);
        return (static_cast<double>(x) + 0.5) / 2147483648.0;
    };
    std::vector<DistserveRequest> requests;
    double at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        DistserveRequest request;
        request.prompt_tokens = static_cast<std::uint32_t>(std::exp(std::log(32) + draw() * std::log(1500 / 32.0)));
        request.output_tokens = static_cast<std::uint32_t>(std::exp(std::log(8) + draw() * std::log(500 / 8.0)));
        if (i > 0) { at -= 1000 * std::log(draw()) / rate; }
        request.arrival_ms = at;
        requests.push_back(request);
    }
    return requests;
}

struct Row {
    const char* engine;
    const char* model;
    std::uint32_t prefill_tensor;
    std::uint32_t decode_tensor;
    std::uint32_t decode_stages;
    double kv_tokens;  // of the prefill instance
    double rate;
    double ttft[4];
    double tpot[2];
    double both;
    double ttft_target;
};

}  // namespace

TEST_CASE("DistServe's simulator is repeated, quirks and all", "[sim][golden]") {
    const char* configured = std::getenv("SLUICE_SHARED");
    const std::string folder =
        std::string(configured != nullptr ? configured : SLUICE_SOURCE_DIR "/../shared") + "/data/profiles/distserve/";
    // clang-format off
    const Row row = GENERATE(
        Row{"distserve", "facebook/opt-13b", 1, 1, 1, 66144, 4, {80.800, 56.777, 168.519, 327.848}, {28.403, 32.070}, 98.0, 250},
        Row{"distserve", "facebook/opt-13b", 2, 1, 1, 163008, 6, {57.746, 42.319, 112.883, 220.521}, {31.896, 37.554}, 99.33, 250},
        Row{"vllm", "facebook/opt-13b", 1, 1, 1, 66144, 1.5, {106.755, 79.392, 205.544, 289.683}, {32.980, 38.102}, 95.67, 250},
        Row{"vllm", "facebook/opt-13b", 1, 1, 1, 66144, 3, {121.698, 88.785, 236.876, 442.189}, {44.017, 53.929}, 91.0, 250},
        Row{"distserve", "facebook/opt-66b", 4, 2, 2, 78496, 4, {136.346, 94.862, 277.239, 586.750}, {63.693, 69.079}, 95.67, 400},
        Row{"distserve", "facebook/opt-66b", 4, 4, 1, 78496, 4, {136.346, 94.862, 277.239, 586.750}, {40.190, 43.649}, 95.67, 400},
        Row{"vllm", "facebook/opt-66b", 4, 4, 1, 78496, 1, {189.052, 137.175, 396.577, 507.944}, {54.425, 62.702}, 89.33, 400});
    // clang-format on
    std::ifstream file(folder + "profiler-a100-80g." + row.engine + ".json");
    if (!file) {
        std::cout << "SKIPPED: " << folder << " is not there (SLUICE_SHARED)" << std::endl;
        return;
    }
    std::ostringstream text;
    text << file.rdbuf();
    const auto prefill = scheduler::planner::read_fitted_forms(text.str(), row.model, row.prefill_tensor);
    const auto decode = scheduler::planner::read_fitted_forms(text.str(), row.model, row.decode_tensor);
    REQUIRE(prefill);
    REQUIRE(decode);
    DistserveCluster cluster;
    cluster.prefill = *prefill;
    cluster.decode = *decode;
    cluster.decode_stages = row.decode_stages;
    cluster.colocated = std::string(row.engine) == "vllm";
    cluster.prefill_tokens_max = row.kv_tokens;
    const auto outcomes = sim::simulate_distserve(cluster, chat(row.rate, 300));
    std::vector<double> ttft;
    std::vector<double> tpot;
    double met = 0;
    for (const auto& outcome : outcomes) {
        ttft.push_back(outcome.ttft_ms);
        tpot.push_back(outcome.tpot_ms);
        met += outcome.ttft_ms <= row.ttft_target && outcome.tpot_ms <= 100 ? 1 : 0;
    }
    std::sort(ttft.begin(), ttft.end());
    std::sort(tpot.begin(), tpot.end());
    CAPTURE(row.engine, row.model, row.rate);
    const double seen[] = {sim::mean(ttft),
                           sim::percentile(ttft, 0.5),
                           sim::percentile(ttft, 0.9),
                           sim::percentile(ttft, 0.99),
                           sim::mean(tpot),
                           sim::percentile(tpot, 0.9),
                           met / 3};
    const double told[] = {row.ttft[0], row.ttft[1], row.ttft[2], row.ttft[3], row.tpot[0], row.tpot[1], row.both};
    for (std::size_t i = 0; i < std::size(told); ++i) {
        CAPTURE(i);
        REQUIRE(seen[i] == Approx(told[i]).epsilon(0.001));
    }
}

TEST_CASE("requests that come one at a time all see the same", "[sim]") {
    FittedForms forms;
    forms.prefill = {18.10254647486372, 0.1019122572698738, 7.122264314252114e-06};
    forms.decode_small = {19.934702624895458, 0.0006269356524350583, 0.03850697740828398};
    forms.large_from = 95;
    DistserveCluster cluster;
    cluster.prefill = cluster.decode = forms;
    std::vector<DistserveRequest> requests;
    for (int i = 0; i < 100; ++i) {
        requests.push_back({250.0 * i, 512, 64});
    }
    // Decoding takes six times a gap: its batch is in a steady state after a few requests.
    const auto outcomes = sim::simulate_distserve(cluster, requests);
    for (const auto& outcome : outcomes) {
        REQUIRE(outcome.ttft_ms == Approx(75.200).epsilon(1e-4));
    }
    // Without its quirks: the prefill's own time, and one step less for the same tokens.
    cluster.quirks = {.first_stage_overhead = false,
                      .stage_overhead_ms = false,
                      .decodes_one_too_many = false,
                      .decode_context_max = 0};
    const auto plain = sim::simulate_distserve(cluster, requests);
    REQUIRE(plain[0].ttft_ms == Approx(forms.prefill_seconds(512, 512 * 512)));
    REQUIRE(plain[50].tpot_ms < outcomes[50].tpot_ms);
}
