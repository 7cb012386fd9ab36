#include <cublasLt.h>
#include <nccl.h>

#include <filesystem>

#include "device/cuda/cuda_device.h"
#include "device/cuda/cuda_library.h"
#include "device/cuda/cuda_native.h"

namespace device {
namespace {

/// The least compute capability that the kernels of this build are compiled for; 0 where that is the build machine's.
constexpr std::uint32_t kSmMinimum = SLUICE_CUDA_SM_MINIMUM;

std::string cuda_version(int number) {
    return std::to_string(number / 1000) + "." + std::to_string(number % 1000 / 10);
}

void look_for_libraries(CudaReport& report) {
    const auto blas = blas_library();
    if (blas) {
        const auto version = blas->find<std::size_t (*)()>("cublasLtGetVersion");
        if (version != nullptr) {
            const std::size_t number = version();
            report.has_blas = true;
            report.blas = std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
                          std::to_string(number % 100) + " (" + blas->path() + ")";
        }
    }
    if (!report.has_blas) { report.blas = blas ? "too old: " + blas->path() : blas.error().message; }

    const auto nccl = nccl_library();
    if (nccl) {
        const auto get_version = nccl->find<decltype(&ncclGetVersion)>("ncclGetVersion");
        int number = 0;
        if (get_version != nullptr && get_version(&number) == ncclSuccess) {
            report.has_nccl = true;
            report.nccl = std::to_string(number / 10000) + "." + std::to_string(number / 100 % 100) + "." +
                          std::to_string(number % 100) + " (" + nccl->path() + ")";
        }
    }
    if (!report.has_nccl) { report.nccl = nccl ? "too old: " + nccl->path() : nccl.error().message; }
}

void look_for_devices(CudaReport& report, int count, bool ask_memory) {
    for (int i = 0; i < count; ++i) {
        cudaDeviceProp properties{};
        if (cudaGetDeviceProperties(&properties, i) != cudaSuccess) { continue; }
        CudaDeviceInfo info;
        info.index = static_cast<std::uint32_t>(i);
        info.name = properties.name;
        info.sm = static_cast<std::uint32_t>(properties.major * 10 + properties.minor);
        info.processors = static_cast<std::uint32_t>(properties.multiProcessorCount);
        info.memory_bytes = properties.totalGlobalMem;
        std::size_t free = 0;
        std::size_t total = 0;
        if (ask_memory && cudaSetDevice(i) == cudaSuccess && cudaMemGetInfo(&free, &total) == cudaSuccess) {
            info.memory_free = free;
        }
        report.devices.push_back(std::move(info));
    }
    static_cast<void>(cudaGetLastError());
}

/// The first thing that keeps a model from running on a GPU, and what changes it.
void judge(CudaReport& report, cudaError_t counted) {
    if (!report.driver_files && report.driver_version.empty()) {
        report.problem = "no NVIDIA driver on this machine";
        report.remedy =
            "install the driver (Debian: apt install nvidia-driver, from non-free; cloud images: the GPU variant), "
            "580 or newer for CUDA 13; containers: start with --gpus all; pods: ask for nvidia.com/gpu";
    } else if (report.driver_version.empty()) {
        report.problem = "the kernel has an NVIDIA driver, but libcuda.so.1 was not found";
        report.remedy = "apt install libcuda1, or in a container: start with --gpus all";
    } else if (counted == cudaErrorInsufficientDriver) {
        report.problem =
            "the driver runs CUDA " + report.driver_version + ", this binary needs " + report.runtime_version;
        report.remedy = "install NVIDIA driver 580 or newer";
    } else if (counted != cudaSuccess || report.devices.empty()) {
        report.problem = counted == cudaSuccess ? "the driver shows no GPU" : cudaGetErrorString(counted);
        report.remedy = "look at nvidia-smi, and at CUDA_VISIBLE_DEVICES";
    } else if (report.devices.front().sm < kSmMinimum) {
        report.problem = "cuda:0 is " + report.devices.front().name + " with compute capability " +
                         std::to_string(report.devices.front().sm) + "; this binary has code for " +
                         std::to_string(kSmMinimum) + " and newer";
        report.remedy = "cmake --preset cuda -DSLUICE_CUDA_ARCHITECTURES=native, and build again";
    }
}

}  // namespace

CudaReport cuda_report(bool ask_memory) {
    CudaReport report;
    report.built = true;
    std::error_code error;
    report.driver_files = std::filesystem::exists("/dev/nvidiactl", error);
    report.runtime_version = cuda_version(CUDART_VERSION);
    int driver = 0;
    if (cudaDriverGetVersion(&driver) == cudaSuccess && driver > 0) { report.driver_version = cuda_version(driver); }
    int count = 0;
    const cudaError_t counted = cudaGetDeviceCount(&count);
    if (counted == cudaSuccess) { look_for_devices(report, count, ask_memory); }
    look_for_libraries(report);
    judge(report, counted);
    static_cast<void>(cudaGetLastError());
    return report;
}

}  // namespace device
