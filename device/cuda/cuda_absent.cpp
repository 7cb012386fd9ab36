// In place of the rest of this folder where Sluice is built without CUDA.
#include <filesystem>

#include "device/cuda/cuda_device.h"

namespace device {
namespace {

constexpr const char* kProblem = "this build has no CUDA backend";
constexpr const char* kRemedy =
    "scripts/bootstrap --cuda && cmake --preset cuda && cmake --build --preset cuda --target sluice; containers: the "
    "image of docker/cuda.Dockerfile";

}  // namespace

CudaReport cuda_report(bool /*ask_memory*/) {
    CudaReport report;
    std::error_code error;
    report.driver_files = std::filesystem::exists("/dev/nvidiactl", error);
    report.problem = kProblem;
    report.remedy = kRemedy;
    return report;
}

Result<Device*> cuda_device(std::uint32_t index) {
    return base::fail(base::ErrorCode::unimplemented,
                      "cuda:" + std::to_string(index) + ": " + kProblem + ". To get one: " + kRemedy);
}

}  // namespace device
