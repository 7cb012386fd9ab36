#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>
#include <cstdint>
#include <cstring>
#include <string>

#include "base/check.h"
#include "device/device.h"

namespace device {
namespace {

constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;  // x86-64 and arm64 with 4 KiB pages

std::size_t round_to_pages(std::size_t bytes) {
    static const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    return (bytes + page - 1) / page * page;
}

void unmap(std::byte* data, std::size_t bytes) {
    munmap(data, round_to_pages(bytes));
}

Result<Buffer> map_anonymous(std::size_t bytes) {
    CHECK(bytes > 0);
    const std::size_t kept = round_to_pages(bytes);
    // One huge page more than needed, of which the parts before and behind the aligned range go back at once.
    const std::size_t mapped = kept + kHugePageBytes;
    void* address = MAP_FAILED;
    if (kept >= bytes && mapped >= kept) {
        address = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    } else {
        errno = ENOMEM;
    }
    if (address == MAP_FAILED) {
        return base::fail(base::ErrorCode::resource_exhausted,
                          "cannot map " + std::to_string(bytes) + " bytes of memory: " + std::strerror(errno));
    }
    auto* begin = static_cast<std::byte*>(address);
    const std::size_t misaligned = reinterpret_cast<std::uintptr_t>(begin) % kHugePageBytes;
    const std::size_t before = misaligned == 0 ? 0 : kHugePageBytes - misaligned;
    if (before > 0) { munmap(begin, before); }
    if (before < kHugePageBytes) { munmap(begin + before + kept, kHugePageBytes - before); }
    madvise(begin + before, kept, MADV_HUGEPAGE);  // advice: without huge pages it only is slower
    return Buffer(begin + before, bytes, unmap);
}

class HostStream final : public Stream {
public:
    Result<void> synchronize() override { return {}; }
};

class HostEvent final : public Event {
public:
    Result<bool> done() override { return true; }
    Result<void> wait() override { return {}; }
};

class HostDevice final : public Device {
public:
    std::string_view name() const override { return "host"; }
    bool is_host_memory() const override { return true; }
    std::uint64_t memory_bytes() const override { return 0; }
    Result<Buffer> allocate(std::size_t bytes) override { return map_anonymous(bytes); }
    Result<Buffer> allocate_host(std::size_t bytes) override { return map_anonymous(bytes); }
    Result<std::unique_ptr<Stream>> make_stream() override { return std::make_unique<HostStream>(); }
    Result<void> copy_async(Stream& /*stream*/, std::byte* target, const std::byte* source,
                            std::size_t bytes) override {
        if (bytes > 0) { std::memcpy(target, source, bytes); }
        return {};
    }
    Result<void> copy_rows_async(Stream& /*stream*/, std::byte* target, std::size_t target_pitch,
                                 const std::byte* source, std::size_t source_pitch, std::size_t row_bytes,
                                 std::size_t rows) override {
        for (std::size_t row = 0; row < rows; ++row) {
            std::memcpy(target + row * target_pitch, source + row * source_pitch, row_bytes);
        }
        return {};
    }
    Result<std::unique_ptr<Event>> record(Stream& /*stream*/) override { return std::make_unique<HostEvent>(); }
    Result<void> wait(Stream& /*stream*/, Event& /*event*/) override { return {}; }
};

}  // namespace

Device& host_device() {
    static HostDevice device;
    return device;
}

}  // namespace device
