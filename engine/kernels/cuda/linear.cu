// The choice of a fixed-order product, the plain one for odd shapes, and the rounding of rows to FP8.
#include "engine/kernels/cuda/linear.cuh"

#include "engine/kernels/cuda/fp8.cuh"

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

/// One warp per (output, row): any number of inputs.
template <LinearOutput kOutput>
__global__ void __launch_bounds__(kThreads)
    plain_kernel(const Bf16* w, int outputs, int inputs, const Bf16* x, void* y) {
    wait_for_previous();
    let_next_start();
    const int lane = static_cast<int>(threadIdx.x) % kWarp;
    const int output = static_cast<int>(blockIdx.y) * kWarps + static_cast<int>(threadIdx.x) / kWarp;
    if (output >= outputs) { return; }
    const std::size_t row = blockIdx.x;
    const Bf16* w_row = w + static_cast<std::size_t>(output) * inputs;
    const Bf16* x_row = x + row * inputs;
    float sum = 0;
    for (int k = lane; k < inputs; k += kWarp) {
        sum += float_of(w_row[k]) * float_of(x_row[k]);
    }
    sum = warp_sum(sum);
    if (lane == 0) { write_output<kOutput>(y, row * outputs + output, sum); }
}

cudaError_t linear_plain(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                         cudaStream_t stream) {
    const int blocks = ceil_div(w.outputs, kWarps);
    if (blocks > 65535) { return cudaErrorInvalidValue; }
    const dim3 grid(static_cast<unsigned>(rows), static_cast<unsigned>(blocks));
    const auto run = [&](auto kernel) {
        return launch_kernel(kernel, grid, kThreads, 0, stream, w.data, w.outputs, w.inputs, x, y);
    };
    switch (output) {
        case LinearOutput::bf16:
            return run(plain_kernel<LinearOutput::bf16>);
        case LinearOutput::f32:
            return run(plain_kernel<LinearOutput::f32>);
        case LinearOutput::accumulate:
            return run(plain_kernel<LinearOutput::accumulate>);
    }
    return cudaErrorInvalidValue;
}

/// One block per row.
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const Bf16* x, int width, std::uint8_t* out, float* scales) {
    wait_for_previous();
    let_next_start();
    __shared__ float shared[kWarps];
    const std::size_t row = blockIdx.x;
    const Bf16* source = x + row * width;
    float most = 0;
    for (int i = static_cast<int>(threadIdx.x) * 8; i < width; i += kThreads * 8) {
        most = largest_of(most, *reinterpret_cast<const uint4*>(source + i));
    }
    const float scale = fp8_scale(block_max<kThreads>(most, shared));
    if (threadIdx.x == 0) { scales[row] = scale; }
    for (int i = static_cast<int>(threadIdx.x) * 8; i < width; i += kThreads * 8) {
        const uint4 v = *reinterpret_cast<const uint4*>(source + i);
        *reinterpret_cast<uint2*>(out + row * width + i) =
            make_uint2(fp8_quad(v.x, v.y, scale), fp8_quad(v.z, v.w, scale));
    }
}

template <Element kElement>
cudaError_t linear_in_tiles(const ProductArguments& product, LinearOutput output, void* y, cudaStream_t stream) {
    if (product.rows <= kSkinnyRows) { return linear_skinny<kElement>(product, output, y, stream); }
    return linear_wide<kElement>(product, output, y, stream);
}

}  // namespace

cudaError_t linear_fixed_order(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                               cudaStream_t stream) {
    if (rows < 0 || w.outputs <= 0 || w.inputs <= 0) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    if (w.inputs % 8 != 0) { return linear_plain(w, x, rows, output, y, stream); }
    ProductArguments product;
    product.w = w.data;
    product.x = x;
    product.outputs = w.outputs;
    product.units = w.inputs;
    product.rows = rows;
    return linear_in_tiles<Element::bf16>(product, output, y, stream);
}

cudaError_t linear_fixed_order(const DeviceMatrixFp8& w, const std::uint8_t* x, const float* x_scales,
                               std::int32_t rows, LinearOutput output, void* y, cudaStream_t stream) {
    if (rows < 0 || w.outputs <= 0 || w.inputs <= 0 || w.inputs % 16 != 0) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    ProductArguments product;
    product.w = reinterpret_cast<const Bf16*>(w.data);
    product.x = reinterpret_cast<const Bf16*>(x);
    product.w_scales = w.scales;
    product.x_scales = x_scales;
    product.outputs = w.outputs;
    product.units = w.inputs / 2;
    product.rows = rows;
    return linear_in_tiles<Element::fp8>(product, output, y, stream);
}

cudaError_t quantize_rows_fp8(const Bf16* x, std::int32_t rows, std::int32_t width, std::uint8_t* out, float* scales,
                              cudaStream_t stream) {
    if (rows < 0 || width <= 0 || width % 16 != 0) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    return launch_kernel(quantize_kernel, static_cast<unsigned>(rows), kThreads, 0, stream, x, width, out, scales);
}

}  // namespace engine::cuda
