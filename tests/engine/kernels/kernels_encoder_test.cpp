#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "tests/engine/kernels/kernels_fixture.h"
#include "tests/support/catch.h"

using namespace kernels_test;

namespace {

long double exact_gelu(long double x) {
    return x * 0.5L * std::erfc(-x * std::sqrt(0.5L));
}

std::vector<float> gelu_of(const std::string& family, std::vector<float> x, engine::Gelu kind) {
    backend(family)->encoder()->gelu(x.data(), kind, 1, static_cast<std::uint32_t>(x.size()));
    return x;
}

/// Texts one behind the other.
std::vector<engine::SequenceRows> texts_of(const std::vector<std::uint32_t>& lengths) {
    std::vector<engine::SequenceRows> texts;
    std::uint32_t rows = 0;
    for (const std::uint32_t length : lengths) {
        texts.push_back({.row_begin = rows, .rows = length, .position = 0, .blocks = {}, .sequence = 0});
        rows += length;
    }
    return texts;
}

}  // namespace

TEST_CASE("the exact GELU is exact, the other one what its formula says", "[kernels]") {
    Random random{21};
    std::vector<float> x{0.0f, -0.0f, 1e-30f, -1e-30f, 5.6f, -5.6f, 100.0f, -100.0f, 3e38f, -3e38f};
    for (int i = 0; i < 100'000; ++i) {
        x.push_back(std::uniform_real_distribution<float>{-8.0f, 8.0f}(random));
    }
    for (const std::string family : {"reference", "avx2", "avx512", "amx"}) {
        if (family != "reference" && !engine::make_backend({.family = family, .threads = 1, .cpus = {}})) { continue; }
        CAPTURE(family);
        const double bound = family == "reference" ? 1e-7 : 1e-6;
        const auto exact = gelu_of(family, x, engine::Gelu::exact);
        const auto tanh = gelu_of(family, x, engine::Gelu::tanh);
        double worst = 0;
        double worst_tanh = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
            const long double v = x[i];
            const double scale = std::max(1.0, std::abs(double{x[i]}));
            const long double cubic = std::sqrt(2.0L / std::acos(-1.0L)) * (v + 0.044715L * v * v * v);
            worst = std::max(worst, static_cast<double>(std::abs(exact[i] - exact_gelu(v))) / scale);
            worst_tanh = std::max(worst_tanh,
                                  static_cast<double>(std::abs(tanh[i] - 0.5L * v * (1 + std::tanh(cubic)))) / scale);
        }
        CHECK(worst < bound);
        CHECK(worst_tanh < bound);
        CHECK(std::isnan(gelu_of(family, {std::nanf("")}, engine::Gelu::exact)[0]));
        CHECK(std::isnan(gelu_of(family, {std::nanf("")}, engine::Gelu::tanh)[0]));
    }
}

TEST_CASE("a layer norm after a sum equals the reference and touches nothing else", "[kernels]") {
    const std::uint32_t width = GENERATE(1u, 7u, 16u, 48u, 65u, 384u, 1000u);
    Random random{width};
    const std::uint32_t rows = 5;
    const auto x = normals(random, std::size_t{rows} * width, false, 3.0f);
    const auto delta = normals(random, std::size_t{rows} * width);
    const auto weight = normals(random, width);
    const auto bias = normals(random, width);
    const engine::LayerNorm norm{.weight = weight.data(), .bias = bias.data(), .eps = 1e-12f};
    std::vector<float> expected = x;
    backend("reference")->encoder()->add_layer_norm(expected.data(), delta.data(), norm, rows, width);
    for (std::uint32_t row = 0; row < rows && width > 1; ++row) {  // a look at the reference itself
        double mean = 0;
        double squares = 0;
        for (std::uint32_t i = 0; i < width; ++i) {
            const double plain = (double{expected[row * width + i]} - bias[i]) / weight[i];
            mean += plain / width;
            squares += plain * plain / width;
        }
        CHECK(std::abs(mean) < 1e-3);
        CHECK(std::abs(squares - 1) < 1e-3);
    }
    for (const std::string& family : fast_families()) {
        CAPTURE(family, width);
        Guarded<float> got{x.size()};
        std::copy(x.begin(), x.end(), got.data());
        Guarded<float> change{delta.size()};
        std::copy(delta.begin(), delta.end(), change.data());
        backend(family)->encoder()->add_layer_norm(got.data(), change.data(), norm, rows, width);
        CHECK(error_of(got.data(), expected.data(), x.size()) < 2e-6);
        CHECK(got.front_untouched());
    }
}

TEST_CASE("attention within texts equals the reference, with the same bits in any company", "[kernels]") {
    const std::uint32_t head_dim = GENERATE(2u, 12u, 16u, 32u, 64u);
    const std::uint32_t heads = 3;
    const std::vector<std::uint32_t> lengths{1, 6, 16, 17, 255, 256, 300, 2, 513};
    const auto texts = texts_of(lengths);
    const std::uint32_t rows = std::accumulate(lengths.begin(), lengths.end(), 0u);
    const std::size_t width = std::size_t{heads} * head_dim;
    Random random{head_dim};
    const auto values = normals(random, rows * 3 * width);
    const float scale = 1.0f / std::sqrt(static_cast<float>(head_dim));
    const auto attend = [&](engine::Backend& on, std::span<const engine::SequenceRows> some, float* out) {
        Guarded<float> qkv{values.size()};
        std::copy(values.begin(), values.end(), qkv.data());
        on.encoder()->attend_within(
            {.qkv = qkv.data(), .texts = some, .heads = heads, .head_dim = head_dim, .scale = scale, .out = out});
    };
    std::vector<float> expected(rows * width);
    attend(*backend("reference"), texts, expected.data());
    for (const std::string& family : fast_families()) {
        CAPTURE(family, head_dim);
        Guarded<float> got{expected.size()};
        attend(*backend(family), texts, got.data());
        CHECK(error_of(got.data(), expected.data(), expected.size()) < 5e-6);
        CHECK(got.front_untouched());
        std::vector<float> threaded(expected.size());
        attend(*backend(family, 3), texts, threaded.data());
        CHECK(same_bits(threaded.data(), got.data(), expected.size()));
        std::vector<float> alone(expected.size());
        for (const engine::SequenceRows& text : texts) {
            attend(*backend(family), {&text, 1}, alone.data());
        }
        CHECK(same_bits(alone.data(), got.data(), expected.size()));
    }
}
