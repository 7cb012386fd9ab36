#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/log.h"
#include "device/cuda/cuda_native.h"
#include "engine/kernels/cuda/cuda_engine_backend.h"
#include "engine/kernels/cuda/dependent_launch.h"
#include "engine/kernels/float_formats.h"

namespace engine {

using base::Result;

Result<std::byte*> GrowingBuffer::at_least(std::size_t bytes, device::Device& device, bool on_host) {
    if (bytes > buffer_.size() || buffer_.size() == 0) {
        // Some more, so that a batch that grows row by row does not allocate row by row; never nothing.
        const std::size_t wanted = std::max<std::size_t>(bytes + bytes / 4, 256);
        buffer_ = {};
        auto larger = on_host ? device.allocate_host(wanted) : device.allocate(wanted);
        if (!larger) { return base::pass_on(larger); }
        buffer_ = std::move(*larger);
    }
    return buffer_.data();
}

void CudaBackend::note(cudaError_t code, const char* what) {
    if (code == cudaSuccess) { return; }
    static_cast<void>(cudaGetLastError());  // it is kept here; a lost device goes on saying so
    note(tl::unexpected(device::cuda_error(code, what)));
}

/// That the device is lost counts more than what failed first.
void CudaBackend::note(const Result<void>& result) {
    if (result) { return; }
    const bool is_lost = result.error().code == base::ErrorCode::internal;
    if (!failed_ || (is_lost && failed_->code != base::ErrorCode::internal)) { failed_ = result.error(); }
}

Result<StepPlan> CudaBackend::begin_step(const StepRows& step) {
    CHECK(buffers_.has_value() && news_.empty());
    failed_.reset();
    if (auto used = device::use_cuda_device(options_.device_index); !used) { return base::pass_on(used); }
    static_cast<void>(cudaGetLastError());  // launches report the last error of this thread: let it be one of this step
    shape_ = buffers_->shape_of(step);
    auto sent = buffers_->send(step, shape_, *stream_owner_);
    if (!sent) { return base::pass_on(sent); }
    step_ = *sent;
    return StepPlan{
        .rows = shape_.rows,
        .rows_wanted = shape_.is_replayable ? shape_.rows : static_cast<std::uint32_t>(step.rows_wanted.size()),
        .is_replayed = shape_.is_replayable};
}

void CudaBackend::run(const std::function<void()>& step) {
    // Recorded or not, the first launch is an ordinary one: it waits for the copies of begin_step().
    const std::function<void()> operators = [&] {
        const cuda::DependentLaunches launches(options_.dependent_launch);
        step();
    };
    if (!shape_.is_replayable) {
        operators();
        return;
    }
    RecordedStep& recorded = recorded_[{shape_.rows, shape_.context_tokens_max}];
    if (recorded.executable == nullptr && recorded.has_run && !recorded.is_refused) { record(recorded, operators); }
    if (recorded.executable != nullptr) {
        const cudaError_t code = cudaGraphLaunch(recorded.executable, stream_);
        if (code == cudaSuccess) { return; }
        if (device::is_device_lost(code)) {
            note(code, "launching a recorded step");
            return;
        }
        // Nothing has run: from now on kernel by kernel, as where recording has failed.
        static_cast<void>(cudaGetLastError());
        spdlog::warn("CUDA: a recorded step of {} rows cannot be launched: {}", shape_.rows, cudaGetErrorString(code));
        static_cast<void>(cudaGraphExecDestroy(std::exchange(recorded.executable, nullptr)));
        recorded.is_refused = true;
    }
    operators();
    recorded.has_run = !has_failed();
}

/// Leaves recorded.executable null where it cannot be done: then steps run kernel by kernel.
void CudaBackend::record(RecordedStep& recorded, const std::function<void()>& operators) {
    recorded.is_refused = true;  // until it has worked
    if (const cudaError_t code = cudaStreamBeginCapture(stream_, cudaStreamCaptureModeThreadLocal);
        code != cudaSuccess) {
        spdlog::warn("CUDA: a step of {} rows cannot be recorded: {}", shape_.rows, cudaGetErrorString(code));
        return;
    }
    operators();
    cudaGraph_t graph = nullptr;
    cudaError_t code = cudaStreamEndCapture(stream_, &graph);
    if (code == cudaSuccess && !has_failed()) { code = cudaGraphInstantiate(&recorded.executable, graph, 0); }
    if (graph != nullptr) { static_cast<void>(cudaGraphDestroy(graph)); }
    if (code != cudaSuccess || has_failed()) {
        spdlog::warn("CUDA: a step of {} rows cannot be recorded: {}", shape_.rows,
                     has_failed() ? failed_->message : cudaGetErrorString(code));
        static_cast<void>(cudaGetLastError());
        recorded.executable = nullptr;
        failed_.reset();  // nothing has run
        return;
    }
    recorded.is_refused = false;
}

void CudaBackend::when_done(std::function<void()> news) {
    if (has_failed()) { return; }
    auto event = device_->record(*stream_owner_);
    cuda::interrupt_dependent_launches();
    if (!event) {
        failed_ = event.error();
        return;
    }
    news_.push_back({std::move(*event), std::move(news)});
    // Starting the kernels of later layers takes time: what has run meanwhile is told at once.
    while (!news_.empty()) {
        const auto done = news_.front().event->done();
        if (!done) { note(base::pass_on(done)); }
        if (!done || !*done) { return; }
        news_.front().tell();
        news_.pop_front();
    }
}

Result<void> CudaBackend::tell_news() {
    while (!news_.empty()) {
        const auto waited = news_.front().event->wait();
        if (!waited) {
            news_.clear();  // KV of a failed step must not travel
            note(waited);
            return waited;
        }
        news_.front().tell();
        news_.pop_front();
    }
    return {};
}

Result<void> CudaBackend::wait_for_all() {
    static_cast<void>(tell_news());
    note(stream_owner_->synchronize());
    if (failed_) { return tl::unexpected(*failed_); }
    return {};
}

Result<void> CudaBackend::end_step() {
    if (has_failed()) { news_.clear(); }
    return wait_for_all();
}

Result<std::span<const float>> CudaBackend::read_rows(const void* rows, Activation kind, std::uint32_t count,
                                                      std::uint32_t width) {
    const std::size_t elements = std::size_t{count} * width;
    const std::size_t bytes = elements * element_bytes(kind);
    CHECK(bytes <= host_rows_.size(), bytes << " bytes of " << host_rows_.size());
    if (!has_failed()) {
        note(device_->copy_async(*stream_owner_, host_rows_.data(), static_cast<const std::byte*>(rows), bytes));
    }
    if (has_failed()) { news_.clear(); }
    if (auto waited = wait_for_all(); !waited) { return base::pass_on(waited); }
    if (element_bytes(kind) == sizeof(float)) {
        return std::span(reinterpret_cast<const float*>(host_rows_.data()), elements);
    }
    host_floats_.resize(elements);
    for (std::size_t i = 0; i < elements; ++i) {
        std::uint16_t bits = 0;
        std::memcpy(&bits, host_rows_.data() + 2 * i, 2);
        host_floats_[i] = float_from_bf16(bits);
    }
    return std::span<const float>(host_floats_);
}

}  // namespace engine
