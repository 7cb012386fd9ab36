// In place of the rest of this folder where Sluice is built without CUDA.
#include "device/cuda/cuda_device.h"
#include "engine/kernels/cuda/cuda_backend.h"
#include "engine/kernels/cuda/cuda_options.h"

namespace engine {

base::Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendOptions& options) {
    if (auto checked = check_cuda_options(options); !checked) { return base::pass_on(checked); }
    return base::pass_on(device::cuda_device(options.device_index), "kernels: cuda");
}

}  // namespace engine
