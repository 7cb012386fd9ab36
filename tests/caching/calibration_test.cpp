#include "caching/semantic/calibration.h"

#include <cmath>
#include <random>

#include "caching/semantic/budget.h"
#include "tests/support/catch.h"

using caching::anytime_bound;
using caching::Calibration;
using caching::ErrorBudget;
using caching::Evidence;

TEST_CASE("the bound of an error rate holds at every moment of 1,000 looks", "[caching]") {
    std::size_t outside = 0;
    for (unsigned seed = 0; seed < 200; ++seed) {
        std::mt19937 random{seed};
        std::bernoulli_distribution wrong{0.03};
        std::uint64_t errors = 0;
        bool ever = false;
        for (std::uint64_t n = 1; n <= 1000; ++n) {
            errors += wrong(random) ? 1 : 0;
            const auto bound = anytime_bound(errors, n, 0.05);
            ever = ever || bound.lower > 0.03 || bound.upper < 0.03;
        }
        outside += ever ? 1 : 0;
    }
    CHECK(outside <= 10u);  // 5 % of 200; fixed seeds
    CHECK(anytime_bound(0, 0).upper == 1.0);
    CHECK(anytime_bound(0, 1000).lower == 0.0);
    CHECK(anytime_bound(0, 1000).upper < 0.02);
    CHECK(anytime_bound(1000, 1000).upper == 1.0);
    CHECK(anytime_bound(1000, 1000).lower > 0.98);
}

TEST_CASE("a calibration learns at what likeness answers are right, whatever it began with", "[caching]") {
    for (unsigned seed = 0; seed < 8; ++seed) {
        CAPTURE(seed);
        std::mt19937 random{seed};
        std::uniform_real_distribution<double> unit{0, 1};
        Calibration calibration({}, Calibration::start_weights());
        const auto truth = [](double similarity) { return 1.0 / (1.0 + std::exp(-20.0 * (similarity - 0.7))); };
        const auto draw = [&] {
            Evidence evidence;
            evidence.similarity = 0.4 + 0.6 * unit(random);
            evidence.rival = evidence.similarity - 0.1;
            evidence.mean = evidence.similarity - 0.05;
            evidence.unmatched = 0.5 * unit(random);  // says nothing here, against what the start believes
            return evidence;
        };
        for (int i = 0; i < 2000; ++i) {
            const Evidence evidence = draw();
            calibration.observe(evidence, unit(random) < truth(evidence.similarity));
        }
        double error = 0;
        for (int i = 0; i < 500; ++i) {
            const Evidence evidence = draw();
            error += std::abs(calibration.probability(evidence) - truth(evidence.similarity)) / 500;
        }
        CHECK(error < 0.06);
    }
}

TEST_CASE("a budget spends no more than its hits earn", "[caching]") {
    ErrorBudget budget(0.01);
    double spent = 0;
    for (int i = 0; i < 10'000; ++i) {
        const double chance = 0.002 * static_cast<double>(i % 50);
        if (chance <= budget.wrong_chance_max()) {
            budget.semantic_hit(chance);
            spent += chance;
        } else {
            budget.exact_hit();
        }
    }
    CHECK(spent <= 0.01 * 10'100 + 0.12);
    CHECK(spent > 0.3 * 0.01 * 10'000);
}

TEST_CASE("a breach tightens at once, the next one leaves equal questions only", "[caching]") {
    ErrorBudget budget(0.01);
    for (int i = 0; i < 1000; ++i) {
        budget.semantic_hit(0.005);
    }
    const double open = budget.wrong_chance_max();
    CHECK(budget.state() == ErrorBudget::State::open);
    int shadows = 0;
    while (budget.state() == ErrorBudget::State::open && shadows < 100) {
        budget.shadow(true, 0.005);
        ++shadows;
    }
    CHECK(shadows < 10);
    CHECK(budget.state() == ErrorBudget::State::tight);
    CHECK(budget.wrong_chance_max() < open / 2);
    while (budget.state() == ErrorBudget::State::tight && shadows < 100) {
        budget.shadow(true, 0.005);
        ++shadows;
    }
    CHECK(budget.state() == ErrorBudget::State::exact_only);
    CHECK(budget.wrong_chance_max() == 0.0);
    CHECK(budget.bound().lower > 0.01);
}

TEST_CASE("a category without an allowance serves nothing by similarity", "[caching]") {
    CHECK(ErrorBudget(0.0).wrong_chance_max() == 0.0);
}
