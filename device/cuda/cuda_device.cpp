#include "device/cuda/cuda_device.h"

#include <array>
#include <chrono>
#include <mutex>
#include <utility>

#include "base/check.h"
#include "device/cuda/cuda_native.h"

namespace device {
namespace {

using base::ErrorCode;

/// How long a wait asks again and again before the thread sleeps; a wake-up costs about as much.
constexpr std::chrono::microseconds kSpin{50};

void free_device(std::byte* data, std::size_t /*bytes*/) {
    static_cast<void>(cudaFree(data));
}

void free_pinned(std::byte* data, std::size_t /*bytes*/) {
    static_cast<void>(cudaFreeHost(data));
}

class CudaEvent final : public Event {
public:
    explicit CudaEvent(cudaEvent_t event) : event_(event) {}
    ~CudaEvent() override { static_cast<void>(cudaEventDestroy(event_)); }
    CudaEvent(const CudaEvent&) = delete;
    CudaEvent& operator=(const CudaEvent&) = delete;

    Result<bool> done() override {
        const cudaError_t code = cudaEventQuery(event_);
        if (code == cudaErrorNotReady) {
            static_cast<void>(cudaGetLastError());  // the next launch on this thread must not hear of it
            return false;
        }
        if (code != cudaSuccess) {
            return tl::unexpected(cuda_error(code, "asking whether work on the GPU has ended"));
        }
        return true;
    }

    Result<void> wait() override {
        const auto end = std::chrono::steady_clock::now() + kSpin;
        do {
            auto reached = done();
            if (!reached) { return base::pass_on(reached); }
            if (*reached) { return {}; }
        } while (std::chrono::steady_clock::now() < end);
        return cuda_result(cudaEventSynchronize(event_), "waiting for work on the GPU");
    }

    cudaEvent_t native() const { return event_; }

private:
    cudaEvent_t event_;
};

class CudaStream final : public Stream {
public:
    CudaStream(std::uint32_t index, cudaStream_t stream) : index_(index), stream_(stream) {}
    ~CudaStream() override { static_cast<void>(cudaStreamDestroy(stream_)); }
    CudaStream(const CudaStream&) = delete;
    CudaStream& operator=(const CudaStream&) = delete;

    Result<void> synchronize() override {
        if (auto used = use_cuda_device(index_); !used) { return used; }
        return cuda_result(cudaStreamSynchronize(stream_), "waiting for a stream of the GPU");
    }

    cudaStream_t native() const { return stream_; }

private:
    std::uint32_t index_;
    cudaStream_t stream_;
};

CudaEvent& cuda_event(Event& event) {
    auto* cuda = dynamic_cast<CudaEvent*>(&event);
    CHECK(cuda != nullptr, "an event of another device");
    return *cuda;
}

class CudaDevice final : public Device {
public:
    CudaDevice(std::uint32_t index, std::uint64_t memory_bytes)
        : index_(index), name_("cuda:" + std::to_string(index)), memory_bytes_(memory_bytes) {}

    std::string_view name() const override { return name_; }
    bool is_host_memory() const override { return false; }
    std::uint64_t memory_bytes() const override { return memory_bytes_; }

    Result<Buffer> allocate(std::size_t bytes) override {
        CHECK(bytes > 0);
        if (auto used = use_cuda_device(index_); !used) { return base::pass_on(used); }
        void* data = nullptr;
        const cudaError_t code = cudaMalloc(&data, bytes);
        if (code != cudaSuccess) {
            static_cast<void>(cudaGetLastError());  // running out of memory is no lasting failure
            std::size_t free = 0;
            std::size_t total = 0;
            static_cast<void>(cudaMemGetInfo(&free, &total));
            return tl::unexpected(cuda_error(code, name_ + ": " + std::to_string(bytes) +
                                                       " bytes of device memory; free are " + std::to_string(free) +
                                                       " of " + std::to_string(total)));
        }
        return Buffer(static_cast<std::byte*>(data), bytes, free_device);
    }

    Result<Buffer> allocate_host(std::size_t bytes) override {
        CHECK(bytes > 0);
        if (auto used = use_cuda_device(index_); !used) { return base::pass_on(used); }
        void* data = nullptr;
        const cudaError_t code = cudaHostAlloc(&data, bytes, cudaHostAllocPortable);
        if (code != cudaSuccess) {
            static_cast<void>(cudaGetLastError());
            return tl::unexpected(cuda_error(code, std::to_string(bytes) + " bytes of pinned host memory"));
        }
        return Buffer(static_cast<std::byte*>(data), bytes, free_pinned);
    }

    Result<std::unique_ptr<Stream>> make_stream() override {
        if (auto used = use_cuda_device(index_); !used) { return base::pass_on(used); }
        cudaStream_t stream = nullptr;
        const cudaError_t code = cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking);
        if (code != cudaSuccess) { return tl::unexpected(cuda_error(code, name_ + ": a stream")); }
        return std::make_unique<CudaStream>(index_, stream);
    }

    Result<void> copy_async(Stream& stream, std::byte* target, const std::byte* source, std::size_t bytes) override {
        if (bytes == 0) { return {}; }
        if (auto used = use_cuda_device(index_); !used) { return used; }
        return cuda_result(cudaMemcpyAsync(target, source, bytes, cudaMemcpyDefault, native_stream(stream)),
                           "starting a copy");
    }

    Result<void> copy_rows_async(Stream& stream, std::byte* target, std::size_t target_pitch, const std::byte* source,
                                 std::size_t source_pitch, std::size_t row_bytes, std::size_t rows) override {
        if (row_bytes == 0 || rows == 0) { return {}; }
        if (target_pitch == row_bytes && source_pitch == row_bytes) {
            return copy_async(stream, target, source, row_bytes * rows);
        }
        if (auto used = use_cuda_device(index_); !used) { return used; }
        return cuda_result(cudaMemcpy2DAsync(target, target_pitch, source, source_pitch, row_bytes, rows,
                                             cudaMemcpyDefault, native_stream(stream)),
                           "starting a copy of rows");
    }

    Result<std::unique_ptr<Event>> record(Stream& stream) override {
        if (auto used = use_cuda_device(index_); !used) { return base::pass_on(used); }
        cudaEvent_t event = nullptr;
        const cudaError_t made = cudaEventCreateWithFlags(&event, cudaEventDisableTiming | cudaEventBlockingSync);
        if (made != cudaSuccess) { return tl::unexpected(cuda_error(made, name_ + ": an event")); }
        auto owned = std::make_unique<CudaEvent>(event);
        const cudaError_t code = cudaEventRecord(event, native_stream(stream));
        if (code != cudaSuccess) { return tl::unexpected(cuda_error(code, name_ + ": recording an event")); }
        return owned;
    }

    Result<void> wait(Stream& stream, Event& event) override {
        if (auto used = use_cuda_device(index_); !used) { return used; }
        return cuda_result(cudaStreamWaitEvent(native_stream(stream), cuda_event(event).native(), 0),
                           "making a stream wait for an event");
    }

private:
    std::uint32_t index_;
    std::string name_;
    std::uint64_t memory_bytes_;
};

}  // namespace

cudaStream_t native_stream(Stream& stream) {
    auto* cuda = dynamic_cast<CudaStream*>(&stream);
    CHECK(cuda != nullptr, "a stream of another device");
    return cuda->native();
}

Result<void> use_cuda_device(std::uint32_t index) {
    return cuda_result(cudaSetDevice(static_cast<int>(index)), "choosing the GPU");
}

bool is_device_lost(cudaError_t code) {
    switch (code) {
        // Arguments and states that the runtime refuses: nothing has been started, what comes next is not concerned.
        case cudaErrorInvalidValue:
        case cudaErrorInvalidConfiguration:
        case cudaErrorInvalidPitchValue:
        case cudaErrorInvalidMemcpyDirection:
        case cudaErrorInvalidDeviceFunction:
        case cudaErrorInvalidResourceHandle:
        case cudaErrorInvalidKernelImage:
        case cudaErrorSymbolNotFound:
        case cudaErrorNotSupported:
        case cudaErrorNotReady:
        case cudaErrorNotPermitted:
        case cudaErrorLaunchOutOfResources:
        case cudaErrorMemoryAllocation:
        case cudaErrorGraphExecUpdateFailure:
        case cudaErrorStreamCaptureUnsupported:
        case cudaErrorStreamCaptureInvalidated:
        case cudaErrorStreamCaptureMerge:
        case cudaErrorStreamCaptureUnmatched:
        case cudaErrorStreamCaptureUnjoined:
        case cudaErrorStreamCaptureIsolation:
        case cudaErrorStreamCaptureImplicit:
        case cudaErrorStreamCaptureWrongThread:
        case cudaErrorCapturedEvent:
            return false;
        default:  // a kernel, the memory or the driver has failed: every later call gives the same error
            return code != cudaSuccess;
    }
}

base::Error cuda_error(cudaError_t code, const std::string& what) {
    const std::string said = what + ": " + cudaGetErrorString(code) + " (" + cudaGetErrorName(code) + ")";
    switch (code) {
        case cudaErrorMemoryAllocation:
            return {ErrorCode::resource_exhausted, said +
                                                       "; lower engine.kv_pool_bytes or worker.batch_tokens_max, or "
                                                       "end other users of this GPU (nvidia-smi lists them)"};
        case cudaErrorNoDevice:
        case cudaErrorInsufficientDriver:
        case cudaErrorInvalidDevice:
        case cudaErrorStubLibrary:
        case cudaErrorSystemDriverMismatch:
        case cudaErrorDevicesUnavailable:
            return {ErrorCode::unavailable, said + "; `sluice doctor` says what this machine lacks"};
        case cudaErrorNoKernelImageForDevice:
        case cudaErrorUnsupportedPtxVersion:
            return {ErrorCode::unavailable,
                    said + "; this binary has no code for this GPU: build with -DSLUICE_CUDA_ARCHITECTURES=native"};
        default:
            break;
    }
    if (is_device_lost(code)) {
        return {ErrorCode::internal, said + "; the GPU's work of this process is lost, it must be started again"};
    }
    return {ErrorCode::aborted, said};
}

Result<Device*> cuda_device(std::uint32_t index) {
    constexpr std::uint32_t kDevicesMax = 64;
    static std::mutex mutex;
    static std::array<std::unique_ptr<CudaDevice>, kDevicesMax> devices;  // guarded by mutex
    int count = 0;
    const cudaError_t code = cudaGetDeviceCount(&count);
    if (code != cudaSuccess) {
        static_cast<void>(cudaGetLastError());
        const CudaReport report = cuda_report();  // knows better what is missing than the code says
        if (report.problem.empty()) { return tl::unexpected(cuda_error(code, "cuda:" + std::to_string(index))); }
        return base::fail(ErrorCode::unavailable, "cuda:" + std::to_string(index) + ": " + report.problem +
                                                      "; to change that: " + report.remedy);
    }
    if (index >= kDevicesMax || static_cast<int>(index) >= count) {
        return base::fail(ErrorCode::unavailable, "cuda:" + std::to_string(index) + ": this machine has " +
                                                      std::to_string(count) + " GPUs, numbered from 0");
    }
    const std::lock_guard lock(mutex);
    if (devices[index] == nullptr) {
        if (auto used = use_cuda_device(index); !used) { return base::pass_on(used); }
        std::size_t free = 0;
        std::size_t total = 0;
        if (auto asked = cuda_result(cudaMemGetInfo(&free, &total), "asking for the GPU's memory"); !asked) {
            return base::pass_on(asked);
        }
        devices[index] = std::make_unique<CudaDevice>(index, total);
    }
    return devices[index].get();
}

}  // namespace device
