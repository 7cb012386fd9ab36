// The functions of the CUDA runtime that gpu_check and the engine call, and the product library, for the emulator:
// memory and questions here, streams in streams.cpp. Work runs on the thread that waits for it.
#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <map>
#include <memory>
#include <mutex>

#include "engine/kernels/cuda/linear.h"
#include "streams.h"

namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kMemoryBytes = std::size_t{4} << 30;

struct Mapping {
    void* begin = nullptr;
    std::size_t bytes = 0;
};
std::map<void*, Mapping> mappings;    // of the device's memory
std::map<void*, std::size_t> pinned;  // bytes
std::mutex mutex;                     // guards both

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

/// Whether `pointer` lies in [begin, begin + bytes) of one of `pieces`.
template <class Pieces, class Bytes>
bool lies_in(const void* pointer, const Pieces& pieces, const Bytes& bytes_of) {
    auto at = pieces.upper_bound(const_cast<void*>(pointer));
    if (at == pieces.begin()) { return false; }
    --at;
    return static_cast<const char*>(pointer) < static_cast<const char*>(at->first) + bytes_of(at->second);
}

}  // namespace

namespace emulator {

bool is_known_memory(const void* pointer) {
    const std::lock_guard lock(mutex);
    return lies_in(pointer, mappings, [](const Mapping& mapping) { return mapping.bytes; }) ||
           lies_in(pointer, pinned, [](std::size_t bytes) { return bytes; });
}

}  // namespace emulator

namespace engine::cuda {

std::unique_ptr<MatmulLibrary> MatmulLibrary::make(std::size_t, cudaError_t* error) {
    *error = cudaSuccess;
    return std::make_unique<FixedOrderLibrary>();
}

}  // namespace engine::cuda

extern "C" {

/// Memory that ends where a page ends that nobody may touch.
cudaError_t cudaMalloc(void** pointer, std::size_t bytes) {
    if (const cudaError_t refused = emulator::refuse_in_capture(); refused != cudaSuccess) { return refused; }
    const std::size_t rounded = (bytes + 15) / 16 * 16;
    const std::size_t pages = (rounded + kPage - 1) / kPage * kPage;
    void* begin = mmap(nullptr, pages + kPage, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (begin == MAP_FAILED) { return emulator::keep_error(cudaErrorMemoryAllocation); }
    char* end = static_cast<char*>(begin) + pages;
    if (mprotect(end, kPage, PROT_NONE) != 0) { return cudaErrorMemoryAllocation; }
    *pointer = end - rounded;
    const std::lock_guard lock(mutex);
    mappings[*pointer] = {begin, pages + kPage};
    return cudaSuccess;
}

/// Waits for the device, as it does for memory of cudaMalloc.
cudaError_t cudaFree(void* pointer) {
    if (const cudaError_t refused = emulator::refuse_in_capture(); refused != cudaSuccess) { return refused; }
    emulator::finish_all();
    const std::lock_guard lock(mutex);
    const auto at = mappings.find(pointer);
    if (at == mappings.end()) { return pointer == nullptr ? cudaSuccess : cudaErrorInvalidValue; }
    munmap(at->second.begin, at->second.bytes);
    mappings.erase(at);
    return cudaSuccess;
}

cudaError_t cudaMemcpy(void* to, const void* from, std::size_t bytes, cudaMemcpyKind) {
    return emulator::put(nullptr, [=] {
        if (bytes > 0) { std::memcpy(to, from, bytes); }
    });
}
cudaError_t cudaMemset(void* to, int value, std::size_t bytes) {
    return emulator::put(nullptr, [=] { std::memset(to, value, bytes); });
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
cudaError_t cudaGetDevice(int* device) {
    *device = 0;
    return cudaSuccess;
}
/// Only asked for cudaDevAttrComputeCapabilityMajor.
cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr, int) {
    *value = 9;
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
    if (const cudaError_t refused = emulator::refuse_in_capture(); refused != cudaSuccess) { return refused; }
    *pointer = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
    std::memset(*pointer, 0xee, bytes);
    const std::lock_guard lock(mutex);
    pinned[*pointer] = bytes;
    return cudaSuccess;
}
cudaError_t cudaFreeHost(void* pointer) {
    emulator::finish_all();
    const std::lock_guard lock(mutex);
    pinned.erase(pointer);
    std::free(pointer);
    return cudaSuccess;
}

}  // extern "C"
