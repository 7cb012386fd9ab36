// Which launches are dependent, and whether any may be.
#include "engine/kernels/cuda/dependent_launch.cuh"

namespace engine::cuda {
namespace {

thread_local bool is_on = false;
thread_local bool follows_kernel = false;  // of this folder, launched by this thread since is_on

/// Only asked how it was compiled, as all kernels of this folder are.
__global__ void empty_kernel() {
    wait_for_previous();
    let_next_start();
}

}  // namespace

DependentLaunches::DependentLaunches(bool on) : was_on_(is_on) {
    is_on = on;
    follows_kernel = false;
}

DependentLaunches::~DependentLaunches() {
    is_on = was_on_;
    follows_kernel = false;
}

void interrupt_dependent_launches() {
    follows_kernel = false;
}

bool take_dependent_launch() {
    const bool dependent = is_on && follows_kernel;
    follows_kernel = is_on;
    return dependent;
}

cudaError_t can_launch_dependently(bool* can) {
    *can = false;
    int device = 0;
    int major = 0;
    if (const cudaError_t error = cudaGetDevice(&device); error != cudaSuccess) { return error; }
    const cudaError_t asked = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, device);
    if (asked != cudaSuccess) { return asked; }
    cudaFuncAttributes attributes{};
    const cudaError_t error = cudaFuncGetAttributes(&attributes, empty_kernel);
    if (error != cudaSuccess) { return error; }
    *can = major >= 9 && attributes.ptxVersion >= 90 && attributes.binaryVersion >= 90;
    return cudaSuccess;
}

}  // namespace engine::cuda
