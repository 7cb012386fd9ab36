// What clients get of the production scheduler and step loops, over modelled engines on a virtual clock.
#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/modelled_cluster.h"

using namespace test_support;

namespace {

/// About what two cores do with a model of 110M parameters: 6 ms to read the weights, half a millisecond a token.
constexpr base::StepCost kTwoCores{.prefill = {5e-3, 4.8e-4, 2e-8}, .decode = {6e-3, 5e-4, 1.6e-6}};

struct Figures {
    double inside = 0;   // share of all requests within both targets
    double refused = 0;  // share
    double ttft_error_p50 = 0, ttft_error_p90 = 0, tpot_error_p50 = 0, tpot_error_p90 = 0;
    double ttft_ratio_p50 = 0, tpot_ratio_p50 = 0;
};

double quantile(std::vector<double> values, double q) {
    if (values.empty()) { return 0; }
    std::sort(values.begin(), values.end());
    return values[std::min(values.size() - 1, static_cast<std::size_t>(q * static_cast<double>(values.size())))];
}

Figures figures(const std::vector<ModelledRequest>& requests, const std::vector<ModelledOutcome>& outcomes) {
    Figures out;
    std::vector<double> ttft, tpot, ttft_ratio, tpot_ratio;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        const ModelledOutcome& outcome = outcomes[i];
        out.refused += outcome.is_refused;
        out.inside += outcome.meets(requests[i]);
        if (outcome.is_refused) { continue; }
        const double real = outcome.ttft - (outcome.arrived - requests[i].at);
        ttft.push_back(std::abs(outcome.predicted_ttft / real - 1));
        tpot.push_back(std::abs(outcome.predicted_tpot / outcome.tpot - 1));
        ttft_ratio.push_back(outcome.predicted_ttft / real);
        tpot_ratio.push_back(outcome.predicted_tpot / outcome.tpot);
    }
    const auto n = static_cast<double>(requests.size());
    out.inside /= n;
    out.refused /= n;
    out.ttft_error_p50 = quantile(ttft, 0.5);
    out.ttft_error_p90 = quantile(ttft, 0.9);
    out.tpot_error_p50 = quantile(tpot, 0.5);
    out.tpot_error_p90 = quantile(tpot, 0.9);
    out.ttft_ratio_p50 = quantile(ttft_ratio, 0.5);
    out.tpot_ratio_p50 = quantile(tpot_ratio, 0.5);
    return out;
}

ModelledCluster::Options options_of(int workers, bool admit, std::uint32_t seed) {
    ModelledCluster::Options options{.workers = workers, .cost = kTwoCores, .seed = seed};
    options.scheduler.rules.admit_by_prediction = admit;
    return options;
}

Figures figures_at(double rate, int workers, bool admit, std::uint32_t seed) {
    ModelledCluster cluster(options_of(workers, admit, seed));
    const auto requests = poisson(rate * workers, 400, seed, {});
    return figures(requests, cluster.run(requests));
}

}  // namespace

TEST_CASE("predicted times to the first token are those that come, at loads that meet the targets", "[goodput]") {
    const auto seed = GENERATE(1u, 2u, 3u);
    const auto workers = GENERATE(1, 2);
    const auto rate = GENERATE(0.6, 1.25);  // requests a second for each worker
    CAPTURE(seed, workers, rate);
    const Figures with = figures_at(rate, workers, true, seed);
    CAPTURE(with.ttft_error_p50, with.ttft_error_p90, with.ttft_ratio_p50);
    REQUIRE(with.ttft_error_p50 < 0.10);
    REQUIRE(with.ttft_error_p90 < 0.25);
    REQUIRE(with.tpot_ratio_p50 == Approx(1).margin(0.15));  // one answer's is a matter of who comes meanwhile
}

TEST_CASE("refusing by prediction costs nothing where nearly all are in time", "[goodput]") {
    const auto seed = GENERATE(1u, 2u, 3u);
    const auto workers = GENERATE(1, 2);
    const auto rate = GENERATE(0.6, 0.9, 1.25);
    CAPTURE(seed, workers, rate);
    const Figures with = figures_at(rate, workers, true, seed);
    const Figures without = figures_at(rate, workers, false, seed);
    CAPTURE(with.inside, with.refused, without.inside);
    REQUIRE(with.inside >= without.inside - 0.02);
    REQUIRE(with.refused <= 1 - without.inside + 0.02);  // not more than would be late
}

TEST_CASE("refusing by prediction keeps goodput up where the load is too high", "[goodput]") {
    const auto seed = GENERATE(1u, 2u, 3u);
    const auto workers = GENERATE(1, 2);
    CAPTURE(seed, workers);
    const Figures with = figures_at(3, workers, true, seed);
    const Figures without = figures_at(3, workers, false, seed);
    const Figures peak = figures_at(1.6, workers, false, seed);
    CAPTURE(with.inside, with.refused, without.inside, peak.inside);
    REQUIRE(without.inside < 0.3);  // all queue behind those that are late
    REQUIRE(3 * with.inside >= 1.6 * peak.inside);
    REQUIRE(with.inside + with.refused >= 0.9);  // nearly all that are let in are in time
}

TEST_CASE("where all takes four times as long and may, as much is in time", "[goodput]") {
    const auto seed = GENERATE(1u, 2u, 3u);
    const auto rate = GENERATE(3.0, 10.0);
    CAPTURE(seed, rate);
    constexpr double kTimes = 4;
    const auto times = [](base::PrefillCost cost) {
        return base::PrefillCost{kTimes * cost.step_seconds, kTimes * cost.token_seconds,
                                 kTimes * cost.context_seconds};
    };
    const auto inside = [&](double dilated) {
        ModelledCluster::Options options = options_of(2, true, seed);
        ModelledRequest like;
        if (dilated > 1) {
            options.cost.prefill = times(options.cost.prefill);
            options.cost.decode.step_seconds *= kTimes;
            options.cost.decode.sequence_seconds *= kTimes;
            options.cost.decode.context_seconds *= kTimes;
            like.ttft_seconds *= kTimes;  // 4 s: about as long as worker.prompt_wait_ms
            like.tpot_seconds *= kTimes;
        }
        ModelledCluster cluster(options);
        const auto requests = poisson(rate * options.workers / dilated, 600, seed, like);
        return figures(requests, cluster.run(requests)).inside;
    };
    const double as_it_is = inside(1);
    const double dilated = inside(kTimes);
    CAPTURE(as_it_is, dilated);
    REQUIRE(dilated >= 0.9 * as_it_is);
}

TEST_CASE("ten times the load for a minute, whatever refused clients do, and it is over as soon as they are",
          "[goodput]") {
    const auto on_refusal = GENERATE(OnRefusal::wait_as_told, OnRefusal::come_back_at_once);
    const auto seed = GENERATE(1u, 2u);
    CAPTURE(static_cast<int>(on_refusal), seed);
    ModelledCluster::Options options = options_of(1, true, seed);
    options.on_refusal = on_refusal;
    ModelledCluster cluster(options);
    const auto calm = poisson(1, 60, seed, {});
    static_cast<void>(cluster.run(calm));  // what steps take is known
    auto requests = poisson(15, 900, seed, {});
    const double flood_ends = requests.back().at;
    for (ModelledRequest after : poisson(1, 100, seed + 10, {})) {
        after.at += flood_ends;
        requests.push_back(std::move(after));
    }
    const auto outcomes = cluster.run(requests);
    std::size_t good_in_flood = 0;
    std::size_t good_after = 0;
    std::size_t after = 0;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        const bool is_good = outcomes[i].meets(requests[i]);
        if (requests[i].at <= flood_ends) {
            good_in_flood += is_good;
        } else if (requests[i].at > flood_ends + 5) {
            ++after;
            good_after += is_good;
        }
    }
    const double good_per_second = static_cast<double>(good_in_flood) / flood_ends;
    CAPTURE(good_per_second, good_after, after);
    REQUIRE(good_per_second >= 0.9 * 1.5);  // 1.5 a second is what it manages at its best without refusals
    REQUIRE(static_cast<double>(good_after) >= 0.9 * static_cast<double>(after));
}

TEST_CASE("a machine that was slow once is not refused for ever", "[goodput]") {
    const auto seed = GENERATE(1u, 2u, 3u);
    CAPTURE(seed);
    // Four times as slow, a step of one sequence takes longer than the target: who comes then is late, or refused.
    const auto slow = poisson(1, 30, seed, {});
    const auto after = poisson(1, 100, seed + 10, {});
    const auto good_after = [&](double probe_after_seconds) {
        ModelledCluster::Options options = options_of(1, true, seed);
        options.scheduler.rules.probe_after_seconds = probe_after_seconds;
        ModelledCluster cluster(options);
        cluster.slow_down(4);
        static_cast<void>(cluster.run(slow));
        cluster.slow_down(1);
        return figures(after, cluster.run(after)).inside;
    };
    REQUIRE(good_after(std::numeric_limits<double>::infinity()) == 0);
    REQUIRE(good_after(1) >= 0.85);
}

/// What two cores with tiles do with the same model: a prompt of 512 tokens takes 70 ms, a step of four sequences 14.
constexpr base::StepCost kTiles{.prefill = {9e-3, 1.2e-4, 1e-8}, .decode = {8.5e-3, 8e-4, 1e-6}};

/// The share of 200 requests inside their targets after 20 s in which prompts beside streams took twice as long.
double inside_after_slow_company(double rate, const ModelledRequest& like, std::uint32_t seed,
                                 double probe_after_seconds) {
    ModelledCluster::Options options = options_of(1, true, seed);
    options.cost = kTiles;
    options.scheduler.rules.probe_after_seconds = probe_after_seconds;
    ModelledCluster cluster(options);
    static_cast<void>(cluster.run(poisson(rate, 60, seed, like)));
    cluster.slow_down_mixed(2);
    static_cast<void>(cluster.run(poisson(rate, static_cast<std::size_t>(20 * rate), seed + 20, like)));
    cluster.slow_down_mixed(1);
    const auto after = poisson(rate, 200, seed + 10, like);
    return figures(after, cluster.run(after)).inside;
}

TEST_CASE("nor is one that was slow with prompts beside streams", "[goodput]") {
    const auto seed = GENERATE(1u, 2u, 3u, 4u);
    CAPTURE(seed);
    const double never = std::numeric_limits<double>::infinity();
    SECTION("whose streams end soon: a forecast sees that") {
        REQUIRE(inside_after_slow_company(2, {}, seed, never) >= 0.95);
        REQUIRE(inside_after_slow_company(3, {}, seed, never) >= 0.85);
    }
    SECTION("whose streams go on: what joins them is tried, or one at a time would be served for ever") {
        const ModelledRequest like{.answer_tokens = 300, .ttft_seconds = 0.5};
        REQUIRE(inside_after_slow_company(1, like, seed, never) < 0.3);
        REQUIRE(inside_after_slow_company(1, like, seed, 1) >= 0.7);
        REQUIRE(inside_after_slow_company(2, like, seed, never) < 0.2);
        REQUIRE(inside_after_slow_company(2, like, seed, 1) >= 0.38);
    }
}

TEST_CASE("predicted times to the first token are those that come, with tiles and beside streams", "[goodput]") {
    const auto seed = GENERATE(1u, 2u, 3u, 4u);
    const auto rate = GENERATE(1.0, 2.0);
    CAPTURE(seed, rate);
    ModelledCluster::Options options = options_of(1, true, seed);
    options.cost = kTiles;
    ModelledCluster cluster(options);
    const auto requests = poisson(rate, 400, seed, {});
    const Figures with = figures(requests, cluster.run(requests));
    CAPTURE(with.ttft_error_p50, with.ttft_error_p90, with.ttft_ratio_p50);
    REQUIRE(with.ttft_error_p50 < 0.09);
    REQUIRE(with.ttft_error_p90 < 0.25);
}
