#include "kv_transfer/staging.h"

#include <mutex>
#include <new>
#include <utility>
#include <vector>

#include "base/check.h"

namespace kv_transfer {

namespace {
constexpr std::align_val_t kPage{4096};
}

struct StagingPool::Memory {
    Memory(std::size_t buffers, std::size_t buffer_bytes, std::function<void()> returned)
        : bytes(static_cast<std::byte*>(::operator new(buffers * buffer_bytes, kPage))),
          on_return(std::move(returned)) {
        views.reserve(buffers);
        free.reserve(buffers);
        for (std::size_t i = 0; i < buffers; ++i) {
            views.emplace_back(bytes + i * buffer_bytes, buffer_bytes);
            free.push_back(i);
        }
    }
    ~Memory() { ::operator delete(bytes, kPage); }
    Memory(const Memory&) = delete;
    Memory& operator=(const Memory&) = delete;

    void give_back(std::size_t index) {
        const std::scoped_lock lock(mutex);
        free.push_back(index);
        if (on_return) { on_return(); }
    }

    std::byte* bytes;
    std::vector<std::span<std::byte>> views;

    std::mutex mutex;
    std::function<void()> on_return;  // guarded by mutex
    std::vector<std::size_t> free;    // guarded by mutex
};

StagingPool::StagingPool(std::size_t buffers, std::size_t buffer_bytes, std::function<void()> on_return)
    : buffer_bytes_(buffer_bytes) {
    CHECK(buffers > 0 && buffer_bytes > 0);
    memory_ = std::make_shared<Memory>(buffers, buffer_bytes, std::move(on_return));
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
