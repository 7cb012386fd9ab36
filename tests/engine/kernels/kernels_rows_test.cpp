#include <algorithm>

#include "engine/kernels/cpu/cpu_features.h"
#include "engine/kernels/cpu/kernel_table.h"
#include "tests/engine/kernels/kernels_fixture.h"
#include "tests/support/catch.h"

using namespace kernels_test;

namespace {

const engine::KernelTable& table_of(const std::string& family) {
    return family == "amx"      ? *engine::amx_kernels()
           : family == "avx512" ? *engine::avx512_kernels()
                                : *engine::avx2_kernels();
}

double units_in_last_place(float value, long double exact) {
    int exponent = 0;
    (void)std::frexp(static_cast<float>(exact), &exponent);
    return static_cast<double>(std::abs(static_cast<long double>(value) - exact) / std::ldexp(1.0L, exponent - 24));
}

}  // namespace

TEST_CASE("the kernels' exponentials are within two units in the last place", "[kernels]") {
    Random random{11};
    std::vector<float> x;
    for (int i = 0; i < 200'000; ++i) {
        x.push_back(std::uniform_real_distribution<float>{-87.0f, 88.5f}(random));
    }
    for (int i = 0; i < 10'000; ++i) {
        x.push_back(std::uniform_real_distribution<float>{-1e-3f, 1e-3f}(random));
    }
    std::vector<float> negative;
    for (const float value : x) {
        negative.push_back(-std::abs(value) * 1.4f);
    }
    for (const std::string& family : fast_families()) {
        CAPTURE(family);
        Guarded<float> out{x.size()};
        double worst = 0;
        table_of(family).exp(x.data(), x.size(), out.data());
        for (std::size_t i = 0; i < x.size(); ++i) {
            worst = std::max(worst, units_in_last_place(out[i], std::exp(static_cast<long double>(x[i]))));
        }
        REQUIRE(worst < 2.0);
        worst = 0;
        table_of(family).exp2_nonpositive(negative.data(), negative.size(), out.data());
        for (std::size_t i = 0; i < x.size(); ++i) {
            worst = std::max(worst, units_in_last_place(out[i], std::exp2(static_cast<long double>(negative[i]))));
        }
        REQUIRE(worst < 2.0);
    }
}

TEST_CASE("the kernels' exponentials behave at the edges", "[kernels]") {
    const float inf = std::numeric_limits<float>::infinity();
    const std::vector<float> x{0.0f, -0.0f, 100.0f, inf, -100.0f, -inf, std::nanf("")};
    for (const std::string& family : fast_families()) {
        CAPTURE(family);
        std::vector<float> out(x.size());
        table_of(family).exp(x.data(), x.size(), out.data());
        REQUIRE(out[0] == 1.0f);
        REQUIRE(out[1] == 1.0f);
        REQUIRE(out[2] == inf);
        REQUIRE(out[3] == inf);
        REQUIRE(out[4] < 1e-37f);
        REQUIRE(out[5] < 1e-37f);
        REQUIRE(std::isnan(out[6]));
        table_of(family).exp2_nonpositive(x.data(), x.size(), out.data());
        REQUIRE(out[0] == 1.0f);
        REQUIRE(out[5] == 0.0f);
        REQUIRE(std::isnan(out[6]));
    }
}

TEST_CASE("an exponential has the same bits wherever it stands in an array", "[kernels][property]") {
    Random random{3};
    const std::vector<float> x = normals(random, 1000, false, 20.0f);
    for (const std::string& family : fast_families()) {
        std::vector<float> all(x.size());
        table_of(family).exp(x.data(), x.size(), all.data());
        for (std::size_t i = 0; i < x.size(); ++i) {
            float alone = 0;
            table_of(family).exp(&x[i], 1, &alone);
            REQUIRE(same_bits(&alone, &all[i], 1));
        }
    }
}

TEST_CASE("norms and activation equal the reference and touch nothing else", "[kernels]") {
    const auto seed = GENERATE(range(0u, 30u));
    CAPTURE(seed);
    Random random{seed};
    const std::uint32_t rows = pick(random, 1, 70);
    const std::uint32_t width = one_of<std::uint32_t>(random, {1, 8, 15, 64, 100, 172, 288, 768, 2048});
    CAPTURE(rows, width);
    Guarded<float> x{std::size_t{rows} * width};
    Guarded<float> delta{x.size()};
    Guarded<float> gate_up{x.size() * 2};
    Guarded<float> weight{width};
    fill(random, x.data(), x.size());
    fill(random, delta.data(), x.size());
    fill(random, gate_up.data(), gate_up.size(), false, 4.0f);
    fill(random, weight.data(), width);
    const auto reference = backend("reference");
    for (const std::string& family : fast_families()) {
        CAPTURE(family);
        const auto fast = backend(family, pick(random, 1, 3));
        std::vector<float> expected(x.size());
        Guarded<float> out{x.size()};
        reference->rms_norm(x.data(), weight.data(), 1e-5f, rows, width, expected.data());
        fast->rms_norm(x.data(), weight.data(), 1e-5f, rows, width, out.data());
        REQUIRE(error_of(out.data(), expected.data(), out.size()) < 1e-6);
        REQUIRE(out.front_untouched());

        std::vector<float> residual_expected = x.values();
        Guarded<float> residual{x.size()};
        std::copy(residual_expected.begin(), residual_expected.end(), residual.data());
        Guarded<float> normed{x.size()};
        reference->add_rms_norm(residual_expected.data(), delta.data(), weight.data(), 1e-5f, rows, width,
                                expected.data());
        fast->add_rms_norm(residual.data(), delta.data(), weight.data(), 1e-5f, rows, width, normed.data());
        REQUIRE(same_bits(residual.data(), residual_expected.data(), x.size()));
        REQUIRE(error_of(normed.data(), expected.data(), normed.size()) < 1e-6);

        Guarded<float> activated{x.size()};
        reference->swiglu(gate_up.data(), rows, width, expected.data());
        fast->swiglu(gate_up.data(), rows, width, activated.data());
        REQUIRE(error_of(activated.data(), expected.data(), activated.size()) < 1e-6);
        REQUIRE(activated.front_untouched());

        // Each row alone, on one thread: the same bits.
        const auto alone = backend(family);
        std::vector<float> one(width);
        for (std::size_t row = 0; row < rows; ++row) {
            alone->rms_norm(x.data() + row * width, weight.data(), 1e-5f, 1, width, one.data());
            REQUIRE(same_bits(one.data(), out.data() + row * width, width));
            alone->swiglu(gate_up.data() + row * 2 * width, 1, width, one.data());
            REQUIRE(same_bits(one.data(), activated.data() + row * width, width));
            std::vector<float> sum(x.data() + row * width, x.data() + (row + 1) * width);
            alone->add_rms_norm(sum.data(), delta.data() + row * width, weight.data(), 1e-5f, 1, width, one.data());
            REQUIRE(same_bits(one.data(), normed.data() + row * width, width));
        }
    }
}

TEST_CASE("activation of large inputs is finite and signs are right", "[kernels]") {
    const std::vector<float> gate_up{-1000.0f, -90.0f, -88.0f, 0.0f, 88.0f, 1000.0f, 1, 1, 1, 1, 1, 1};
    for (const std::string& family : fast_families()) {
        std::vector<float> out(6);
        backend(family)->swiglu(gate_up.data(), 1, 6, out.data());
        CAPTURE(family);
        for (int i = 0; i < 4; ++i) {
            REQUIRE(std::abs(out[static_cast<std::size_t>(i)]) < 1e-35f);
        }
        REQUIRE(out[4] == 88.0f);
        REQUIRE(out[5] == 1000.0f);
    }
}

TEST_CASE("a family names itself, and one that is unknown or cannot run is refused", "[kernels]") {
    for (const std::string& family : fast_families()) {
        REQUIRE(backend(family)->family() == family);
        REQUIRE(backend(family)->tile_order() == kv_cache::TileOrder::lanes);
        REQUIRE(backend(family)->numerics_version() == backend(family)->numerics_version());
        REQUIRE(backend(family, 3)->threads() == 3);
    }
    REQUIRE(backend("auto") != nullptr);
    const auto unknown = engine::make_backend({.family = "mmx", .threads = 1, .cpus = {}});
    REQUIRE_FALSE(unknown.has_value());
    REQUIRE(unknown.error().code == base::ErrorCode::invalid_argument);
    REQUIRE(engine::make_backend({.family = "auto", .threads = 0, .cpus = {}}).error().code ==
            base::ErrorCode::invalid_argument);
    if (!engine::runs_avx512()) {
        REQUIRE(engine::make_backend({.family = "avx512", .threads = 1, .cpus = {}}).error().code ==
                base::ErrorCode::unimplemented);
    }
    if (!engine::runs_amx()) {
        REQUIRE(engine::make_backend({.family = "amx", .threads = 1, .cpus = {}}).error().code ==
                base::ErrorCode::unimplemented);
    }
    REQUIRE(backend("auto")->family() == (engine::runs_amx()      ? "amx"
                                          : engine::runs_avx512() ? "avx512"
                                          : engine::runs_avx2()   ? "avx2"
                                                                  : "reference"));
}
