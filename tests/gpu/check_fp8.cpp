#include <algorithm>

#include "engine/kernels/cuda/linear.h"
#include "tests/gpu/product.h"

namespace gpu_check {
namespace {

namespace cuda = engine::cuda;
using cuda::LinearOutput;

/// An e4m3 number, by its definition.
double fp8_value(std::uint8_t bits) {
    const int exponent = bits >> 3 & 15;
    const int fraction = bits & 7;
    if (exponent == 15 && fraction == 7) { return NAN; }
    const double magnitude = exponent == 0 ? std::ldexp(fraction, -9) : std::ldexp(8 + fraction, exponent - 10);
    return (bits & 0x80) != 0 ? -magnitude : magnitude;
}

/// The distance to the nearest e4m3 number.
double fp8_distance(double value) {
    static const std::vector<double> magnitudes = [] {
        std::vector<double> all;
        for (int bits = 0; bits < 127; ++bits) {  // ascending
            all.push_back(fp8_value(static_cast<std::uint8_t>(bits)));
        }
        return all;
    }();
    const double magnitude = std::abs(value);
    const auto above = std::lower_bound(magnitudes.begin(), magnitudes.end(), magnitude);
    double nearest = INFINITY;
    if (above != magnitudes.end()) { nearest = *above - magnitude; }
    if (above != magnitudes.begin()) { nearest = std::min(nearest, magnitude - *(above - 1)); }
    return nearest;
}

/// Random rows, each of its own magnitude: a scale that goes to the wrong row shows.
std::vector<Bf16> random_rows(Checks& checks, std::int32_t rows, std::int32_t width, float deviation) {
    std::vector<Bf16> values;
    for (std::int32_t row = 0; row < rows; ++row) {
        const float own = deviation * std::ldexp(1.0f, random_int(checks, -2, 2));
        const std::vector<Bf16> more = random_bf16(checks, static_cast<std::size_t>(width), own);
        values.insert(values.end(), more.begin(), more.end());
    }
    return values;
}

/// Rows on the device, rounded to FP8, and what they mean.
struct Rounded {
    Rounded(Checks& checks, const std::vector<Bf16>& from, std::int32_t rows, std::int32_t width,
            const std::string& name)
        : bytes(from.size()), scales(static_cast<std::size_t>(rows)), values(from.size()) {
        const DeviceArray<Bf16> device_from(from);
        GPU_REQUIRE(cuda::quantize_rows_fp8(device_from.get(), rows, width, bytes.get(), scales.get(), nullptr));
        const std::vector<std::uint8_t> bits = bytes.download();
        const std::vector<float> factors = scales.download();
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < bits.size(); ++i) {
            const double scale = number_of(factors[i / static_cast<std::size_t>(width)]);
            const double value = fp8_value(bits[i]);
            const double wanted = number_of(from[i]) / scale;
            // The kernel divides in float: a tie may fall either way by that much.
            wrong += !(std::abs(value - wanted) <= fp8_distance(wanted) + 1e-5 * std::abs(wanted)) ? 1u : 0u;
            values[i] = value * scale;
        }
        checks.note(wrong == 0 && bytes.guards_intact() && scales.guards_intact(), "quantize_rows_fp8 " + name,
                    std::to_string(wrong) + " elements are not the nearest");
    }

    DeviceArray<std::uint8_t> bytes;
    DeviceArray<float> scales;
    std::vector<double> values;
};

std::vector<Bf16> random_weights(Checks& checks, const Product& p) {
    std::vector<Bf16> w = random_rows(checks, p.outputs, p.inputs, 0.1f);
    std::fill(w.begin(), w.begin() + p.inputs, Bf16{0});  // a row of zeros
    return w;
}

void check_fixed_order(Checks& checks, const Product& p, std::int32_t rows_max) {
    const auto outputs = static_cast<std::size_t>(p.outputs);
    const Rounded w(checks, random_weights(checks, p), p.outputs, p.inputs, "weights " + name_of(p));
    const Rounded x(checks, random_rows(checks, rows_max, p.inputs, 5), rows_max, p.inputs, "rows of " + name_of(p));
    const std::vector<double> reference = reference_of(w.values, x.values, p, rows_max);
    const cuda::DeviceMatrixFp8 matrix{w.bytes.get(), w.scales.get(), p.outputs, p.inputs};
    const auto multiply = [&](std::int32_t rows, LinearOutput output, void* y) {
        GPU_REQUIRE(cuda::linear_fixed_order(matrix, x.bytes.get(), x.scales.get(), rows, output, y, nullptr));
    };
    std::vector<float> all;  // bits of all rows, from the largest batch
    for (const std::int32_t rows : {rows_max, 1, 7, 8, 9, 16, 17, 32, 33, 64, 65, 128, 129}) {
        const auto count = static_cast<std::size_t>(rows) * outputs;
        const std::string name = name_of(p) + " rows " + std::to_string(rows);
        DeviceArray<float> y(count);
        multiply(rows, LinearOutput::f32, y.get());
        if (rows == rows_max) {
            all = y.download();
            note_close(checks, "FP8 linear_fixed_order " + name, y, reference, kFloatTolerance);
            continue;
        }
        const std::vector<float> out = y.download();
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i) {
            wrong += std::memcmp(&out[i], &all[i], 4) != 0 ? 1u : 0u;
        }
        checks.note(wrong == 0 && y.guards_intact(), "FP8 linear_fixed_order gives the same bits " + name,
                    std::to_string(wrong) + " elements differ");
    }
    for (const std::int32_t rows : {3, rows_max}) {  // the other outputs, small and large
        const auto count = static_cast<std::size_t>(rows) * outputs;
        DeviceArray<Bf16> rounded(count);
        multiply(rows, LinearOutput::bf16, rounded.get());
        const std::vector<Bf16> bits = rounded.download();
        const std::vector<float> before = random_floats(checks, count);
        DeviceArray<float> sums(before);
        multiply(rows, LinearOutput::accumulate, sums.get());
        const std::vector<float> accumulated = sums.download();
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i) {
            wrong += bits[i] != bf16_of(all[i]) ? 1u : 0u;
            wrong += accumulated[i] != before[i] + all[i] ? 1u : 0u;
        }
        checks.note(wrong == 0 && rounded.guards_intact() && sums.guards_intact(),
                    "FP8 linear_fixed_order bf16 and accumulate " + name_of(p) + " rows " + std::to_string(rows),
                    std::to_string(wrong) + " elements differ");
    }
}

void check_library(Checks& checks, cuda::MatmulLibrary& library, const Product& p) {
    constexpr std::int32_t kRows = 48;
    const Rounded w(checks, random_weights(checks, p), p.outputs, p.inputs, "weights " + name_of(p));
    const Rounded x(checks, random_rows(checks, kRows, p.inputs, 5), kRows, p.inputs, "activations");
    const std::vector<double> reference = reference_of(w.values, x.values, p, kRows);
    const cuda::DeviceMatrixFp8 matrix{w.bytes.get(), w.scales.get(), p.outputs, p.inputs};
    const std::string name = "FP8 cuBLASLt " + name_of(p);
    DeviceArray<Bf16> rounded(reference.size());
    GPU_REQUIRE(
        library.linear(matrix, x.bytes.get(), x.scales.get(), kRows, LinearOutput::bf16, rounded.get(), nullptr));
    note_close(checks, name + " bf16", rounded, reference, 2 * kBf16Tolerance);
    DeviceArray<float> y(reference.size());
    const cudaError_t error =
        library.linear(matrix, x.bytes.get(), x.scales.get(), kRows, LinearOutput::f32, y.get(), nullptr);
    if (error == cudaErrorNotSupported) {
        checks.note(true, name + " f32: the library has no algorithm (the engine's own is used); not checked");
    } else {
        GPU_REQUIRE(error);
        note_close(checks, name + " f32", y, reference, kBf16Tolerance);
    }
}

/// An operator that rounds its own output leaves what quantize_rows_fp8() makes of it, and everything else as without.
template <class Operator>
void check_on_the_way(Checks& checks, const std::string& name, std::int32_t rows, std::int32_t width,
                      const Operator& run) {
    const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(width);
    DeviceArray<Bf16> plain(count);
    run(plain.get(), cuda::QuantizedRows{});
    DeviceArray<std::uint8_t> wanted(count);
    DeviceArray<float> wanted_scales(static_cast<std::size_t>(rows));
    GPU_REQUIRE(cuda::quantize_rows_fp8(plain.get(), rows, width, wanted.get(), wanted_scales.get(), nullptr));
    DeviceArray<Bf16> out(count);
    DeviceArray<std::uint8_t> bytes(count);
    DeviceArray<float> scales(static_cast<std::size_t>(rows));
    run(out.get(), cuda::QuantizedRows{bytes.get(), scales.get()});
    const bool same = bytes.download() == wanted.download() && scales.download() == wanted_scales.download();
    const bool guards = bytes.guards_intact() && scales.guards_intact() && out.guards_intact();
    checks.note(same && out.download() == plain.download() && guards,
                name + " rounds on the way, width " + std::to_string(width) + " rows " + std::to_string(rows));
}

void check_fused(Checks& checks) {
    constexpr float kEps = 1e-5f;
    for (const std::int32_t width : {16, 352, 896, 1040, 2048, 4096, 8192, 8208, 14336, 32784}) {
        for (const std::int32_t rows : {1, 9}) {
            const auto count = static_cast<std::size_t>(rows) * static_cast<std::size_t>(width);
            const std::vector<float> x = random_floats(checks, count, 3);
            const DeviceArray<float> delta(random_floats(checks, count));
            const DeviceArray<float> weight(random_floats(checks, static_cast<std::size_t>(width)));
            check_on_the_way(checks, "add_rms_norm", rows, width, [&](Bf16* out, const cuda::QuantizedRows& fp8) {
                DeviceArray<float> residual(x);
                GPU_REQUIRE(cuda::add_rms_norm(residual.get(), delta.get(), nullptr, weight.get(), kEps, rows, width,
                                               out, nullptr, fp8));
                GPU_REQUIRE(cudaDeviceSynchronize());
            });
            const DeviceArray<Bf16> gate_up(random_bf16(checks, 2 * count, 4));
            check_on_the_way(checks, "swiglu", rows, width, [&](Bf16* out, const cuda::QuantizedRows& fp8) {
                GPU_REQUIRE(cuda::swiglu(gate_up.get(), rows, width, out, nullptr, fp8));
            });
        }
    }
}

}  // namespace

void check_fp8(Checks& checks) {
    cudaDeviceProp properties;
    GPU_REQUIRE(cudaGetDeviceProperties(&properties, 0));
    check_fused(checks);
    if (properties.major * 10 + properties.minor < 89) {
        checks.note(true, "FP8 products: compute capability below 8.9; not checked");
        return;
    }
    const Product products[] = {{17, 16},    {16, 48},    {128, 128},  {100, 144},  {64, 176},
                                {1152, 896}, {1000, 576}, {130, 4160}, {8200, 192}, {257, 14336}};
    for (const Product& p : products) {
        check_fixed_order(checks, p, 200);
    }
    cudaError_t error = cudaSuccess;
    const auto library = cuda::MatmulLibrary::make(std::size_t{32} << 20, &error);
    if (library == nullptr || !library->has_fp8()) {
        checks.note(true, "FP8 cuBLASLt: this device or library has none with scales per row and output; not checked");
        return;
    }
    check_library(checks, *library, {1152, 896});
    check_library(checks, *library, {144, 2048});
}

}  // namespace gpu_check
