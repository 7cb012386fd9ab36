#pragma once

#include "base/result.h"
#include "engine/kernels/backend_options.h"

namespace engine {

/// What the CUDA backend has, whatever the GPU. Error: invalid_argument, with what to set.
base::Result<void> check_cuda_options(const BackendOptions& options);

}  // namespace engine
