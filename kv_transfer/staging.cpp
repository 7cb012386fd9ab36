#include "kv_transfer/staging.h"

#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"

namespace kv_transfer {

namespace {

/// Pinned where that can be had: copies to and from other memory only are slower.
device::Buffer allocate(device::Device& device, std::size_t bytes) {
    auto buffer = device.allocate_host(bytes);
    if (!buffer) { buffer = device::host_device().allocate(bytes); }
    CHECK(buffer.has_value(), buffer.error().message);
    return std::move(*buffer);
}

}  // namespace

struct StagingPool::Memory {
    Memory(device::Device& device, std::size_t buffers, std::size_t buffer_bytes, std::function<void()> returned)
        : bytes(allocate(device, buffers * buffer_bytes)), on_return(std::move(returned)) {
        views.reserve(buffers);
        free.reserve(buffers);
        for (std::size_t i = 0; i < buffers; ++i) {
            views.emplace_back(bytes.data() + i * buffer_bytes, buffer_bytes);
            free.push_back(i);
        }
    }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    void give_back(std::size_t index) {
        const std::scoped_lock lock(mutex);
        free.push_back(index);
        if (on_return) { on_return(); }
    }

    device::Buffer bytes;
    std::vector<std::span<std::byte>> views;

    std::mutex mutex;
    std::function<void()> on_return;  // guarded by mutex
    std::vector<std::size_t> free;    // guarded by mutex
};

StagingPool::StagingPool(device::Device& device, std::size_t buffers, std::size_t buffer_bytes,
                         std::function<void()> on_return)
    : buffer_bytes_(buffer_bytes) {
    CHECK(buffers > 0 && buffer_bytes > 0);
    memory_ = std::make_shared<Memory>(device, buffers, buffer_bytes, std::move(on_return));
}

StagingPool::~StagingPool() {
    const std::scoped_lock lock(memory_->mutex);
    memory_->on_return = nullptr;
}

StagingPool::Buffer StagingPool::take() {
    std::size_t index = 0;
    {
        const std::scoped_lock lock(memory_->mutex);
        if (memory_->free.empty()) { return nullptr; }
        index = memory_->free.back();
        memory_->free.pop_back();
    }
    return Buffer(&memory_->views[index],
                  [memory = memory_, index](std::span<std::byte>*) { memory->give_back(index); });
}

std::size_t StagingPool::buffers_free() const {
    const std::scoped_lock lock(memory_->mutex);
    return memory_->free.size();
}

}  // namespace kv_transfer
