// Two classes of requests with different aims, and more of both than can be served: what each gets.
#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/modelled_cluster.h"

using namespace test_support;

namespace {

constexpr base::StepCost kTwoCores{.prefill = {5e-3, 4.8e-4, 2e-8}, .decode = {6e-3, 5e-4, 1.6e-6}};

constexpr double kStrictAim = 0.95;
constexpr double kLooseAim = 0.5;

struct OfTwo {
    double strict = 0;  // share of its requests that were in time
    double loose = 0;
    double both = 0;
};

OfTwo play(double rate, double strict_share, bool weighs, int workers, std::uint32_t seed) {
    ModelledCluster::Options options{.workers = workers, .cost = kTwoCores, .seed = seed};
    if (weighs) {
        options.scheduler.classes["loose"].attainment = kLooseAim;
        options.scheduler.classes["strict"].attainment = kStrictAim;
    }
    ModelledCluster cluster(options);
    static_cast<void>(cluster.run(poisson(workers, 60, seed, {})));  // what steps take is known
    struct Asked {
        ModelledRequest request;
        bool is_strict;
    };
    std::vector<Asked> all;
    for (ModelledRequest& request : poisson(rate * workers * strict_share, 2000, seed + 100, {.slo_class = "strict"})) {
        all.push_back({std::move(request), true});
    }
    for (ModelledRequest& request :
         poisson(rate * workers * (1 - strict_share), 2000, seed + 200, {.slo_class = "loose"})) {
        all.push_back({std::move(request), false});
    }
    std::stable_sort(all.begin(), all.end(),
                     [](const Asked& left, const Asked& right) { return left.request.at < right.request.at; });
    constexpr double kSeconds = 600;
    std::vector<ModelledRequest> requests;
    for (const Asked& one : all) {
        if (one.request.at < kSeconds) { requests.push_back(one.request); }
    }
    const auto outcomes = cluster.run(requests);
    OfTwo good;
    OfTwo asked;
    for (std::size_t i = 0; i < requests.size(); ++i) {
        const double is_good = outcomes[i].meets(requests[i]);
        (all[i].is_strict ? good.strict : good.loose) += is_good;
        (all[i].is_strict ? asked.strict : asked.loose) += 1;
        good.both += is_good;
        asked.both += 1;
    }
    return {good.strict / asked.strict, good.loose / asked.loose, good.both / asked.both};
}

/// The mean over four seeds.
OfTwo mean(double rate, double strict_share, bool weighs, int workers) {
    constexpr std::uint32_t kSeeds = 4;
    OfTwo sum;
    for (std::uint32_t seed = 1; seed <= kSeeds; ++seed) {
        const OfTwo one = play(rate, strict_share, weighs, workers, seed);
        sum.strict += one.strict / kSeeds;
        sum.loose += one.loose / kSeeds;
        sum.both += one.both / kSeeds;
    }
    return sum;
}

}  // namespace

TEST_CASE("a class that is ahead of its aim gives way to one that is behind, and nearly nothing is lost by it",
          "[goodput][aims]") {
    const auto workers = GENERATE(1, 2);
    const auto strict_share = GENERATE(0.3, 0.5);
    const double rate = workers == 1 ? 1.6 : 2;  // requests a second for each worker: more than can be in time
    CAPTURE(workers, strict_share);
    const OfTwo without = mean(rate, strict_share, false, workers);
    const OfTwo with = mean(rate, strict_share, true, workers);
    CAPTURE(without.strict, without.loose, without.both, with.strict, with.loose, with.both);
    REQUIRE(without.strict < 0.9);  // equals share what there is
    REQUIRE(std::abs(without.strict - without.loose) < 0.03);
    REQUIRE(1 - with.strict < 0.65 * (1 - without.strict));
    REQUIRE(with.loose > kLooseAim + 0.1);
    REQUIRE(with.both > without.both - 0.025);
}

TEST_CASE("aims change nothing where all classes reach them", "[goodput][aims]") {
    const OfTwo without = mean(1.25, 0.3, false, 2);
    const OfTwo with = mean(1.25, 0.3, true, 2);
    CAPTURE(without.both, with.both);
    REQUIRE(without.strict > kStrictAim);
    REQUIRE(with.strict > kStrictAim);
    REQUIRE(with.both > without.both - 0.005);
}
