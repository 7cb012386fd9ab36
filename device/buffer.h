#pragma once

#include <cstddef>
#include <utility>

namespace device {

/// One contiguous piece of memory, owned. Movable; the address stays the same when it is moved.
/// Made by `Device::allocate` and `Device::allocate_host`. Not thread-safe itself; the bytes are the users' affair.
class Buffer {
public:
    /// Gives the memory back to where it came from (munmap, cudaFree, ...).
    using Release = void (*)(std::byte* data, std::size_t bytes);

    Buffer() = default;  // nothing: data() is null, size() is 0
    /// Takes over `bytes` bytes at `data`, which `release` frees.
    Buffer(std::byte* data, std::size_t bytes, Release release) : data_(data), bytes_(bytes), release_(release) {}
    Buffer(Buffer&& other) noexcept { swap(other); }
    Buffer& operator=(Buffer&& other) noexcept {
        Buffer taken(std::move(other));
        swap(taken);
        return *this;
    }
    ~Buffer() {
        if (data_ != nullptr) { release_(data_, bytes_); }
    }

    std::byte* data() { return data_; }
    const std::byte* data() const { return data_; }
    /// Bytes asked for, not what the allocator rounded up to.
    std::size_t size() const { return bytes_; }

private:
    void swap(Buffer& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(bytes_, other.bytes_);
        std::swap(release_, other.release_);
    }

    std::byte* data_ = nullptr;
    std::size_t bytes_ = 0;
    Release release_ = nullptr;
};

}  // namespace device
