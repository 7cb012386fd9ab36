// Small pieces that the kernels share: vectors of bf16, reductions in a fixed order, and the instructions of compute
// capability 8.0 that C++ has no words for (asynchronous copies to shared memory, ldmatrix, mma).
#pragma once

#include <cuda_bf16.h>
#include <cuda_runtime.h>

#include <cstdint>

#include "engine/kernels/cuda/dependent_launch.cuh"
#include "engine/kernels/cuda/launch.h"

namespace engine::cuda {

constexpr int kWarp = 32;

__host__ __device__ constexpr int ceil_div(int a, int b) {
    return (a + b - 1) / b;
}

__device__ __forceinline__ float float_of(Bf16 bits) {
    return __uint_as_float(static_cast<unsigned>(bits) << 16);
}
/// The lower and the upper bf16 of a 32-bit word.
__device__ __forceinline__ float low_float(unsigned pair) {
    return __uint_as_float(pair << 16);
}
__device__ __forceinline__ float high_float(unsigned pair) {
    return __uint_as_float(pair & 0xffff0000u);
}
/// Nearest even.
__device__ __forceinline__ Bf16 bf16_of(float value) {
    return __bfloat16_as_ushort(__float2bfloat16_rn(value));
}
__device__ __forceinline__ unsigned bf16_pair(float low, float high) {
    const __nv_bfloat162 pair = __floats2bfloat162_rn(low, high);
    return static_cast<unsigned>(__bfloat16_as_ushort(pair.x)) |
           (static_cast<unsigned>(__bfloat16_as_ushort(pair.y)) << 16);
}

/// Sum over the warp, the same bits in every lane.
__device__ __forceinline__ float warp_sum(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value += __shfl_xor_sync(0xffffffffu, value, distance);
    }
    return value;
}
__device__ __forceinline__ float warp_max(float value) {
#pragma unroll
    for (int distance = 16; distance > 0; distance /= 2) {
        value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, distance));
    }
    return value;
}

/// Sum over a block of `kThreads`, the same bits in every thread. `shared`: [kThreads / 32]; the block must not write
/// it again before its next barrier.
template <int kThreads>
__device__ __forceinline__ float block_sum(float value, float* shared) {
    value = warp_sum(value);
    const int warp = static_cast<int>(threadIdx.x) / kWarp;
    if (threadIdx.x % kWarp == 0) { shared[warp] = value; }
    __syncthreads();
    float sum = 0;
#pragma unroll
    for (int i = 0; i < kThreads / kWarp; ++i) {
        sum += shared[i];
    }
    return sum;
}

/// 2^x to about 2 units in the last place; 2^-infinity is 0.
__device__ __forceinline__ float exp2_fast(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

__device__ __forceinline__ unsigned shared_address(const void* pointer) {
    return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

/// 16 bytes from global to shared memory, or 16 zeros where `valid` is false (`source` must be a valid address anyway).
__device__ __forceinline__ void copy_async16(unsigned target, const void* source, bool valid) {
    const int bytes = valid ? 16 : 0;
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(target), "l"(source), "r"(bytes) : "memory");
}
__device__ __forceinline__ void copy_async_commit() {
    asm volatile("cp.async.commit_group;" ::: "memory");
}
/// Waits until at most `kPending` of this thread's newest groups are unfinished.
template <int kPending>
__device__ __forceinline__ void copy_async_wait() {
    asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

/// Four 8x8 matrices of 16-bit elements; lane l gives the address of row l % 8 of matrix l / 8. Lane (g, t) = (l / 4,
/// l % 4) receives of each matrix the elements [g][2t, 2t + 1].
__device__ __forceinline__ void load_matrices(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}
/// The same, transposed: lane (g, t) receives the elements [2t, 2t + 1][g].
__device__ __forceinline__ void load_matrices_transposed(unsigned (&r)[4], unsigned address) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
                 : "r"(address)
                 : "memory");
}

/// c[16 x 8] += a[16 x 16] * b[16 x 8], bf16 with float sums. Lane (g, t) holds
/// a: rows g, g + 8 of columns 2t, 2t + 1, then the same of columns 2t + 8, 2t + 9;
/// b: rows 2t, 2t + 1 of column g, then rows 2t + 8, 2t + 9;
/// c: [g][2t], [g][2t + 1], [g + 8][2t], [g + 8][2t + 1].
__device__ __forceinline__ void multiply_add(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    asm("mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

/// c[16 x 8] += a[16 x 32] * b[32 x 8], e4m3 with float sums; compute capability 8.9. Lane (g, t) holds
/// a: rows g, g + 8 of columns 4t .. 4t + 3, then the same of columns 4t + 16 .. 4t + 19;
/// b: rows 4t .. 4t + 3 of column g, then rows 4t + 16 .. 4t + 19; c: as multiply_add().
/// (Hopper has no such unit for single warps: the compiler converts to half floats, exactly, and multiplies those.)
__device__ __forceinline__ void multiply_add_fp8(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
#if !defined(__CUDA_ARCH__) || __CUDA_ARCH__ >= 890
    asm("mma.sync.aligned.m16n8k32.row.col.f32.e4m3.e4m3.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
#else
    __trap();  // the host does not start FP8 products here
#endif
}

/// 16 bytes of weights, which are read once: past the L1 cache. Never of anything that a kernel writes
/// (dependent_launch.cuh).
__device__ __forceinline__ uint4 load_streaming(const void* source) {
    uint4 v;
    asm("ld.global.nc.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
        : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
        : "l"(source));
    return v;
}
/// The same, in its place: the assembler takes non-coherent loads from before wait_for_previous() to after it.
__device__ __forceinline__ uint4 load_before_wait(const void* source) {
    uint4 v;
    asm volatile("ld.global.L1::no_allocate.v4.u32 {%0, %1, %2, %3}, [%4];"
                 : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w)
                 : "l"(source)
                 : "memory");
    return v;
}

}  // namespace engine::cuda
