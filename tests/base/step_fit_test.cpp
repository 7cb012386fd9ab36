#include "base/step_fit.h"

#include "tests/support/catch.h"

using base::StepFit;
using base::StepWork;

namespace {

constexpr base::StepCost kMachine{.prefill = {8e-3, 5e-4, 1e-8}, .decode = {9e-3, 4e-4, 2e-7}};

void learn(StepFit& fit, int rounds) {
    for (int i = 0; i < rounds; ++i) {
        const double size = 1 << (i % 8);
        const StepWork prompt{.prefill_tokens = size, .prefill_context = base::context_sum(16, size)};
        fit.observe(prompt, base::step_seconds(kMachine, prompt), fit.decode());
        const StepWork decode{.decode_sequences = 1.0 + i % 16, .decode_context = 200.0 * (1 + i % 16)};
        fit.observe(decode, base::step_seconds(kMachine, decode), fit.decode());
    }
}

}  // namespace

TEST_CASE("a mixed step is predicted by what its phases taught alone", "[base]") {
    StepFit fit;
    REQUIRE_FALSE(fit.prefill_is_fitted());
    learn(fit, 64);
    REQUIRE(fit.prefill_is_fitted());
    REQUIRE(fit.decode_is_fitted());
    const StepWork mixed{
        .prefill_tokens = 24, .prefill_context = 24.0 * 100, .decode_sequences = 6, .decode_context = 1800};
    REQUIRE(base::step_seconds({fit.prefill(), fit.decode()}, mixed) ==
            Approx(base::step_seconds(kMachine, mixed)).epsilon(0.05));
}

TEST_CASE("a mixed step teaches prefill what its decodes leave", "[base]") {
    StepFit fit;
    learn(fit, 64);
    const StepWork mixed{
        .prefill_tokens = 64, .prefill_context = 64.0 * 32, .decode_sequences = 4, .decode_context = 400};
    const auto ratios = fit.observe(mixed, base::step_seconds(kMachine, mixed), fit.decode());
    REQUIRE(ratios.prefill.has_value());
    REQUIRE(*ratios.prefill == Approx(1).epsilon(0.05));
    REQUIRE_FALSE(ratios.decode.has_value());
}

TEST_CASE("a mixed step that is nearly all decode teaches nothing", "[base]") {
    StepFit fit;
    learn(fit, 64);
    const StepWork mixed{
        .prefill_tokens = 1, .prefill_context = 0, .decode_sequences = 60, .decode_context = 60.0 * 500};
    const auto ratios = fit.observe(mixed, base::decode_share_seconds(fit.decode(), 60, 60.0 * 500), fit.decode());
    REQUIRE_FALSE(ratios.prefill.has_value());
    REQUIRE_FALSE(ratios.decode.has_value());
    REQUIRE_FALSE(fit.observe({}, 0.01, fit.decode()).decode.has_value());
}
