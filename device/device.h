#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <string_view>

#include "base/result.h"
#include "device/buffer.h"

namespace device {

using base::Result;

/// Order of work on one device: what is put on a stream runs in that order, beside the work of other streams.
class Stream {
public:
    virtual ~Stream() = default;
    /// Returns when everything put on the stream so far has run. Error: internal, when the device has failed.
    virtual Result<void> synchronize() = 0;
};

/// A point in the order of one stream (`Device::record`).
class Event {
public:
    virtual ~Event() = default;
    /// Whether the work before the point has run; does not wait. Error: internal, when the device has failed.
    virtual Result<bool> done() = 0;
    /// Returns when it has run. Error: internal.
    virtual Result<void> wait() = 0;
};

/// Where KV and activations live. An `internal` error anywhere here means that the device is lost: every later call
/// fails too, and only a new process can use it again. `aborted`: the device has refused this one call. The host is
/// always there (`host_device()`); CUDA is another implementation. Streams and events are used only with the device
/// that made them. Thread-safe; a stream belongs to one thread.
class Device {
public:
    virtual ~Device() = default;
    /// "host", "cuda:0".
    virtual std::string_view name() const = 0;
    /// Whether the processor may read and write what `allocate` gives. False: only copies and the device's own code do.
    virtual bool is_host_memory() const = 0;
    /// All memory that the device has, whoever uses it; 0 on the host (what the machine has is not for one engine).
    virtual std::uint64_t memory_bytes() const = 0;

    /// `bytes` (> 0) bytes of the device's memory, aligned to at least 256 bytes; contents are not promised.
    /// On the host: zero pages that cost nothing until touched, aligned to 2 MiB.
    /// Error: resource_exhausted.
    virtual Result<Buffer> allocate(std::size_t bytes) = 0;
    /// `bytes` (> 0) bytes of host memory that copies of this device reach directly (pinned on CUDA).
    /// Error: resource_exhausted.
    virtual Result<Buffer> allocate_host(std::size_t bytes) = 0;

    /// Error: resource_exhausted.
    virtual Result<std::unique_ptr<Stream>> make_stream() = 0;
    /// Puts a copy of `bytes` bytes on the stream, between any of this device's and the host's memory; the ranges do
    /// not overlap and stay alive until it has run. On the host it has run on return. Error: internal.
    virtual Result<void> copy_async(Stream& stream, std::byte* target, const std::byte* source, std::size_t bytes) = 0;
    /// The same for `rows` pieces of `row_bytes` bytes each, the i-th from `source + i * source_pitch` to
    /// `target + i * target_pitch`; pitches are at least row_bytes. Error: internal.
    virtual Result<void> copy_rows_async(Stream& stream, std::byte* target, std::size_t target_pitch,
                                         const std::byte* source, std::size_t source_pitch, std::size_t row_bytes,
                                         std::size_t rows) = 0;
    /// An event at the present end of the stream. Error: resource_exhausted, internal.
    virtual Result<std::unique_ptr<Event>> record(Stream& stream) = 0;
    /// What is put on `stream` from now on runs after `event`. Error: internal.
    virtual Result<void> wait(Stream& stream, Event& event) = 0;
};

/// The host's memory; one for the process. Everything is synchronous: copies have run on return, events are done.
Device& host_device();

}  // namespace device
