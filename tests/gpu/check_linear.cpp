#include <algorithm>

#include "engine/kernels/cuda/linear.h"
#include "tests/gpu/product.h"

namespace gpu_check {
namespace {

namespace cuda = engine::cuda;
using cuda::LinearOutput;

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
}

}  // namespace gpu_check
