// Rounding rows to e4m3 with one scale each: what quantize_rows_fp8() and the operators that do it on the way share, so
// that a row gets the same bytes from all of them. Always of values that were rounded to bf16 before.
#pragma once

#include <cuda_fp8.h>

#include "engine/kernels/cuda/device.cuh"

namespace engine::cuda {

constexpr float kFp8Max = 448;  // largest finite e4m3

/// The larger magnitude of a pair of bf16, `most` included.
__device__ __forceinline__ float largest_of(float most, unsigned pair) {
    return fmaxf(most, fmaxf(fabsf(low_float(pair)), fabsf(high_float(pair))));
}
__device__ __forceinline__ float largest_of(float most, const uint4& v) {
    return largest_of(largest_of(largest_of(largest_of(most, v.x), v.y), v.z), v.w);
}

/// Maximum over a block of `kThreads`, the same in every thread. `shared`: [kThreads / 32]; the block must not write it
/// again before its next barrier.
template <int kThreads>
__device__ __forceinline__ float block_max(float value, float* shared) {
    value = warp_max(value);
    if (threadIdx.x % kWarp == 0) { shared[threadIdx.x / kWarp] = value; }
    __syncthreads();
    float most = shared[0];
#pragma unroll
    for (int w = 1; w < kThreads / kWarp; ++w) {
        most = fmaxf(most, shared[w]);
    }
    return most;
}

/// Of a row whose largest magnitude is `most`.
__device__ __forceinline__ float fp8_scale(float most) {
    return most > 0 ? __fdiv_rn(most, kFp8Max) : 1.0f;
}

/// Two bf16 to two e4m3; four to four.
__device__ __forceinline__ unsigned fp8_pair(unsigned pair, float scale) {
    const float2 scaled = make_float2(__fdiv_rn(low_float(pair), scale), __fdiv_rn(high_float(pair), scale));
    return __nv_cvt_float2_to_fp8x2(scaled, __NV_SATFINITE, __NV_E4M3);
}
__device__ __forceinline__ unsigned fp8_quad(unsigned first, unsigned second, float scale) {
    return fp8_pair(first, scale) | fp8_pair(second, scale) << 16;
}

}  // namespace engine::cuda
