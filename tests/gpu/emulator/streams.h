#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <functional>

/// What the parts of the emulator know of streams.
namespace emulator {

/// Puts work on a stream: noted while that stream is captured; done at once on the default stream; else done as late as
/// the rules allow, when somebody waits for it. So host code that reads too soon, or writes again what a copy has yet
/// to read, computes something else than on the default stream.
cudaError_t put(cudaStream_t stream, std::function<void()> work);

/// Does all that was put on any stream.
void finish_all();

/// cudaErrorStreamCaptureUnsupported where this thread captures a stream, and that capture fails then.
cudaError_t refuse_in_capture();

/// Keeps `error` for cudaGetLastError() of this thread; returns it.
cudaError_t keep_error(cudaError_t error);

/// Whether copies reach this memory directly: it is the device's or pinned. In runtime.cpp.
bool is_known_memory(const void* pointer);

}  // namespace emulator
