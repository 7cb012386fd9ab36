#pragma once

#include <cstddef>
#include <cstdlib>
#include <memory>

#include "base/check.h"

namespace engine {

/// 64-byte aligned memory that grows and is never given back before its owner dies. Contents do not survive growth.
class Scratch {
public:
    /// At least `bytes` bytes, uninitialised or left over from the last use.
    std::byte* at_least(std::size_t bytes) {
        if (bytes > bytes_) {
            memory_.reset();
            bytes_ = (bytes + bytes / 4 + 63) / 64 * 64;
            memory_.reset(static_cast<std::byte*>(std::aligned_alloc(64, bytes_)));
            CHECK(memory_ != nullptr, bytes_ << " bytes of scratch memory");
        }
        return memory_.get();
    }

private:
    struct Free {
        void operator()(std::byte* memory) const { std::free(memory); }
    };
    std::unique_ptr<std::byte, Free> memory_;
    std::size_t bytes_ = 0;
};

}  // namespace engine
