#include <algorithm>

#include "tests/engine/kernels/kernels_fixture.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using namespace kernels_test;
using engine::WeightFormat;
using test_support::modelled_seeds_of;

namespace {

/// Error of f32 sums of `inputs` products against double, relative to the largest output; generous by about 4.
double bound(std::uint32_t inputs) {
    return 3e-7 * (4 + std::sqrt(static_cast<double>(inputs)));
}

std::vector<float> run_linear(engine::Backend& backend, Matrix& matrix, const std::vector<float>& x, std::uint32_t rows,
                              const float* bias) {
    Guarded<float> input{x.size()};
    std::copy(x.begin(), x.end(), input.data());
    Guarded<float> y{std::size_t{rows} * matrix.packed.outputs};
    backend.linear(matrix.packed, input.data(), rows, bias, y.data(), engine::Activation::delta);
    REQUIRE(y.front_untouched());
    return y.values();
}

}  // namespace

TEST_CASE("linear equals the reference for odd shapes and touches nothing else", "[kernels]") {
    const auto seed = GENERATE(range(0u, modelled_seeds_of(60)));
    CAPTURE(seed);
    Random random{seed};
    for (const std::string& family : fast_families()) {
        CAPTURE(family);
        const auto format = one_of<WeightFormat>(random, {WeightFormat::f32, WeightFormat::bf16});
        const std::uint32_t rows = pick(random, 1, 70);
        const std::uint32_t outputs =
            one_of<std::uint32_t>(random, {1, 15, 16, 17, 64, 80, 100, 288, pick(random, 1, 300)});
        const std::uint32_t inputs = one_of<std::uint32_t>(random, {1, 2, 3, 31, 64, 100, 172, 288, 2500});
        CAPTURE(rows, outputs, inputs, static_cast<int>(format));
        Matrix matrix{random, format, outputs, inputs};
        // bf16 families round activations; with rounded ones the products are the same for all
        const std::vector<float> x = normals(random, std::size_t{rows} * inputs, format == WeightFormat::bf16);
        Guarded<float> bias{outputs};
        fill(random, bias.data(), outputs);
        const float* bias_or_none = random() % 2 == 0 ? bias.data() : nullptr;
        const auto fast = backend(family, pick(random, 1, 3));
        const std::vector<float> y = run_linear(*fast, matrix, x, rows, bias_or_none);
        const std::vector<float> expected = run_linear(*backend("reference"), matrix, x, rows, bias_or_none);
        REQUIRE(error_of(y.data(), expected.data(), y.size()) < bound(inputs));
    }
}

TEST_CASE("linear gives a row the same bits in any company and with any number of threads", "[kernels][property]") {
    const auto seed = GENERATE(range(0u, modelled_seeds_of(40)));
    CAPTURE(seed);
    Random random{seed};
    for (const std::string& family : fast_families()) {
        CAPTURE(family);
        const auto format = one_of<WeightFormat>(random, {WeightFormat::f32, WeightFormat::bf16});
        const std::uint32_t rows = pick(random, 2, 70);
        const std::uint32_t outputs = one_of<std::uint32_t>(random, {16, 33, 96, 200, 768});
        const std::uint32_t inputs = one_of<std::uint32_t>(random, {64, 172, 768, 4200});  // 4200: several K blocks
        Matrix matrix{random, format, outputs, inputs};
        const std::vector<float> x = normals(random, std::size_t{rows} * inputs);
        const std::vector<float> bias = normals(random, outputs);
        const std::vector<float> whole = run_linear(*backend(family), matrix, x, rows, bias.data());
        for (const std::uint32_t threads : {1u, 2u, 3u}) {
            const auto fast = backend(family, threads);
            for (int trial = 0; trial < 4; ++trial) {
                std::vector<std::uint32_t> chosen;  // some rows, in random order
                const std::uint32_t count = pick(random, 1, trial == 0 ? 1 : rows);
                for (std::uint32_t i = 0; i < count; ++i) {
                    chosen.push_back(pick(random, 0, rows - 1));
                }
                std::vector<float> some;
                for (const std::uint32_t row : chosen) {
                    some.insert(some.end(), x.begin() + row * inputs, x.begin() + (row + 1) * inputs);
                }
                const std::vector<float> y = run_linear(*fast, matrix, some, count, bias.data());
                CAPTURE(threads, rows, outputs, inputs, count, static_cast<int>(format));
                for (std::uint32_t i = 0; i < count; ++i) {
                    REQUIRE(same_bits(y.data() + std::size_t{i} * outputs,
                                      whole.data() + std::size_t{chosen[i]} * outputs, outputs));
                }
            }
        }
    }
}

TEST_CASE("linear gives a row the same bits alone and among more rows than one block takes", "[kernels][property]") {
    Random random{11};
    for (const std::string& family : fast_families()) {
        const std::uint32_t rows = 1100;
        const std::uint32_t outputs = 50;
        const std::uint32_t inputs = one_of<std::uint32_t>(random, {1602, 2500});
        CAPTURE(family, inputs);
        Matrix matrix{random, WeightFormat::bf16, outputs, inputs};
        const std::vector<float> x = normals(random, std::size_t{rows} * inputs);
        const std::vector<float> bias = normals(random, outputs);
        const std::vector<float> whole = run_linear(*backend(family, 2), matrix, x, rows, bias.data());
        for (const std::uint32_t row : {0u, 15u, 16u, 511u, 512u, 1023u, 1098u, 1099u}) {
            const std::vector<float> one(x.begin() + row * inputs, x.begin() + (row + 1) * inputs);
            const std::vector<float> y = run_linear(*backend(family), matrix, one, 1, bias.data());
            CAPTURE(row);
            REQUIRE(same_bits(y.data(), whole.data() + std::size_t{row} * outputs, outputs));
        }
    }
}

TEST_CASE("mlp gives the bits of its products and its activation one by one", "[kernels][property]") {
    const auto seed = GENERATE(range(0u, modelled_seeds_of(40)));
    CAPTURE(seed);
    Random random{seed};
    for (const std::string& family : fast_families()) {
        CAPTURE(family);
        const auto format = one_of<WeightFormat>(random, {WeightFormat::f32, WeightFormat::bf16});
        const std::uint32_t rows = one_of<std::uint32_t>(random, {1, 2, 16, 17, 33, 300, 520, pick(random, 1, 70)});
        const std::uint32_t hidden = one_of<std::uint32_t>(random, {2, 31, 64, 172, 768, 2500});
        const std::uint32_t width = one_of<std::uint32_t>(random, {16, 32, 48, 96, 160, 17, pick(random, 1, 200)});
        CAPTURE(rows, hidden, width, static_cast<int>(format));
        Matrix gate_up{random, format, 2 * width, hidden};
        Matrix down{random, format, hidden, width};
        const std::vector<float> x = normals(random, std::size_t{rows} * hidden);
        std::vector<float> gates(std::size_t{rows} * 2 * width);
        std::vector<float> activated(std::size_t{rows} * width);
        std::vector<float> expected(x.size());
        const auto alone = backend(family);
        alone->linear(gate_up.packed, x.data(), rows, nullptr, gates.data(), engine::Activation::gate_up);
        alone->swiglu(gates.data(), rows, width, activated.data());
        alone->linear(down.packed, activated.data(), rows, nullptr, expected.data(), engine::Activation::delta);
        const auto fast = backend(family, pick(random, 1, 3));
        for (const std::uint32_t count : {rows, pick(random, 1, rows)}) {  // the second in memory of the first
            Guarded<float> y{std::size_t{count} * hidden};
            fast->mlp({.gate_up = &gate_up.packed,
                       .down = &down.packed,
                       .x = x.data(),
                       .rows = count,
                       .gate_up_rows = gates.data(),
                       .activated_rows = activated.data(),
                       .y = y.data()});
            REQUIRE(y.front_untouched());
            REQUIRE(same_bits(y.data(), expected.data(), y.size()));
        }
    }
}

TEST_CASE("embed reads rows of the packed matrix exactly", "[kernels]") {
    const auto format = GENERATE(WeightFormat::f32, WeightFormat::bf16);
    Random random{7};
    for (const std::uint32_t hidden : {1u, 7u, 64u, 96u}) {
        Matrix table{random, format, 50, hidden};
        std::vector<std::string> families = fast_families();
        families.emplace_back("reference");
        for (const std::string& family : families) {
            CAPTURE(family, hidden);
            std::vector<base::TokenId> tokens{49, 0, 16, 15, 49, 31};
            for (int i = 0; i < 400; ++i) {
                tokens.push_back(static_cast<base::TokenId>(pick(random, 0, 49)));
            }
            Guarded<float> out{tokens.size() * hidden};
            backend(family, 2)->embed(table.packed, tokens, out.data());
            REQUIRE(out.front_untouched());
            for (std::size_t row = 0; row < tokens.size(); ++row) {
                for (std::size_t i = 0; i < hidden; ++i) {
                    const float plain = table.plain[static_cast<std::size_t>(tokens[row]) * hidden + i];
                    REQUIRE(out[row * hidden + i] ==
                            (format == WeightFormat::f32 ? plain : engine::round_to_bf16(plain)));
                }
            }
        }
    }
}

TEST_CASE("packing rounds to nearest even and pads with zeros", "[kernels]") {
    const std::uint32_t outputs = 3;
    const std::uint32_t inputs = 3;
    const std::vector<float> source{1.0f, -2.0f, 0x1.01p0f, 0x1.03p0f, 0x1.0101p0f, 3.5f, 1e-40f, -0.0f, 65504.0f};
    std::vector<std::byte> packed(engine::packed_bytes(WeightFormat::bf16, outputs, inputs), std::byte{0xff});
    REQUIRE(packed.size() == 2 * 16 * 4);
    engine::pack_matrix(engine::SourceFormat::f32, reinterpret_cast<const std::byte*>(source.data()), outputs, inputs,
                        WeightFormat::bf16, packed.data());
    const auto at = [&](std::size_t output, std::size_t input) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, packed.data() + ((input / 2 * 16 + output) * 2 + input % 2) * 2, 2);
        return engine::float_from_bf16(bits);
    };
    REQUIRE(at(0, 0) == 1.0f);
    REQUIRE(at(0, 1) == -2.0f);
    REQUIRE(at(0, 2) == 1.0f);       // a tie goes to even
    REQUIRE(at(1, 0) == 0x1.04p0f);  // a tie goes to even, upwards
    REQUIRE(at(1, 1) == 0x1.02p0f);  // above the tie
    REQUIRE(at(2, 2) == 65536.0f);
    REQUIRE(at(0, 3) == 0.0f);
    REQUIRE(at(3, 0) == 0.0f);
    REQUIRE(at(15, 3) == 0.0f);
}

TEST_CASE("half precision checkpoints are read exactly, denormals too", "[kernels]") {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const std::uint32_t exponent = bits >> 10 & 31;
        const std::uint32_t fraction = bits & 1023;
        const float value = engine::float_from_f16(static_cast<std::uint16_t>(bits));
        if (exponent == 31) {
            REQUIRE((fraction == 0 ? std::isinf(value) : std::isnan(value)));
            continue;
        }
        const double magnitude =
            exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, static_cast<int>(exponent) - 25);
        REQUIRE(double{value} == (bits >> 15 != 0 ? -magnitude : magnitude));
    }
    const std::vector<std::uint16_t> halves{0x3c00, 0xc000, 0x0001, 0x7bff};
    std::vector<float> packed(16 * 4);
    engine::pack_matrix(engine::SourceFormat::f16, reinterpret_cast<const std::byte*>(halves.data()), 1, 4,
                        WeightFormat::f32, reinterpret_cast<std::byte*>(packed.data()));
    REQUIRE(packed[0] == 1.0f);
    REQUIRE(packed[16] == -2.0f);
    REQUIRE(packed[32] == 0x1p-24f);
    REQUIRE(packed[48] == 65504.0f);
}
