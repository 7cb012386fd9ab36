#pragma once

#include <cstddef>
#include <functional>
#include <memory>
#include <span>

#include "device/device.h"

namespace kv_transfer {

/// A fixed number of buffers of equal size for frames on their way, in host memory that copies of `device` reach
/// directly. On the host, memory that was never used costs nothing.
/// Thread-safe; buffers may outlive the pool object.
class StagingPool {
public:
    using Buffer = std::shared_ptr<std::span<std::byte>>;

    /// `on_return` is called, from whatever thread drops the last reference, when a buffer has come
    /// back; it must not use the pool.
    StagingPool(device::Device& device, std::size_t buffers, std::size_t buffer_bytes, std::function<void()> on_return);
    ~StagingPool();
    StagingPool(const StagingPool&) = delete;
    StagingPool& operator=(const StagingPool&) = delete;

    /// A buffer of `buffer_bytes`, or null when all are in use. It returns when the last reference is gone.
    Buffer take();
    std::size_t buffers_free() const;
    std::size_t buffer_bytes() const { return buffer_bytes_; }

private:
    struct Memory;
    std::size_t buffer_bytes_;
    std::shared_ptr<Memory> memory_;
};

}  // namespace kv_transfer
