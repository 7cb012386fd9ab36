// Streams, events and graphs of the emulator, and the copies that go to them.
#include "streams.h"

#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <memory>
#include <mutex>
#include <set>
#include <vector>

namespace {

using Work = std::function<void()>;
using Graph = std::vector<Work>;

struct Stream {
    bool is_blocking = false;  // waits for the default stream, and is waited for
    std::deque<Work> waiting;
    std::uint64_t done = 0;  // pieces of work, of done + waiting.size() that were put
    std::unique_ptr<Graph> captured;
    bool is_capture_broken = false;
};
struct Event {
    Stream* stream = nullptr;  // null: nothing was recorded
    std::uint64_t number = 0;  // of the stream's work that is done when the event is
    bool was_asked = false;
};

/// Guards all streams. Work runs under it: there is one emulated device, and it does one thing at a time.
std::recursive_mutex mutex;
std::set<Stream*> streams;
thread_local Stream* captured_here = nullptr;
thread_local cudaError_t last_error = cudaSuccess;

Stream* stream_of(cudaStream_t stream) {
    return reinterpret_cast<Stream*>(stream);
}

void run_until(Stream& stream, std::uint64_t number) {
    while (stream.done < number && !stream.waiting.empty()) {
        const Work work = std::move(stream.waiting.front());
        stream.waiting.pop_front();
        work();
        ++stream.done;
    }
}
void run_all(Stream& stream) {
    run_until(stream, stream.done + stream.waiting.size());
}
void run_all_blocking() {
    for (Stream* stream : streams) {
        if (stream->is_blocking) { run_all(*stream); }
    }
}

}  // namespace

namespace emulator {

cudaError_t keep_error(cudaError_t error) {
    if (error != cudaSuccess) { last_error = error; }
    return error;
}

cudaError_t refuse_in_capture() {
    if (captured_here == nullptr) { return cudaSuccess; }
    captured_here->is_capture_broken = true;
    return keep_error(cudaErrorStreamCaptureUnsupported);
}

cudaError_t put(cudaStream_t handle, std::function<void()> work) {
    const std::lock_guard lock(mutex);
    Stream* stream = stream_of(handle);
    if (stream == nullptr) {
        if (captured_here != nullptr && captured_here->is_blocking) { return refuse_in_capture(); }
        run_all_blocking();
        work();
        return cudaSuccess;
    }
    if (stream->captured != nullptr) {
        stream->captured->push_back(std::move(work));
    } else {
        stream->waiting.push_back(std::move(work));
    }
    return cudaSuccess;
}

void finish_all() {
    const std::lock_guard lock(mutex);
    for (Stream* stream : streams) {
        run_all(*stream);
    }
}

}  // namespace emulator

using emulator::keep_error;
using emulator::put;
using emulator::refuse_in_capture;

extern "C" {

cudaError_t cudaGetLastError() {
    const cudaError_t error = last_error;
    last_error = cudaSuccess;
    return error;
}

cudaError_t cudaDeviceSynchronize() {
    if (const cudaError_t refused = refuse_in_capture(); refused != cudaSuccess) { return refused; }
    emulator::finish_all();
    return cudaSuccess;
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* handle, unsigned flags) {
    const std::lock_guard lock(mutex);
    auto* stream = new Stream;
    stream->is_blocking = flags != cudaStreamNonBlocking;
    streams.insert(stream);
    *handle = reinterpret_cast<cudaStream_t>(stream);
    return cudaSuccess;
}
cudaError_t cudaStreamCreate(cudaStream_t* handle) {
    return cudaStreamCreateWithFlags(handle, cudaStreamDefault);
}
/// Returns at once on a device; here what waits is done, as nobody could wait for it any more.
cudaError_t cudaStreamDestroy(cudaStream_t handle) {
    const std::lock_guard lock(mutex);
    Stream* stream = stream_of(handle);
    run_all(*stream);
    streams.erase(stream);
    delete stream;
    return cudaSuccess;
}
cudaError_t cudaStreamSynchronize(cudaStream_t handle) {
    if (const cudaError_t refused = refuse_in_capture(); refused != cudaSuccess) { return refused; }
    const std::lock_guard lock(mutex);
    if (handle == nullptr) {
        run_all_blocking();
    } else {
        run_all(*stream_of(handle));
    }
    return cudaSuccess;
}
cudaError_t cudaStreamWaitEvent(cudaStream_t handle, cudaEvent_t event, unsigned) {
    const Event waited = *reinterpret_cast<Event*>(event);
    if (waited.stream == nullptr) { return cudaSuccess; }
    return put(handle, [waited] {
        if (streams.count(waited.stream) != 0) { run_until(*waited.stream, waited.number); }
    });
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned) {
    *event = reinterpret_cast<cudaEvent_t>(new Event);
    return cudaSuccess;
}
cudaError_t cudaEventDestroy(cudaEvent_t event) {
    delete reinterpret_cast<Event*>(event);
    return cudaSuccess;
}
cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t handle) {
    const std::lock_guard lock(mutex);
    Stream* stream = stream_of(handle);
    *reinterpret_cast<Event*>(event) = {
        .stream = stream, .number = stream == nullptr ? 0 : stream->done + stream->waiting.size(), .was_asked = false};
    return cudaSuccess;
}
cudaError_t cudaEventSynchronize(cudaEvent_t handle) {
    if (const cudaError_t refused = refuse_in_capture(); refused != cudaSuccess) { return refused; }
    const std::lock_guard lock(mutex);
    const Event& event = *reinterpret_cast<Event*>(handle);
    if (event.stream != nullptr && streams.count(event.stream) != 0) { run_until(*event.stream, event.number); }
    return cudaSuccess;
}
/// The first answer is that the work has not ended.
cudaError_t cudaEventQuery(cudaEvent_t handle) {
    if (const cudaError_t refused = refuse_in_capture(); refused != cudaSuccess) { return refused; }
    const std::lock_guard lock(mutex);
    Event& event = *reinterpret_cast<Event*>(handle);
    if (event.stream == nullptr || event.stream->done >= event.number) { return cudaSuccess; }
    if (!event.was_asked) {
        event.was_asked = true;
        return keep_error(cudaErrorNotReady);
    }
    run_until(*event.stream, event.number);
    return cudaSuccess;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t handle, cudaStreamCaptureMode) {
    const std::lock_guard lock(mutex);
    Stream* stream = stream_of(handle);
    stream->captured = std::make_unique<Graph>();
    stream->is_capture_broken = false;
    captured_here = stream;
    return cudaSuccess;
}
cudaError_t cudaStreamEndCapture(cudaStream_t handle, cudaGraph_t* graph) {
    const std::lock_guard lock(mutex);
    Stream* stream = stream_of(handle);
    captured_here = nullptr;
    const std::unique_ptr<Graph> captured = std::move(stream->captured);
    *graph = nullptr;
    if (stream->is_capture_broken) { return keep_error(cudaErrorStreamCaptureInvalidated); }
    *graph = reinterpret_cast<cudaGraph_t>(new Graph(*captured));
    return cudaSuccess;
}
cudaError_t cudaGraphInstantiate(cudaGraphExec_t* executable, cudaGraph_t graph, unsigned long long) {
    *executable = reinterpret_cast<cudaGraphExec_t>(
        new std::shared_ptr<Graph>(std::make_shared<Graph>(*reinterpret_cast<Graph*>(graph))));
    return cudaSuccess;
}
/// EMULATOR_REFUSE_GRAPHS=1: as a device that has no memory for them.
cudaError_t cudaGraphLaunch(cudaGraphExec_t executable, cudaStream_t stream) {
    if (std::getenv("EMULATOR_REFUSE_GRAPHS") != nullptr) { return keep_error(cudaErrorMemoryAllocation); }
    return put(stream, [graph = *reinterpret_cast<std::shared_ptr<Graph>*>(executable)] {
        for (const Work& work : *graph) {
            work();
        }
    });
}
cudaError_t cudaGraphExecDestroy(cudaGraphExec_t executable) {
    delete reinterpret_cast<std::shared_ptr<Graph>*>(executable);
    return cudaSuccess;
}
cudaError_t cudaGraphDestroy(cudaGraph_t graph) {
    delete reinterpret_cast<Graph*>(graph);
    return cudaSuccess;
}

cudaError_t cudaMemcpy2DAsync(void* to, std::size_t to_pitch, const void* from, std::size_t from_pitch,
                              std::size_t width, std::size_t height, cudaMemcpyKind, cudaStream_t stream) {
    const auto copy = [=](const void* source) {
        for (std::size_t row = 0; row < height; ++row) {
            std::memcpy(static_cast<char*>(to) + row * to_pitch, static_cast<const char*>(source) + row * from_pitch,
                        width);
        }
    };
    if (height == 0) { return cudaSuccess; }
    if (!emulator::is_known_memory(from)) {  // pageable: read before the call returns
        if (const cudaError_t refused = refuse_in_capture(); refused != cudaSuccess) { return refused; }
        const auto* begin = static_cast<const char*>(from);
        auto staged = std::make_shared<std::vector<char>>(begin, begin + (height - 1) * from_pitch + width);
        return put(stream, [=] { copy(staged->data()); });
    }
    const cudaError_t error = put(stream, [=] { copy(from); });
    // Pageable: written before the call returns.
    if (error == cudaSuccess && !emulator::is_known_memory(to)) { return cudaStreamSynchronize(stream); }
    return error;
}
cudaError_t cudaMemcpyAsync(void* to, const void* from, std::size_t bytes, cudaMemcpyKind kind, cudaStream_t stream) {
    return bytes == 0 ? cudaSuccess : cudaMemcpy2DAsync(to, bytes, from, bytes, bytes, 1, kind, stream);
}

}  // extern "C"
