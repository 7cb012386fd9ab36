#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>

namespace gpu_bench {

/// Reads `bytes` (a multiple of 16) once, 16 bytes per access, several in flight per thread; one number per block goes
/// to `sums` (room for read_blocks()). What a kernel that only reads can get at most. Asynchronous.
cudaError_t read_once(const void* source, std::size_t bytes, unsigned* sums, cudaStream_t stream);
std::size_t read_blocks();

}  // namespace gpu_bench
