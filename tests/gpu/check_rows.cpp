#include <algorithm>

#include "tests/gpu/harness.h"

namespace gpu_check {
namespace {

namespace cuda = engine::cuda;

void check_embed(Checks& checks) {
    for (const std::int32_t hidden : {64, 100, 896, 4096}) {
        const std::int32_t vocabulary = 300;
        const std::int32_t rows = 65;
        const std::vector<Bf16> table = random_bf16(checks, static_cast<std::size_t>(vocabulary * hidden));
        std::vector<std::int32_t> tokens(static_cast<std::size_t>(rows));
        for (std::int32_t& token : tokens) {
            token = random_int(checks, 0, vocabulary - 1);
        }
        tokens[3] = cuda::kIdleRow;
        tokens[0] = vocabulary - 1;
        const DeviceArray<Bf16> device_table(table);
        const DeviceArray<std::int32_t> device_tokens(tokens);
        DeviceArray<float> out(static_cast<std::size_t>(rows * hidden));
        GPU_REQUIRE(cuda::embed(device_table.get(), vocabulary, hidden, device_tokens.get(), rows, out.get(), nullptr));
        std::vector<double> reference(out.size());
        for (std::size_t i = 0; i < reference.size(); ++i) {
            const std::int32_t token = tokens[i / static_cast<std::size_t>(hidden)];
            reference[i] =
                token < 0
                    ? 0.0
                    : number_of(table[static_cast<std::size_t>(token * hidden) + i % static_cast<std::size_t>(hidden)]);
        }
        note_close(checks, "embed hidden " + std::to_string(hidden), out, reference, 0);
    }
}

void check_norm(Checks& checks) {
    constexpr float kEps = 1e-5f;
    for (const std::int32_t width : {64, 100, 102, 896, 1024, 2048, 3072, 4096, 5120, 8192, 8196, 16384}) {
        for (const std::int32_t rows : {1, 2, 7, 65}) {
            for (const int mode : {0, 1, 2, 3}) {  // bit 0: delta, bit 1: bias
                if (mode != 0 && rows == 2) { continue; }
                const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(width);
                const std::vector<float> x = random_floats(checks, count, 3);
                const std::vector<float> delta = random_floats(checks, count);
                const std::vector<float> bias = random_floats(checks, static_cast<std::size_t>(width));
                const std::vector<float> weight = random_floats(checks, static_cast<std::size_t>(width));
                DeviceArray<float> residual(x);
                const DeviceArray<float> device_delta(delta);
                const DeviceArray<float> device_bias(bias);
                const DeviceArray<float> device_weight(weight);
                DeviceArray<Bf16> out(count);
                if (mode == 0) {
                    GPU_REQUIRE(
                        cuda::rms_norm(residual.get(), device_weight.get(), kEps, rows, width, out.get(), nullptr));
                } else {
                    GPU_REQUIRE(cuda::add_rms_norm(residual.get(), (mode & 1) != 0 ? device_delta.get() : nullptr,
                                                   (mode & 2) != 0 ? device_bias.get() : nullptr, device_weight.get(),
                                                   kEps, rows, width, out.get(), nullptr));
                }
                std::vector<double> sums(count);
                std::vector<double> reference(count);
                for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
                    const std::size_t begin = row * static_cast<std::size_t>(width);
                    double squares = 0;
                    for (std::size_t i = 0; i < static_cast<std::size_t>(width); ++i) {
                        double& sum = sums[begin + i];
                        sum = number_of(x[begin + i]);
                        if ((mode & 1) != 0) { sum += number_of(delta[begin + i]); }
                        if ((mode & 2) != 0) { sum += number_of(bias[i]); }
                        squares += sum * sum;
                    }
                    const double scale = 1 / std::sqrt(squares / width + number_of(kEps));
                    for (std::size_t i = 0; i < static_cast<std::size_t>(width); ++i) {
                        reference[begin + i] = sums[begin + i] * scale * number_of(weight[i]);
                    }
                }
                const std::string name = "rms_norm width " + std::to_string(width) + " rows " + std::to_string(rows) +
                                         ((mode & 1) != 0 ? " delta" : "") + ((mode & 2) != 0 ? " bias" : "");
                note_close(checks, name, out, reference, kBf16Tolerance);
                note_close(checks, name + " (residual)", residual, sums, 1e-6);
            }
        }
    }
}

void check_swiglu(Checks& checks) {
    for (const std::int32_t width : {8, 172, 4864, 14336}) {
        for (const std::int32_t rows : {1, 3, 64}) {
            const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(width);
            std::vector<Bf16> gate_up = random_bf16(checks, 2 * count, 4);
            gate_up[0] = bf16_of(-200);  // e^200 is infinite as a float
            const DeviceArray<Bf16> input(gate_up);
            DeviceArray<Bf16> out(count);
            GPU_REQUIRE(cuda::swiglu(input.get(), rows, width, out.get(), nullptr));
            std::vector<double> reference(count);
            const auto w = static_cast<std::size_t>(width);
            for (std::size_t i = 0; i < count; ++i) {
                const double gate = number_of(gate_up[i / w * 2 * w + i % w]);
                const double up = number_of(gate_up[i / w * 2 * w + w + i % w]);
                reference[i] = gate / (1 + std::exp(-gate)) * up;
            }
            note_close(checks, "swiglu width " + std::to_string(width) + " rows " + std::to_string(rows), out,
                       reference, kBf16Tolerance);
        }
    }
}

void check_gather(Checks& checks) {
    for (const std::int32_t width : {1, 6, 1024}) {
        const std::vector<float> source = random_floats(checks, static_cast<std::size_t>(50 * width));
        const std::vector<std::int32_t> index = {49, 0, 7, cuda::kIdleRow, 7};
        const DeviceArray<float> device_source(source);
        const DeviceArray<std::int32_t> device_index(index);
        DeviceArray<float> out(index.size() * static_cast<std::size_t>(width));
        GPU_REQUIRE(cuda::gather_rows(device_source.get(), static_cast<std::size_t>(width) * 4, device_index.get(),
                                      static_cast<std::int32_t>(index.size()), out.get(), nullptr));
        std::vector<double> reference(out.size());
        for (std::size_t i = 0; i < reference.size(); ++i) {
            const std::int32_t row = index[i / static_cast<std::size_t>(width)];
            reference[i] =
                row < 0
                    ? 0.0
                    : number_of(source[static_cast<std::size_t>(row * width) + i % static_cast<std::size_t>(width)]);
        }
        note_close(checks, "gather_rows width " + std::to_string(width), out, reference, 0);
    }
}

/// A half-precision number, by its definition.
double half_value(std::uint16_t bits) {
    const int exponent = bits >> 10 & 31;
    const int fraction = bits & 1023;
    const double magnitude = exponent == 0 ? std::ldexp(fraction, -24) : std::ldexp(1024 + fraction, exponent - 25);
    return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

void check_conversions(Checks& checks) {
    // Every bf16 with every kind of remainder.
    std::vector<float> floats;
    for (std::uint32_t high = 0; high < 0x10000; ++high) {
        for (const std::uint32_t low : {0u, 1u, 0x7fffu, 0x8000u, 0x8001u, 0xffffu}) {
            const std::uint32_t word = high << 16 | low;
            float value = 0;
            std::memcpy(&value, &word, 4);
            if (value == value) { floats.push_back(value); }
        }
    }
    const DeviceArray<float> device_floats(floats);
    DeviceArray<Bf16> rounded(floats.size());
    GPU_REQUIRE(cuda::to_bf16(device_floats.get(), floats.size(), rounded.get(), nullptr));
    const std::vector<Bf16> bits = rounded.download();
    std::size_t wrong = 0;
    for (std::size_t i = 0; i < floats.size(); ++i) {
        wrong += bits[i] != bf16_of(floats[i]) ? 1u : 0u;
    }
    checks.note(wrong == 0 && rounded.guards_intact(), "to_bf16 of every bf16 and remainder",
                std::to_string(wrong) + " of " + std::to_string(floats.size()) + " differ");

    DeviceArray<float> back(floats.size());
    GPU_REQUIRE(cuda::to_float(rounded.get(), floats.size(), back.get(), nullptr));
    const std::vector<float> widened = back.download();
    wrong = 0;
    for (std::size_t i = 0; i < floats.size(); ++i) {
        const float expected = float_of(bits[i]);
        wrong += std::memcmp(&widened[i], &expected, 4) != 0 ? 1u : 0u;
    }
    checks.note(wrong == 0, "to_float", std::to_string(wrong) + " differ");

    std::vector<std::uint16_t> halves;
    for (std::uint32_t i = 0; i < 0x10000; ++i) {
        if ((i >> 10 & 31) != 31) { halves.push_back(static_cast<std::uint16_t>(i)); }
    }
    const DeviceArray<std::uint16_t> device_halves(halves);
    DeviceArray<Bf16> from_halves(halves.size());
    GPU_REQUIRE(cuda::half_to_bf16(device_halves.get(), halves.size(), from_halves.get(), nullptr));
    const std::vector<Bf16> converted = from_halves.download();
    wrong = 0;
    for (std::size_t i = 0; i < halves.size(); ++i) {
        wrong += converted[i] != bf16_of(static_cast<float>(half_value(halves[i]))) ? 1u : 0u;
    }
    checks.note(wrong == 0, "half_to_bf16 of every finite half", std::to_string(wrong) + " differ");
}

}  // namespace

void check_rows(Checks& checks) {
    check_embed(checks);
    check_norm(checks);
    check_swiglu(checks);
    check_gather(checks);
    check_conversions(checks);
}

}  // namespace gpu_check
