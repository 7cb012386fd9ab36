#include <algorithm>
#include <array>
#include <cmath>
#include <random>

#include "base/linear_fit.h"
#include "tests/support/catch.h"

using base::LinearFit;

namespace {

constexpr LinearFit::Options kOptions{.prior = {2e-3, 2e-4, 1e-8}, .bucket_bits = {2, 4}};

/// A machine with random coefficients within a thousand times of the prior, and random prompts for it.
struct Machine {
    explicit Machine(std::uint32_t seed) : random(seed) {
        const double speed = std::pow(10.0, std::uniform_real_distribution<double>{-2, 1}(random));
        for (std::size_t i = 0; i < truth.size(); ++i) {
            truth[i] =
                kOptions.prior[i] * speed * std::pow(10.0, std::uniform_real_distribution<double>{-0.5, 0.5}(random));
        }
    }
    std::array<double, 2> prompt() {
        const double tokens = std::floor(std::pow(2.0, std::uniform_real_distribution<double>{0, 11}(random)));
        const double cached = std::uniform_int_distribution<int>{0, 3}(random) * 500.0;
        return {tokens, tokens * cached + tokens * (tokens - 1) / 2};
    }
    double seconds(const std::array<double, 2>& x) const { return truth[0] + truth[1] * x[0] + truth[2] * x[1]; }
    double noise(double spread) { return std::uniform_real_distribution<double>{1 - spread, 1 + spread}(random); }
    /// Largest relative error over fresh prompts.
    double error(const LinearFit& fit) {
        double worst = 0;
        for (int i = 0; i < 200; ++i) {
            const auto x = prompt();
            worst = std::max(worst, std::abs(fit.predict(x[0], x[1]) / seconds(x) - 1));
        }
        return worst;
    }
    std::mt19937 random;
    LinearFit::Coefficients truth{};
};

void require_sane(const LinearFit& fit) {
    for (const double coefficient : fit.coefficients()) {
        REQUIRE(std::isfinite(coefficient));
        REQUIRE(coefficient >= 0);
    }
    REQUIRE(fit.predict(0, 0) > 0);
}

}  // namespace

TEST_CASE("a fit converges to the machine it sees", "[scheduler][predictor][property]") {
    const auto seed = GENERATE(range(0u, 50u));
    CAPTURE(seed);
    Machine machine(seed);
    LinearFit fit(kOptions);
    for (int i = 0; i < 300; ++i) {
        const auto x = machine.prompt();
        fit.observe(x[0], x[1], machine.seconds(x) * machine.noise(0.05));
    }
    require_sane(fit);
    REQUIRE(machine.error(fit) < 0.08);  // the worst of 200 prompts, from noise of up to 5 % on every sample
}

TEST_CASE("garbage among the samples hardly moves a fit", "[scheduler][predictor][property]") {
    const auto seed = GENERATE(range(0u, 50u));
    CAPTURE(seed);
    Machine machine(seed);
    LinearFit fit(kOptions);
    for (int i = 0; i < 600; ++i) {
        const auto x = machine.prompt();
        const bool garbage = machine.random() % 10 == 0;
        const double factor = garbage ? std::pow(10.0, std::uniform_real_distribution<double>{-4, 3}(machine.random))
                                      : machine.noise(0.05);
        fit.observe(x[0], x[1], machine.seconds(x) * factor);
        require_sane(fit);
    }
    REQUIRE(machine.error(fit) < 0.15);
}

TEST_CASE("samples that are nothing but garbage leave a usable fit", "[scheduler][predictor][property]") {
    const auto seed = GENERATE(range(0u, 50u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    LinearFit fit(kOptions);
    for (int i = 0; i < 300; ++i) {
        const auto any = [&random](double low, double high) {
            return std::pow(10.0, std::uniform_real_distribution<double>{low, high}(random));
        };
        fit.observe(any(-1, 15), any(-1, 15), any(-9, 3.5));
        require_sane(fit);
    }
}

TEST_CASE("a fit follows a machine that changed its speed", "[scheduler][predictor][property]") {
    const auto seed = GENERATE(range(0u, 30u));
    CAPTURE(seed);
    Machine machine(seed);
    LinearFit fit(kOptions);
    const double factor = seed % 2 == 0 ? 3.0 : 1 / 3.0;
    for (int i = 0; i < 300; ++i) {
        const auto x = machine.prompt();
        fit.observe(x[0], x[1], machine.seconds(x) * machine.noise(0.05));
    }
    for (double& coefficient : machine.truth) {
        coefficient *= factor;
    }
    for (int i = 0; i < 1500; ++i) {
        const auto x = machine.prompt();
        fit.observe(x[0], x[1], machine.seconds(x) * machine.noise(0.05));
    }
    REQUIRE(machine.error(fit) < 0.1);
}
