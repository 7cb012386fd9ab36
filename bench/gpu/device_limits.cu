#include "bench/gpu/device_limits.h"

#include <cstdint>

namespace gpu_bench {
namespace {

constexpr int kThreads = 512;
constexpr int kUnroll = 8;
constexpr unsigned kBlocks = 132 * 8;

__global__ void __launch_bounds__(kThreads) read_kernel(const uint4* source, std::size_t count, unsigned* sums) {
    const std::size_t stride = static_cast<std::size_t>(gridDim.x) * kThreads;
    std::size_t i = static_cast<std::size_t>(blockIdx.x) * kThreads + threadIdx.x;
    unsigned sum = 0;
    for (; i + (kUnroll - 1) * stride < count; i += kUnroll * stride) {
        uint4 v[kUnroll];
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            v[u] = source[i + u * stride];
        }
#pragma unroll
        for (int u = 0; u < kUnroll; ++u) {
            sum += v[u].x ^ v[u].y ^ v[u].z ^ v[u].w;
        }
    }
    for (; i < count; i += stride) {
        const uint4 v = source[i];
        sum += v.x ^ v.y ^ v.z ^ v.w;
    }
    if (sum == 0x9e3779b9u || threadIdx.x == 0) { sums[blockIdx.x] = sum; }  // keeps the reads alive
}

}  // namespace

std::size_t read_blocks() {
    return kBlocks;
}

cudaError_t read_once(const void* source, std::size_t bytes, unsigned* sums, cudaStream_t stream) {
    read_kernel<<<kBlocks, kThreads, 0, stream>>>(static_cast<const uint4*>(source), bytes / 16, sums);
    return cudaGetLastError();
}

}  // namespace gpu_bench
