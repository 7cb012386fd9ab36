#pragma once

// For code that calls the CUDA runtime itself: engine/kernels/cuda and this folder. Nothing else includes it.

#include <cuda_runtime_api.h>

#include <string>

#include "base/result.h"
#include "device/device.h"

namespace device {

/// The runtime's handle of a stream that a CUDA device made (CHECKed); valid as long as the stream.
cudaStream_t native_stream(Stream& stream);

/// Makes GPU `index` the one that this thread's next calls of the runtime work on. Cheap when it is already.
Result<void> use_cuda_device(std::uint32_t index);

/// Whether every later call of this process on the GPU fails too (CUDA calls such errors sticky): a kernel has failed,
/// the memory has, or the driver. False for what the runtime refuses without having started anything. An error that is
/// not known here counts as lost.
bool is_device_lost(cudaError_t code);

/// A failed call as an Error with what to do. `what`: what was tried, with numbers.
/// Codes: resource_exhausted (memory), unavailable (no driver or device, or a binary without code for it), internal
/// (is_device_lost(): the process must be started again), aborted (everything else: only this call has failed).
base::Error cuda_error(cudaError_t code, const std::string& what);

/// {} for cudaSuccess, else cuda_error().
inline Result<void> cuda_result(cudaError_t code, const char* what) {
    if (code == cudaSuccess) { return {}; }
    return tl::unexpected(cuda_error(code, what));
}

}  // namespace device
