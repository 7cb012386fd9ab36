// Also in builds without CUDA: what could not work anywhere is told first.
#include "engine/kernels/cuda/cuda_options.h"

#include <string>
#include <utility>

namespace engine {

base::Result<void> check_cuda_options(const BackendOptions& options) {
    using base::ErrorCode;
    if (options.prefill_attention == "wgmma" && options.deterministic) {
        return base::fail(ErrorCode::invalid_argument,
                          "prefill_attention is 'wgmma', whose bits are not those of decode: set it to auto, or "
                          "deterministic to false");
    }
    for (const auto& [name, value] :
         {std::pair{"weight_format", &options.weight_format}, std::pair{"kv_dtype", &options.kv_dtype}}) {
        if (*value == "f32") {
            return base::fail(
                ErrorCode::invalid_argument,
                std::string(name) + " is 'f32', CUDA computes in bf16: set it to auto, or device to 'host'");
        }
    }
    return {};
}

}  // namespace engine
