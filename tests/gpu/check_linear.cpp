#include <algorithm>

#include "engine/kernels/cuda/linear.h"
#include "tests/gpu/harness.h"

namespace gpu_check {
namespace {

namespace cuda = engine::cuda;
using cuda::LinearOutput;

struct Product {
    std::int32_t outputs;
    std::int32_t inputs;
};

std::string name_of(const Product& p) {
    return std::to_string(p.outputs) + "x" + std::to_string(p.inputs);
}

std::vector<double> reference_of(const std::vector<Bf16>& w, const std::vector<Bf16>& x, const Product& p,
                                 std::int32_t rows) {
    const auto inputs = static_cast<std::size_t>(p.inputs);
    std::vector<double> y(static_cast<std::size_t>(rows) * static_cast<std::size_t>(p.outputs));
    parallel_for(static_cast<std::size_t>(p.outputs), [&](std::size_t o) {
        std::vector<double> w_row(inputs);
        for (std::size_t k = 0; k < inputs; ++k) {
            w_row[k] = number_of(w[o * inputs + k]);
        }
        for (std::size_t row = 0; row < static_cast<std::size_t>(rows); ++row) {
            double sum = 0;
            for (std::size_t k = 0; k < inputs; ++k) {
                sum += w_row[k] * number_of(x[row * inputs + k]);
            }
            y[row * static_cast<std::size_t>(p.outputs) + o] = sum;
        }
    });
    return y;
}

void check_fixed_order(Checks& checks, const Product& p, std::int32_t rows_max) {
    const auto outputs = static_cast<std::size_t>(p.outputs);
    const auto inputs = static_cast<std::size_t>(p.inputs);
    const std::vector<Bf16> w = random_bf16(checks, outputs * inputs, 0.1f);
    const std::vector<Bf16> x = random_bf16(checks, static_cast<std::size_t>(rows_max) * inputs);
    const std::vector<double> reference = reference_of(w, x, p, rows_max);
    const DeviceArray<Bf16> device_w(w);
    const DeviceArray<Bf16> device_x(x);
    const cuda::DeviceMatrix matrix{device_w.get(), p.outputs, p.inputs};
    std::vector<float> all;  // bits of all rows, from the largest batch
    std::vector<std::int32_t> batches = {rows_max, 1, 2, 7, 8, 9, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 200};
    for (const std::int32_t rows : batches) {
        if (rows > rows_max) { continue; }
        const auto count = static_cast<std::size_t>(rows) * outputs;
        const std::string name = name_of(p) + " rows " + std::to_string(rows);
        DeviceArray<float> y(count);
        GPU_REQUIRE(cuda::linear_fixed_order(matrix, device_x.get(), rows, LinearOutput::f32, y.get(), nullptr));
        const std::vector<double> part(reference.begin(), reference.begin() + static_cast<std::ptrdiff_t>(count));
        if (rows == rows_max) {
            all = y.download();
            note_close(checks, "linear_fixed_order " + name, y, part, kFloatTolerance);
            continue;
        }
        const std::vector<float> out = y.download();
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i) {
            wrong += std::memcmp(&out[i], &all[i], 4) != 0 ? 1u : 0u;
        }
        checks.note(wrong == 0 && y.guards_intact(), "linear_fixed_order gives the same bits " + name,
                    std::to_string(wrong) + " elements differ");
    }
    // The other outputs, small and large.
    for (const std::int32_t rows : {3, rows_max}) {
        const auto count = static_cast<std::size_t>(rows) * outputs;
        const std::string name = name_of(p) + " rows " + std::to_string(rows);
        DeviceArray<Bf16> rounded(count);
        GPU_REQUIRE(cuda::linear_fixed_order(matrix, device_x.get(), rows, LinearOutput::bf16, rounded.get(), nullptr));
        const std::vector<Bf16> bits = rounded.download();
        const std::vector<float> before = random_floats(checks, count);
        DeviceArray<float> sums(before);
        GPU_REQUIRE(
            cuda::linear_fixed_order(matrix, device_x.get(), rows, LinearOutput::accumulate, sums.get(), nullptr));
        const std::vector<float> accumulated = sums.download();
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < count; ++i) {
            wrong += bits[i] != bf16_of(all[i]) ? 1u : 0u;
            wrong += accumulated[i] != before[i] + all[i] ? 1u : 0u;
        }
        checks.note(wrong == 0 && rounded.guards_intact() && sums.guards_intact(),
                    "linear_fixed_order bf16 and accumulate " + name, std::to_string(wrong) + " elements differ");
    }
}

void check_library(Checks& checks, cuda::MatmulLibrary& library, const Product& p) {
    const auto outputs = static_cast<std::size_t>(p.outputs);
    const auto inputs = static_cast<std::size_t>(p.inputs);
    const std::vector<Bf16> w = random_bf16(checks, outputs * inputs, 0.1f);
    const DeviceArray<Bf16> device_w(w);
    const cuda::DeviceMatrix matrix{device_w.get(), p.outputs, p.inputs};
    for (const std::int32_t rows : {1, 17, 65, 300}) {
        const std::vector<Bf16> x = random_bf16(checks, static_cast<std::size_t>(rows) * inputs);
        const DeviceArray<Bf16> device_x(x);
        const std::vector<double> reference = reference_of(w, x, p, rows);
        const std::string name = "cuBLASLt " + name_of(p) + " rows " + std::to_string(rows);
        const cudaError_t prepared = library.prepare(matrix, rows, LinearOutput::f32);
        checks.note(prepared == cudaSuccess, name + " has an algorithm", cudaGetErrorString(prepared));
        DeviceArray<float> y(reference.size());
        GPU_REQUIRE(library.linear(matrix, device_x.get(), rows, LinearOutput::f32, y.get(), nullptr));
        note_close(checks, name + " f32", y, reference, kFloatTolerance);
        DeviceArray<Bf16> rounded(reference.size());
        GPU_REQUIRE(library.linear(matrix, device_x.get(), rows, LinearOutput::bf16, rounded.get(), nullptr));
        note_close(checks, name + " bf16", rounded, reference, kBf16Tolerance);
        const std::vector<float> before = random_floats(checks, reference.size());
        DeviceArray<float> sums(before);
        GPU_REQUIRE(library.linear(matrix, device_x.get(), rows, LinearOutput::accumulate, sums.get(), nullptr));
        std::vector<double> expected(reference);
        for (std::size_t i = 0; i < expected.size(); ++i) {
            expected[i] += number_of(before[i]);
        }
        note_close(checks, name + " accumulate", sums, expected, kFloatTolerance);
    }
}

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
    double nearest = INFINITY;
    for (int bits = 0; bits < 256; ++bits) {
        const double candidate = fp8_value(static_cast<std::uint8_t>(bits));
        if (candidate == candidate) { nearest = std::min(nearest, std::abs(candidate - value)); }
    }
    return nearest;
}

void check_fp8(Checks& checks, cuda::MatmulLibrary& library, const Product& p) {
    const auto outputs = static_cast<std::size_t>(p.outputs);
    const auto inputs = static_cast<std::size_t>(p.inputs);
    constexpr std::int32_t kRows = 48;
    std::vector<Bf16> w = random_bf16(checks, outputs * inputs, 0.1f);
    std::fill(w.begin(), w.begin() + static_cast<std::ptrdiff_t>(inputs), Bf16{0});  // a row of zeros
    const std::vector<Bf16> x = random_bf16(checks, kRows * inputs, 5);
    const DeviceArray<Bf16> device_w(w);
    const DeviceArray<Bf16> device_x(x);
    DeviceArray<std::uint8_t> w8(w.size());
    DeviceArray<float> w_scales(outputs);
    DeviceArray<std::uint8_t> x8(x.size());
    DeviceArray<float> x_scales(kRows);
    GPU_REQUIRE(cuda::quantize_rows_fp8(device_w.get(), p.outputs, p.inputs, w8.get(), w_scales.get(), nullptr));
    GPU_REQUIRE(cuda::quantize_rows_fp8(device_x.get(), kRows, p.inputs, x8.get(), x_scales.get(), nullptr));
    const auto dequantise = [&](const std::vector<Bf16>& from, const DeviceArray<std::uint8_t>& bytes,
                                const DeviceArray<float>& scales, const std::string& name) {
        const std::vector<std::uint8_t> bits = bytes.download();
        const std::vector<float> factors = scales.download();
        std::vector<double> values(bits.size());
        std::size_t wrong = 0;
        for (std::size_t i = 0; i < bits.size(); ++i) {
            const double scale = number_of(factors[i / inputs]);
            const double value = fp8_value(bits[i]);
            const double wanted = number_of(from[i]) / scale;
            // The kernel divides in float: a tie may fall either way by that much.
            wrong += !(std::abs(value - wanted) <= fp8_distance(wanted) + 1e-5 * std::abs(wanted)) ? 1u : 0u;
            values[i] = value * scale;
        }
        checks.note(wrong == 0 && bytes.guards_intact() && scales.guards_intact(), "quantize_rows_fp8 " + name,
                    std::to_string(wrong) + " elements are not the nearest");
        return values;
    };
    const std::vector<double> w_values = dequantise(w, w8, w_scales, "weights " + name_of(p));
    const std::vector<double> x_values = dequantise(x, x8, x_scales, "activations");
    if (!library.has_fp8()) {
        checks.note(true, "FP8 product: this device or library has none with scales per row and output; not checked");
        return;
    }
    std::vector<double> reference(kRows * outputs);
    parallel_for(outputs, [&](std::size_t o) {
        for (std::size_t row = 0; row < kRows; ++row) {
            double sum = 0;
            for (std::size_t k = 0; k < inputs; ++k) {
                sum += w_values[o * inputs + k] * x_values[row * inputs + k];
            }
            reference[row * outputs + o] = sum;
        }
    });
    const cuda::DeviceMatrixFp8 matrix{w8.get(), w_scales.get(), p.outputs, p.inputs};
    const std::string name = "FP8 cuBLASLt " + name_of(p);
    DeviceArray<Bf16> rounded(reference.size());
    GPU_REQUIRE(library.linear(matrix, x8.get(), x_scales.get(), kRows, LinearOutput::bf16, rounded.get(), nullptr));
    note_close(checks, name + " bf16", rounded, reference, 2 * kBf16Tolerance);
    DeviceArray<float> y(reference.size());
    const cudaError_t error =
        library.linear(matrix, x8.get(), x_scales.get(), kRows, LinearOutput::f32, y.get(), nullptr);
    if (error == cudaErrorNotSupported) {
        checks.note(true, name + " f32: the library has no algorithm; not checked");
    } else {
        GPU_REQUIRE(error);
        note_close(checks, name + " f32", y, reference, kBf16Tolerance);
    }
}

}  // namespace

void check_linear(Checks& checks) {
    const Product products[] = {{17, 8},     {16, 40},    {128, 64},   {100, 72},   {64, 172},  // 172: the plain kernel
                                {1152, 896}, {1000, 576}, {130, 4160}, {8200, 192}, {257, 14336}};
    for (const Product& p : products) {
        check_fixed_order(checks, p, 300);
    }
    cudaError_t error = cudaSuccess;
    const auto library = cuda::MatmulLibrary::make(std::size_t{32} << 20, &error);
    checks.note(library != nullptr, "cuBLASLt can be had", cudaGetErrorString(error));
    if (library == nullptr) { return; }
    for (const Product& p : {Product{1152, 896}, Product{130, 4160}, Product{512, 72}}) {
        check_library(checks, *library, p);
    }
    check_fp8(checks, *library, {1152, 896});
}

}  // namespace gpu_check
