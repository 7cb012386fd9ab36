#pragma once

#include <cstdint>
#include <memory>

#include "engine/kernels/backend.h"

namespace engine {

/// The CUDA backend on GPU options.device_index. Residual stream and logits in float, all else in bf16; products by
/// cuBLASLt where it was found and options.deterministic does not forbid it, small batches and everything else by own
/// kernels. In a build without CUDA there is only this function, which says so.
/// Error: unimplemented (built without), unavailable (no such GPU, no driver), resource_exhausted.
base::Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendOptions& options);

}  // namespace engine
