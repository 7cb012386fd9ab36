// gpu_check: every CUDA kernel against a reference in double precision on the host, on fresh random inputs.
//   gpu_check [--seed N] [--only rows|kv|attention|linear|fp8|sampling|step] [--dependent 1]
// --dependent 1: kernels may begin before the one before them has ended (compute capability 9.0; else exit 77).
// Exit: 0 all passed, 1 a check failed, 2 the CUDA runtime failed, 77 there is no device (nothing was checked).
// Builds alone: see scripts/gpu-check. Without a device: scripts/gpu-emulate.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>

#include "tests/gpu/harness.h"

int main(int argc, char** argv) {
    std::uint64_t seed = std::random_device{}();
    std::string only;
    bool dependent = false;
    for (int i = 1; i + 1 < argc; i += 2) {
        if (std::strcmp(argv[i], "--seed") == 0) {
            seed = std::strtoull(argv[i + 1], nullptr, 10);
        } else if (std::strcmp(argv[i], "--only") == 0) {
            only = argv[i + 1];
        } else if (std::strcmp(argv[i], "--dependent") == 0) {
            dependent = std::atoi(argv[i + 1]) != 0;
        } else {
            std::printf("unknown argument %s\n", argv[i]);
            return 2;
        }
    }
    int devices = 0;
    const cudaError_t error = cudaGetDeviceCount(&devices);
    if (error != cudaSuccess || devices == 0) {
        std::printf("no CUDA device: nothing was checked (%s)\n", cudaGetErrorString(error));
        return 77;
    }
    cudaDeviceProp properties;
    GPU_REQUIRE(cudaGetDeviceProperties(&properties, 0));
    int runtime = 0;
    int driver = 0;
    GPU_REQUIRE(cudaRuntimeGetVersion(&runtime));
    GPU_REQUIRE(cudaDriverGetVersion(&driver));
    std::printf("%s, compute capability %d.%d, runtime %d, driver %d, seed %llu\n", properties.name, properties.major,
                properties.minor, runtime, driver, static_cast<unsigned long long>(seed));

    bool can_depend = false;
    GPU_REQUIRE(engine::cuda::can_launch_dependently(&can_depend));
    if (dependent && !can_depend) {
        std::printf("no dependent launches here: nothing was checked\n");
        return 77;
    }
    const engine::cuda::DependentLaunches launches(dependent);
    gpu_check::Checks checks(seed);
    const auto part = [&](const char* name, void (*run)(gpu_check::Checks&)) {
        if (only.empty() || only == name) {
            run(checks);
            GPU_REQUIRE(cudaDeviceSynchronize());
        }
    };
    part("rows", gpu_check::check_rows);
    part("kv", gpu_check::check_kv);
    part("attention", gpu_check::check_attention);
    part("linear", gpu_check::check_linear);
    part("fp8", gpu_check::check_fp8);
    part("sampling", gpu_check::check_sampling);
    part("step", gpu_check::check_step);
    std::printf("%d passed, %d failed\n", checks.passed, checks.failed);
    return checks.failed == 0 ? 0 : 1;
}
