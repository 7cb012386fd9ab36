#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <vector>

#include "device/device.h"
#include "device/prefault.h"
#include "device/stream_copy.h"

#include "tests/support/catch.h"

namespace {

int released = 0;
std::size_t released_bytes = 0;

void count_release(std::byte* data, std::size_t bytes) {
    ++released;
    released_bytes += bytes;
    delete[] data;
}

/// Pages of the range that are backed by memory.
std::size_t resident_pages(const std::byte* data, std::size_t bytes) {
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    std::vector<unsigned char> pages((bytes + page - 1) / page);
    REQUIRE(mincore(const_cast<std::byte*>(data), bytes, pages.data()) == 0);
    return static_cast<std::size_t>(std::count_if(pages.begin(), pages.end(), [](auto flags) { return flags & 1; }));
}

}  // namespace

TEST_CASE("host memory is aligned, zero, and costs nothing until touched", "[device]") {
    auto buffer = device::host_device().allocate((std::size_t{64} << 20) + 1);
    REQUIRE(buffer.has_value());
    REQUIRE(buffer->size() == (std::size_t{64} << 20) + 1);
    REQUIRE(reinterpret_cast<std::uintptr_t>(buffer->data()) % (std::size_t{2} << 20) == 0);
    REQUIRE(resident_pages(buffer->data(), buffer->size()) == 0);
    REQUIRE(buffer->data()[0] == std::byte{0});
    buffer->data()[buffer->size() - 1] = std::byte{7};
    REQUIRE(buffer->data()[buffer->size() - 1] == std::byte{7});
    REQUIRE(resident_pages(buffer->data(), buffer->size()) <= 1025);  // two huge pages at most
}

TEST_CASE("small and odd sizes have their own memory", "[device]") {
    std::vector<device::Buffer> buffers;
    for (const std::size_t bytes : {1u, 4095u, 4096u, 4097u, 100000u}) {
        auto buffer = device::host_device().allocate_host(bytes);
        REQUIRE(buffer.has_value());
        std::fill_n(buffer->data(), bytes, static_cast<std::byte>(buffers.size() + 1));
        buffers.push_back(std::move(*buffer));
    }
    for (std::size_t i = 0; i < buffers.size(); ++i) {
        const auto expected = static_cast<std::byte>(i + 1);
        REQUIRE(std::all_of(buffers[i].data(), buffers[i].data() + buffers[i].size(),
                            [&](std::byte byte) { return byte == expected; }));
    }
}

TEST_CASE("more memory than there is address space is refused", "[device]") {
    for (const std::size_t bytes : {std::numeric_limits<std::size_t>::max(), std::size_t{1} << 60}) {
        const auto refused = device::host_device().allocate(bytes);
        REQUIRE_FALSE(refused.has_value());
        REQUIRE(refused.error().code == base::ErrorCode::resource_exhausted);
        REQUIRE(refused.error().message.find(std::to_string(bytes)) != std::string::npos);
    }
}

TEST_CASE("a buffer is released exactly once, however it is moved", "[device]") {
    released = 0;
    released_bytes = 0;
    {
        device::Buffer first(new std::byte[10], 10, count_release);
        const std::byte* address = first.data();
        device::Buffer second(std::move(first));
        REQUIRE(second.data() == address);
        REQUIRE(second.size() == 10);
        REQUIRE(first.data() == nullptr);
        REQUIRE(first.size() == 0);
        device::Buffer third(new std::byte[20], 20, count_release);
        third = std::move(second);
        REQUIRE(released == 1);
        REQUIRE(released_bytes == 20);
        REQUIRE(third.data() == address);
        third = device::Buffer();
        REQUIRE(released == 2);
    }
    REQUIRE(released == 2);
    REQUIRE(released_bytes == 30);
}

TEST_CASE("host copies have run when the call returns and events are done", "[device]") {
    device::Device& host = device::host_device();
    REQUIRE(host.name() == "host");
    auto stream = host.make_stream();
    auto other = host.make_stream();
    REQUIRE(stream.has_value());
    REQUIRE(other.has_value());
    std::vector<std::byte> source(1000, std::byte{3});
    std::vector<std::byte> target(1000);
    REQUIRE(host.copy_async(**stream, target.data(), source.data(), source.size()).has_value());
    REQUIRE(target == source);
    REQUIRE(host.copy_async(**stream, nullptr, nullptr, 0).has_value());
    auto event = host.record(**stream);
    REQUIRE(event.has_value());
    REQUIRE((*event)->done() == true);
    REQUIRE((*event)->wait().has_value());
    REQUIRE(host.wait(**other, **event).has_value());
    REQUIRE((*other)->synchronize().has_value());
}

TEST_CASE("a streamed copy is a copy, wherever it begins and ends, and touches nothing else", "[device]") {
    constexpr std::size_t kRoom = 256;
    for (const std::size_t bytes : {std::size_t{0}, std::size_t{1}, device::kStreamedBytes - 1, device::kStreamedBytes,
                                    device::kStreamedBytes + 1, device::kStreamedBytes + 127}) {
        std::vector<std::byte> source(bytes + kRoom);
        for (std::size_t i = 0; i < source.size(); ++i) {
            source[i] = static_cast<std::byte>(i * 31 + i / 251);
        }
        for (const std::size_t from : {0U, 1U, 17U, 64U}) {
            for (const std::size_t to : {0U, 1U, 16U, 63U, 64U, 127U}) {
                CAPTURE(bytes, from, to);
                std::vector<std::byte> target(bytes + kRoom, std::byte{0xee});
                device::copy_streamed(target.data() + to, source.data() + from, bytes);
                std::vector<std::byte> expected(bytes + kRoom, std::byte{0xee});
                std::copy_n(source.begin() + static_cast<std::ptrdiff_t>(from), bytes,
                            expected.begin() + static_cast<std::ptrdiff_t>(to));
                REQUIRE(target == expected);
                for (const device::CopyOrder order : {device::CopyOrder::one_page, device::CopyOrder::four_pages}) {
                    std::fill(target.begin(), target.end(), std::byte{0xee});
                    device::copy_streamed(target.data() + to, source.data() + from, bytes, order);
                    REQUIRE(target == expected);
                }
            }
        }
    }
}

TEST_CASE("a long copy is one in the pieces that are tried first, too", "[device]") {
    std::vector<std::byte> source((std::size_t{5} << 20) + 321);
    for (std::size_t i = 0; i < source.size(); ++i) {
        source[i] = static_cast<std::byte>(i * 31 + i / 251);
    }
    for (int i = 0; i < 6; ++i) {
        std::vector<std::byte> target(source.size());
        device::copy_streamed(target.data(), source.data(), source.size());
        REQUIRE(target == source);
    }
}

TEST_CASE("copies go on in the order whose best piece was the faster one", "[device]") {
    using device::CopyOrder;
    for (const CopyOrder faster : {CopyOrder::one_page, CopyOrder::four_pages}) {
        device::CopyOrders orders;
        for (std::uint32_t i = 0; i < 2 * device::CopyOrders::kTries; ++i) {
            const auto choice = orders.next();
            REQUIRE(choice.is_tried);
            // Where memory is fresh every fourth piece waits for its page, whatever the order.
            const std::uint64_t nanoseconds = i % 4 == 0 ? 900'000 : choice.order == faster ? 40'000 : 50'000;
            orders.tell(choice.order, 1 << 20, nanoseconds);
        }
        for (int i = 0; i < 3; ++i) {
            const auto choice = orders.next();
            REQUIRE_FALSE(choice.is_tried);
            REQUIRE(choice.order == faster);
        }
    }
}

TEST_CASE("while pieces that are tried are under way no other is", "[device]") {
    device::CopyOrders orders;
    for (std::uint32_t i = 0; i < 2 * device::CopyOrders::kTries; ++i) {
        REQUIRE(orders.next().is_tried);
    }
    REQUIRE_FALSE(orders.next().is_tried);
}

TEST_CASE("memory that is touched ahead has its pages, and what was written stays", "[device]") {
    auto buffer = device::host_device().allocate((std::size_t{24} << 20) + 100);
    REQUIRE(buffer.has_value());
    buffer->data()[buffer->size() - 1] = std::byte{7};
    device::Prefault prefault({buffer->data(), buffer->size()});
    buffer->data()[0] = std::byte{9};
    prefault.wait();
    REQUIRE(buffer->data()[0] == std::byte{9});
    REQUIRE(buffer->data()[buffer->size() - 1] == std::byte{7});
    if (madvise(buffer->data(), 4096, 23) != 0) { return; }  // Linux before 5.14
    const auto page = static_cast<std::size_t>(sysconf(_SC_PAGESIZE));
    REQUIRE(resident_pages(buffer->data(), buffer->size()) == (buffer->size() + page - 1) / page);
}

TEST_CASE("touching memory ahead ends when nobody wants it any more", "[device]") {
    auto buffer = device::host_device().allocate(std::size_t{64} << 20);
    REQUIRE(buffer.has_value());
    { const device::Prefault prefault({buffer->data(), buffer->size()}); }
    buffer->data()[buffer->size() - 1] = std::byte{7};  // the memory is still there, whole or not
    REQUIRE(buffer->data()[buffer->size() - 1] == std::byte{7});
}
