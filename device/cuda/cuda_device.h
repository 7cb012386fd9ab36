#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "device/device.h"

// What the rest of Sluice sees of CUDA. Built with and without a toolkit; without one, everything here says so.

namespace device {

/// One GPU as the driver describes it.
struct CudaDeviceInfo {
    std::uint32_t index = 0;
    std::string name;                // "NVIDIA H200"
    std::uint32_t sm = 0;            // compute capability, 10 * major + minor: 90 for Hopper
    std::uint32_t processors = 0;    // streaming multiprocessors
    std::uint64_t memory_bytes = 0;  // all of it
    std::uint64_t memory_free = 0;   // now; 0 where it was not or could not be asked
};

/// What this build and this machine have of CUDA; nothing of it is an error by itself.
struct CudaReport {
    bool built = false;           // this binary has the CUDA backend
    bool driver_files = false;    // the kernel's driver is loaded (/dev/nvidiactl)
    std::string runtime_version;  // "13.0", of the runtime in this binary
    std::string driver_version;   // newest CUDA version that the driver runs, "13.0"; empty: no driver
    std::string blas;             // version of the libcublasLt found, or why there is none
    bool has_blas = false;
    std::string nccl;  // version of the libnccl found, or why there is none
    bool has_nccl = false;
    std::vector<CudaDeviceInfo> devices;
    std::string problem;  // why no model can run on a GPU here; empty: one can
    std::string remedy;   // the command or package that changes it; empty where there is no problem
};
/// `ask_memory`: also memory_free of every GPU. That begins to use all of them: some hundred megabytes of each are this
/// process's until it ends.
CudaReport cuda_report(bool ask_memory = false);

/// GPU `index`; one object per GPU, for the life of the process. Its memory is plain cudaMalloc memory, host memory is
/// pinned, streams run beside each other and beside the default stream.
/// Error: unimplemented (built without CUDA), unavailable (no driver, no such device, no library); the message says
/// what to do.
Result<Device*> cuda_device(std::uint32_t index);

/// What `engine.device` of a configuration asks for.
struct DeviceChoice {
    bool is_cuda = false;
    std::uint32_t index = 0;
    bool operator==(const DeviceChoice&) const = default;
};

/// "auto", "host" or "cuda:N". `auto`: GPU 0 where one is usable (cuda_report), else the host.
/// Error: invalid_argument for anything else.
Result<DeviceChoice> parse_device(std::string_view text);

}  // namespace device
