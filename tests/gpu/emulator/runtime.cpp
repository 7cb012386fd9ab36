// The functions of the CUDA runtime that gpu_check and the engine call, and the product library, for the emulator. All
// work is done at once, on the calling thread; in a capture it is noted.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "engine/kernels/cuda/linear.h"

namespace emulator {
extern std::vector<std::function<void()>>* captured;
}

namespace {

using Graph = std::vector<std::function<void()>>;

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMemoryBytes = std::size_t{4} << 30;

struct Mapping {
    void* begin = nullptr;
    std::size_t bytes = 0;
};
std::map<void*, Mapping> mappings;

/// Products in the fixed order stand in for the library's.
class FixedOrderLibrary final : public engine::cuda::MatmulLibrary {
public:
    bool has_fp8() const override { return true; }
    cudaError_t prepare(const engine::cuda::DeviceMatrix&, std::int32_t, engine::cuda::LinearOutput) override {
        return cudaSuccess;
    }
    cudaError_t prepare(const engine::cuda::DeviceMatrixFp8&, std::int32_t, engine::cuda::LinearOutput) override {
        return cudaSuccess;
    }
    cudaError_t linear(const engine::cuda::DeviceMatrix& w, const engine::cuda::Bf16* x, std::int32_t rows,
                       engine::cuda::LinearOutput output, void* y, cudaStream_t stream) override {
        return engine::cuda::linear_fixed_order(w, x, rows, output, y, stream);
    }
    cudaError_t linear(const engine::cuda::DeviceMatrixFp8& w, const std::uint8_t* x, const float* x_scales,
                       std::int32_t rows, engine::cuda::LinearOutput output, void* y, cudaStream_t stream) override {
        // As a library may: no float output for some shapes. Here it is odd numbers of rows.
        if (output == engine::cuda::LinearOutput::f32 && rows % 2 != 0) { return cudaErrorNotSupported; }
        return engine::cuda::linear_fixed_order(w, x, x_scales, rows, output, y, stream);
    }
};

cudaError_t do_or_note(std::function<void()> work) {
    if (emulator::captured != nullptr) {
        emulator::captured->push_back(std::move(work));
    } else {
        work();
    }
    return cudaSuccess;
}

}  // namespace

namespace engine::cuda {

std::unique_ptr<MatmulLibrary> MatmulLibrary::make(std::size_t, cudaError_t* error) {
    *error = cudaSuccess;
    return std::make_unique<FixedOrderLibrary>();
}

}  // namespace engine::cuda

extern "C" {

/// Memory that ends where a page ends that nobody may touch.
cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
    const std::size_t rounded = (bytes + 15) / 16 * 16;
    const std::size_t pages = (rounded + kPage - 1) / kPage * kPage;
    void* begin = mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED) { return cudaErrorMemoryAllocation; }
    char* end = static_cast<char*>(begin) + pages;
    if (mprotect(end, kPage, PROT_NONE) != 0) { return cudaErrorMemoryAllocation; }
    *pointer = end - rounded;
    mappings[*pointer] = {begin, pages + kPage};
    return cudaSuccess;
}

cudaError_t cudaFree(void* pointer) {
    const auto at = mappings.find(pointer);
    if (at == mappings.end()) { return pointer == nullptr ? cudaSuccess : cudaErrorInvalidValue; }
    munmap(at->second.begin, at->second.bytes);
    mappings.erase(at);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
    if (bytes > 0) { std::memcpy(to, from, bytes); }
    return cudaSuccess;
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
    std::memset(to, value, bytes);
    return cudaSuccess;
}
cudaError_t cudaDeviceSynchronize() {
    return cudaSuccess;
}
cudaError_t cudaGetLastError() {
    return cudaSuccess;
}
const char* cudaGetErrorString(cudaError_t error) {
    return error == cudaSuccess ? "no error" : "an error";
}
cudaError_t cudaGetDeviceCount(int* count) {
    *count = 1;
    return cudaSuccess;
}
cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int) {
    *properties = {};
    std::strcpy(properties->name, "emulator (no device)");
    properties->major = 9;
    properties->multiProcessorCount = 132;
    properties->totalGlobalMem = kMemoryBytes;
    return cudaSuccess;
}
cudaError_t cudaRuntimeGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaDriverGetVersion(int* version) {
    *version = 13000;
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* stream) {
    *stream = nullptr;
    return cudaSuccess;
}
cudaError_t cudaStreamDestroy(cudaStream_t) {
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t) {
    return cudaSuccess;
}
cudaError_t cudaStreamBeginCapture(cudaStream_t, cudaStreamCaptureMode) {
    emulator::captured = new Graph;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t* graph) {
    *graph = reinterpret_cast<cudaGraph_t>(emulator::captured);
    emulator::captured = nullptr;
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = reinterpret_cast<cudaGraphExec_t>(new Graph(*reinterpret_cast<Graph*>(graph)));
    return cudaSuccess;
}
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t) {
    for (auto& launch : *reinterpret_cast<Graph*>(executable)) {
        launch();
    }
    return cudaSuccess;
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete reinterpret_cast<Graph*>(executable);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete reinterpret_cast<Graph*>(graph);
    return cudaSuccess;
}

// What only the engine calls.
cudaError_t cudaSetDevice(int) {
    return cudaSuccess;
}
const char* cudaGetErrorName(cudaError_t) {
    return "cudaError";
}
cudaError_t cudaMemGetInfo(std::size_t* free_bytes, std::size_t* total_bytes) {
    *free_bytes = *total_bytes = kMemoryBytes;
    return cudaSuccess;
}
cudaError_t cudaHostAlloc(void** pointer, std::size_t bytes, unsigned) {
    *pointer = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
    std::memset(*pointer, 0xee, bytes);
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
    std::free(pointer);
    return cudaSuccess;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind, cudaStream_t) {
    return do_or_note([=] { std::memcpy(to, from, bytes); });
}
cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t) {
    return do_or_note([=] {
        for (std::size_t row = 0; row < height; ++row) {
            std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(from) + row * from_pitch,
                        width);
        }
    });
}
cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned) {
    *stream = reinterpret_cast<cudaStream_t>(std::uintptr_t{16});
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t, unsigned) {
    return cudaSuccess;
}
cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = reinterpret_cast<cudaEvent_t>(std::uintptr_t{16});
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t) {
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t, cudaStream_t) {
    return cudaSuccess;
}
cudaError_t cudaEventQuery(cudaEvent_t) {
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t) {
    return cudaSuccess;
}

}  // extern "C"
