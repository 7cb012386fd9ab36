#pragma once

#include <cstddef>
#include <memory>

#include "device/device.h"

namespace test_device {

/// The host's memory, declared unreachable for the processor: what is written for a GPU runs on it without one. Copies
/// can be made to fail.
class DistantDevice final : public device::Device {
public:
    std::string_view name() const override { return "distant"; }
    bool is_host_memory() const override { return false; }
    std::uint64_t memory_bytes() const override { return memory; }
    device::Result<device::Buffer> allocate(std::size_t bytes) override { return host().allocate(bytes); }
    device::Result<device::Buffer> allocate_host(std::size_t bytes) override { return host().allocate_host(bytes); }
    device::Result<std::unique_ptr<device::Stream>> make_stream() override { return host().make_stream(); }
    device::Result<void> copy_async(device::Stream& stream, std::byte* target, const std::byte* source,
                                    std::size_t bytes) override {
        ++copies;
        if (is_broken) { return base::fail(base::ErrorCode::internal, "the device is broken"); }
        return host().copy_async(stream, target, source, bytes);
    }
    device::Result<void> copy_rows_async(device::Stream& stream, std::byte* target, std::size_t target_pitch,
                                         const std::byte* source, std::size_t source_pitch, std::size_t row_bytes,
                                         std::size_t rows) override {
        ++copies;
        if (is_broken) { return base::fail(base::ErrorCode::internal, "the device is broken"); }
        return host().copy_rows_async(stream, target, target_pitch, source, source_pitch, row_bytes, rows);
    }
    device::Result<std::unique_ptr<device::Event>> record(device::Stream& stream) override {
        return host().record(stream);
    }
    device::Result<void> wait(device::Stream& stream, device::Event& event) override {
        return host().wait(stream, event);
    }

    std::uint64_t memory = std::uint64_t{1} << 30;  // that it says it has
    int copies = 0;
    bool is_broken = false;

private:
    static device::Device& host() { return device::host_device(); }
};

}  // namespace test_device
