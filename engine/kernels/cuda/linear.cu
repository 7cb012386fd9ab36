// The choice of a fixed-order product, the plain one for odd shapes, and the rounding of rows to FP8.
#include "engine/kernels/cuda/linear.cuh"

#include <cuda_fp8.h>

namespace engine::cuda {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / kWarp;

/// One warp per (output, row): any number of inputs.
template <LinearOutput kOutput>
__global__ void __launch_bounds__(kThreads)
    plain_kernel(const Bf16* w, int outputs, int inputs, const Bf16* x, void* y) {
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
    const auto run = [&](auto kernel) { kernel<<<grid, kThreads, 0, stream>>>(w.data, w.outputs, w.inputs, x, y); };
    switch (output) {
        case LinearOutput::bf16:
            run(plain_kernel<LinearOutput::bf16>);
            break;
        case LinearOutput::f32:
            run(plain_kernel<LinearOutput::f32>);
            break;
        case LinearOutput::accumulate:
            run(plain_kernel<LinearOutput::accumulate>);
            break;
    }
    return cudaGetLastError();
}

constexpr float kFp8Max = 448;  // largest finite e4m3

__device__ __forceinline__ float largest_of(const uint4& v) {
    float most = fmaxf(fabsf(low_float(v.x)), fabsf(high_float(v.x)));
    most = fmaxf(most, fmaxf(fabsf(low_float(v.y)), fabsf(high_float(v.y))));
    most = fmaxf(most, fmaxf(fabsf(low_float(v.z)), fabsf(high_float(v.z))));
    return fmaxf(most, fmaxf(fabsf(low_float(v.w)), fabsf(high_float(v.w))));
}

/// Two bf16 to two e4m3.
__device__ __forceinline__ unsigned fp8_pair(unsigned pair, float scale) {
    const float2 scaled = make_float2(__fdiv_rn(low_float(pair), scale), __fdiv_rn(high_float(pair), scale));
    return __nv_cvt_float2_to_fp8x2(scaled, __NV_SATFINITE, __NV_E4M3);
}

/// One block per row.
__global__ void __launch_bounds__(kThreads)
    quantize_kernel(const Bf16* x, int width, std::uint8_t* out, float* scales) {
    __shared__ float shared[kWarps];
    const std::size_t row = blockIdx.x;
    const Bf16* source = x + row * width;
    float most = 0;
    for (int i = static_cast<int>(threadIdx.x) * 8; i < width; i += kThreads * 8) {
        most = fmaxf(most, largest_of(*reinterpret_cast<const uint4*>(source + i)));
    }
    most = warp_max(most);
    if (threadIdx.x % kWarp == 0) { shared[threadIdx.x / kWarp] = most; }
    __syncthreads();
    most = 0;
#pragma unroll
    for (int w = 0; w < kWarps; ++w) {
        most = fmaxf(most, shared[w]);
    }
    const float scale = most > 0 ? most / kFp8Max : 1.0f;
    if (threadIdx.x == 0) { scales[row] = scale; }
    for (int i = static_cast<int>(threadIdx.x) * 8; i < width; i += kThreads * 8) {
        const uint4 v = *reinterpret_cast<const uint4*>(source + i);
        uint2 packed;
        packed.x = fp8_pair(v.x, scale) | fp8_pair(v.y, scale) << 16;
        packed.y = fp8_pair(v.z, scale) | fp8_pair(v.w, scale) << 16;
        *reinterpret_cast<uint2*>(out + row * width + i) = packed;
    }
}

}  // namespace

cudaError_t linear_fixed_order(const DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output, void* y,
                               cudaStream_t stream) {
    if (rows < 0 || w.outputs <= 0 || w.inputs <= 0) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    if (w.inputs % 8 != 0) { return linear_plain(w, x, rows, output, y, stream); }
    if (rows <= kSkinnyRows) { return linear_skinny(w, x, rows, output, y, stream); }
    return linear_wide(w, x, rows, output, y, stream);
}

cudaError_t quantize_rows_fp8(const Bf16* x, std::int32_t rows, std::int32_t width, std::uint8_t* out, float* scales,
                              cudaStream_t stream) {
    if (rows < 0 || width <= 0 || width % 16 != 0) { return cudaErrorInvalidValue; }
    if (rows == 0) { return cudaSuccess; }
    quantize_kernel<<<static_cast<unsigned>(rows), kThreads, 0, stream>>>(x, width, out, scales);
    return cudaGetLastError();
}

}  // namespace engine::cuda
