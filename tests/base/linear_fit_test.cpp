#include "base/linear_fit.h"

#include <limits>

#include "tests/support/catch.h"

using base::LinearFit;

namespace {

LinearFit make_fit() {
    return LinearFit({.prior = {1e-3, 1e-4, 1e-8}, .bucket_bits = {2, 4}});
}

}  // namespace

TEST_CASE("a fit without samples predicts its prior", "[scheduler][predictor]") {
    const LinearFit fit = make_fit();
    REQUIRE_FALSE(fit.is_fitted());
    REQUIRE(fit.predict(10, 1000) == Approx(1e-3 + 1e-3 + 1e-5));
}

TEST_CASE("the first sample scales the prior to the machine", "[scheduler][predictor]") {
    LinearFit fit = make_fit();
    const auto ratio = fit.observe(10, 1000, 50 * fit.predict(10, 1000));
    REQUIRE(ratio.has_value());
    REQUIRE(*ratio == Approx(50));
    REQUIRE(fit.predict(10, 1000) == Approx(50 * (1e-3 + 1e-3 + 1e-5)).epsilon(0.01));
    REQUIRE(fit.predict(1000, 10) == Approx(50 * (1e-3 + 0.1 + 1e-7)).epsilon(0.05));
}

TEST_CASE("samples that cannot be measurements are refused", "[scheduler][predictor]") {
    LinearFit fit = make_fit();
    const double infinity = std::numeric_limits<double>::infinity();
    const double nan = std::numeric_limits<double>::quiet_NaN();
    REQUIRE_FALSE(fit.observe(1, 1, 0).has_value());
    REQUIRE_FALSE(fit.observe(1, 1, -1).has_value());
    REQUIRE_FALSE(fit.observe(1, 1, 3601).has_value());
    REQUIRE_FALSE(fit.observe(-1, 1, 1).has_value());
    REQUIRE_FALSE(fit.observe(1, 1e16, 1).has_value());
    for (const double bad : {infinity, nan}) {
        REQUIRE_FALSE(fit.observe(bad, 1, 1).has_value());
        REQUIRE_FALSE(fit.observe(1, bad, 1).has_value());
        REQUIRE_FALSE(fit.observe(1, 1, bad).has_value());
    }
    REQUIRE(fit.samples() == 0);
    REQUIRE(fit.predict(10, 1000) == make_fit().predict(10, 1000));
}

TEST_CASE("what was learned about large batches outlives a long time with small ones", "[scheduler][predictor]") {
    LinearFit fit = make_fit();
    const auto truth = [](double x1, double x2) { return 2e-3 + 5e-4 * x1 + 3e-9 * x2; };
    for (int i = 0; i < 60; ++i) {
        const double x1 = 100 + 7 * i;
        fit.observe(x1, 50 * x1, truth(x1, 50 * x1));
    }
    for (int i = 0; i < 2000; ++i) {
        fit.observe(1, 200, truth(1, 200));
    }
    REQUIRE(fit.predict(1, 200) == Approx(truth(1, 200)).epsilon(0.02));
    REQUIRE(fit.predict(400, 20'000) == Approx(truth(400, 20'000)).epsilon(0.05));
}

TEST_CASE("a time that does not grow with the load gives coefficients that are not negative",
          "[scheduler][predictor]") {
    LinearFit fit = make_fit();
    for (int i = 0; i < 200; ++i) {
        const double x1 = 1 + i % 20;
        fit.observe(x1, 10 * x1, 0.02 - 5e-4 * x1);  // falls: as if larger steps were cheaper
    }
    for (const double coefficient : fit.coefficients()) {
        REQUIRE(coefficient >= 0);
    }
    REQUIRE(fit.predict(10, 100) == Approx(0.015).epsilon(0.2));
}

TEST_CASE("a machine that changes its speed is known again after a handful of samples", "[scheduler][predictor]") {
    LinearFit fit = make_fit();
    const auto truth = [](double x1, double x2) { return 2e-3 + 5e-4 * x1 + 3e-9 * x2; };
    for (int i = 0; i < 500; ++i) {
        const double x1 = 100 + i % 7 * 50;
        fit.observe(x1, 50 * x1, truth(x1, 50 * x1));
    }
    const double factor = GENERATE(0.25, 4.0);
    CAPTURE(factor);
    SECTION("which stays so") {
        for (int i = 0; i < 12; ++i) {
            fit.observe(512, 25'600, factor * truth(512, 25'600));
        }
        REQUIRE(fit.predict(512, 25'600) == Approx(factor * truth(512, 25'600)).epsilon(0.1));
        REQUIRE(fit.predict(100, 5'000) == Approx(factor * truth(100, 5'000)).epsilon(0.3));
    }
    SECTION("but not by four samples that went wrong") {
        for (int i = 0; i < 4; ++i) {
            fit.observe(512, 25'600, factor * truth(512, 25'600));
        }
        REQUIRE(fit.predict(512, 25'600) == Approx(truth(512, 25'600)).epsilon(0.05));
    }
}
