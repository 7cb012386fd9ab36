#include <random>

#include "sim/cluster.h"

#include "tests/support/catch.h"

// DistServe (Zhong et al., OSDI 2024), section 3.1: uniform prompts of which each fills a GPU, in order of arrival,
// Poisson arrivals. The simulator has to give what the formulas say.

namespace {

using scheduler::planner::StepTimes;
using sim::ClusterRequest;
using sim::ClusterShape;

std::vector<ClusterRequest> poisson(double rate, std::size_t count, std::uint32_t seed) {
    std::mt19937_64 random{seed};
    std::exponential_distribution<double> gap(rate);
    std::vector<ClusterRequest> requests;
    double at = 0;
    for (std::size_t i = 0; i < count; ++i) {
        requests.push_back({at += gap(random), 100, 1});
    }
    return requests;
}

double mean_ttft(const ClusterShape& shape, double rate) {
    double sum = 0;
    std::size_t count = 0;
    for (std::uint32_t seed = 1; seed <= 4; ++seed) {
        for (const auto& outcome : sim::simulate_cluster(shape, poisson(rate, 300'000, seed)).outcomes) {
            sum += outcome.ttft_s;
            ++count;
        }
    }
    return sum / static_cast<double>(count);
}

ClusterShape prefill_only(const StepTimes& times, std::uint32_t stages) {
    ClusterShape shape;
    shape.prefill = shape.decode = 1;
    shape.prefill_worker = {.times = &times, .stages = stages, .tokens_max = 100};  // one prompt a step
    shape.decode_worker = {.times = &times};
    return shape;
}

}  // namespace

TEST_CASE("queues are as long as theory has them", "[sim][golden]") {
    const double service = 0.1;
    const double rate = GENERATE(2.0, 5.0, 7.5);
    CAPTURE(rate);
    StepTimes times;
    times.fitted = scheduler::planner::FittedForms{
        .prefill = {service, 0, 0}, .decode_small = {}, .decode_large = {}, .large_from = 0};
    // M/D/1.
    REQUIRE(mean_ttft(prefill_only(times, 1), rate) ==
            Approx(service + rate * service * service / (2 * (1 - rate * service))).epsilon(0.01));
    // Two pipeline stages of half the time each.
    REQUIRE(mean_ttft(prefill_only(times, 2), rate) ==
            Approx(service + rate * service * service / (4 * (2 - rate * service))).epsilon(0.01));
    // Two tensor ranks that are 1.6 times as fast as one.
    const double speedup = 1.6;
    times.fitted->prefill[0] = service / speedup;
    REQUIRE(mean_ttft(prefill_only(times, 1), rate) ==
            Approx(service / speedup + rate * service * service / (2 * speedup * (speedup - rate * service)))
                .epsilon(0.01));
}
