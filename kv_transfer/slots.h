#pragma once

#include <atomic>
#include <cstddef>
#include <memory>

namespace kv_transfer {

/// Counts what is open until the last holder of its slot lets go, also when this object is gone by then. Thread-safe.
class Slots {
public:
    using Slot = std::shared_ptr<const void>;

    Slot take() {
        used_->fetch_add(1);
        return {used_.get(), [used = used_](const void*) { used->fetch_sub(1); }};
    }
    std::size_t used() const { return used_->load(); }

private:
    std::shared_ptr<std::atomic<std::size_t>> used_ = std::make_shared<std::atomic<std::size_t>>(0);
};

}  // namespace kv_transfer
