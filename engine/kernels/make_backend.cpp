#include <string>

#include "engine/kernels/backend.h"
#include "engine/kernels/cpu/cpu_backend.h"
#include "engine/kernels/cpu/cpu_features.h"
#include "engine/kernels/cuda/cuda_backend.h"
#include "engine/kernels/reference/reference_backend.h"

namespace engine {

base::Result<std::unique_ptr<Backend>> make_backend(const BackendOptions& options) {
    using base::ErrorCode;
    if (options.threads == 0) { return base::fail(ErrorCode::invalid_argument, "kernels: threads must be at least 1"); }
    if (auto checked = check_names(options); !checked) { return base::pass_on(checked); }
    const ThreadPool::Options threads{.threads = options.threads, .cpus = options.cpus};
    std::string_view family = options.family;
    if (family == "auto") {
        family = runs_amx() ? "amx" : runs_avx512() ? "avx512" : runs_avx2() ? "avx2" : "reference";
    }
    if (family == "cuda") { return make_cuda_backend(options); }
    if (family != "reference" && family != "amx" && family != "avx512" && family != "avx2") {
        return base::fail(ErrorCode::invalid_argument, "kernels: '" + std::string(family) +
                                                           "' is not one of auto, amx, avx512, avx2, reference, cuda");
    }
    if (auto checked = check_host_options(options, family); !checked) { return base::pass_on(checked); }
    if (family == "reference") { return std::make_unique<ReferenceBackend>(options); }
    if (family == "amx") {
        if (!runs_amx()) {
            return base::fail(ErrorCode::unimplemented,
                              "kernels: amx needs AMX TILE and BF16 beside AVX-512 BF16, and a system that lends tiles "
                              "(Linux 5.16); this machine lacks some of it");
        }
        return std::make_unique<CpuBackend>("amx", *amx_kernels(), threads, options);
    }
    if (family == "avx512") {
        if (!runs_avx512()) {
            return base::fail(
                ErrorCode::unimplemented,
                "kernels: avx512 needs AVX-512 F, BW, DQ, VL and BF16; this machine lacks " + missing_for_avx512());
        }
        return std::make_unique<CpuBackend>("avx512", *avx512_kernels(), threads, options);
    }
    if (!runs_avx2()) {
        return base::fail(ErrorCode::unimplemented, "kernels: avx2 needs AVX2 and FMA, which this machine lacks");
    }
    return std::make_unique<CpuBackend>("avx2", *avx2_kernels(), threads, options);
}

}  // namespace engine
