// What every Device promises, for the host and, where there is one, for the first GPU.
#include "device/device.h"

#include <cstring>
#include <random>
#include <string>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "tests/support/catch.h"

namespace {

/// Null, after saying so, where the machine has no such device.
device::Device* device_named(const std::string& name) {
    if (name == "host") { return &device::host_device(); }
    auto gpu = device::cuda_device(0);
    if (!gpu) {
        WARN("SKIPPED: " << gpu.error().message);
        return nullptr;
    }
    return *gpu;
}

std::vector<std::byte> random_bytes(std::size_t count, unsigned seed) {
    std::mt19937 random{seed};
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(random());
    }
    return bytes;
}

void copies_come_back_unchanged(device::Device& device) {
    constexpr std::size_t kBytes = 1'000'003;
    const auto sent = random_bytes(kBytes, 1);
    auto on_device = device.allocate(kBytes);
    auto host = device.allocate_host(2 * kBytes);
    auto stream = device.make_stream();
    REQUIRE((on_device && host && stream));
    REQUIRE(reinterpret_cast<std::uintptr_t>(on_device->data()) % 256 == 0);
    std::memcpy(host->data(), sent.data(), kBytes);
    REQUIRE(device.copy_async(**stream, on_device->data(), host->data(), kBytes));
    REQUIRE(device.copy_async(**stream, host->data() + kBytes, on_device->data(), kBytes));
    auto event = device.record(**stream);
    REQUIRE(event);
    REQUIRE((*event)->wait());
    REQUIRE(((*event)->done() && *(*event)->done()));
    REQUIRE(std::memcmp(host->data() + kBytes, sent.data(), kBytes) == 0);
    REQUIRE(device.copy_async(**stream, on_device->data(), host->data(), 0));
    REQUIRE((*stream)->synchronize());
}

void rows_are_copied_between_pitches(device::Device& device) {
    constexpr std::size_t kRows = 7;
    constexpr std::size_t kRowBytes = 24;
    constexpr std::size_t kWide = 40;
    constexpr std::size_t kNarrow = 32;
    auto on_device = device.allocate(kRows * kWide);
    auto host = device.allocate_host(kRows * kWide);
    auto back = device.allocate_host(kRows * kNarrow);
    auto stream = device.make_stream();
    REQUIRE((on_device && host && back && stream));
    const auto sent = random_bytes(kRows * kWide, 2);
    std::memcpy(host->data(), sent.data(), sent.size());
    std::memset(back->data(), 0x5a, back->size());
    REQUIRE(device.copy_async(**stream, on_device->data(), host->data(), sent.size()));
    REQUIRE(device.copy_rows_async(**stream, back->data(), kNarrow, on_device->data(), kWide, kRowBytes, kRows));
    REQUIRE((*stream)->synchronize());
    for (std::size_t row = 0; row < kRows; ++row) {
        CAPTURE(row);
        REQUIRE(std::memcmp(back->data() + row * kNarrow, sent.data() + row * kWide, kRowBytes) == 0);
        for (std::size_t i = kRowBytes; i < kNarrow; ++i) {
            REQUIRE(back->data()[row * kNarrow + i] == std::byte{0x5a});  // between the rows nothing is written
        }
    }
}

void a_stream_waits_for_another(device::Device& device) {
    constexpr std::size_t kBytes = 8u << 20;
    auto first = device.make_stream();
    auto second = device.make_stream();
    auto a = device.allocate(kBytes);
    auto b = device.allocate(kBytes);
    auto host = device.allocate_host(kBytes);
    REQUIRE((first && second && a && b && host));
    const auto sent = random_bytes(kBytes, 3);
    std::memcpy(host->data(), sent.data(), kBytes);
    REQUIRE(device.copy_async(**first, a->data(), host->data(), kBytes));
    auto copied = device.record(**first);
    REQUIRE(copied);
    REQUIRE(device.wait(**second, **copied));
    REQUIRE(device.copy_async(**second, b->data(), a->data(), kBytes));
    REQUIRE((*second)->synchronize());
    auto result = device.allocate_host(kBytes);
    REQUIRE(result);
    REQUIRE(device.copy_async(**second, result->data(), b->data(), kBytes));
    REQUIRE((*second)->synchronize());
    REQUIRE(std::memcmp(result->data(), sent.data(), kBytes) == 0);
}

void too_much_memory_is_an_error(device::Device& device) {
    const auto buffer = device.allocate(std::size_t{1} << 60);
    REQUIRE_FALSE(buffer);
    REQUIRE(buffer.error().code == base::ErrorCode::resource_exhausted);
    REQUIRE(device.allocate(4096));  // and no lasting harm
}

}  // namespace

TEST_CASE("the host keeps what every device promises", "[device]") {
    device::Device& host = *device_named("host");
    REQUIRE(host.is_host_memory());
    copies_come_back_unchanged(host);
    rows_are_copied_between_pitches(host);
    a_stream_waits_for_another(host);
    too_much_memory_is_an_error(host);
}

TEST_CASE("the first GPU keeps what every device promises", "[device]") {
    device::Device* gpu = device_named("cuda:0");
    if (gpu == nullptr) { return; }
    REQUIRE(gpu->name() == "cuda:0");
    REQUIRE_FALSE(gpu->is_host_memory());
    copies_come_back_unchanged(*gpu);
    rows_are_copied_between_pitches(*gpu);
    a_stream_waits_for_another(*gpu);
    too_much_memory_is_an_error(*gpu);
}

TEST_CASE("a device is named auto, host or cuda with a number", "[device]") {
    REQUIRE(device::parse_device("host") == device::DeviceChoice{});
    REQUIRE(device::parse_device("cuda:0") == device::DeviceChoice{.is_cuda = true, .index = 0});
    REQUIRE(device::parse_device("cuda:12") == device::DeviceChoice{.is_cuda = true, .index = 12});
    const std::string wrong = GENERATE("", "cuda", "cuda:", "cuda:-1", "cuda:1x", "cuda:99999", "gpu:0", "CUDA:0");
    CAPTURE(wrong);
    const auto parsed = device::parse_device(wrong);
    REQUIRE_FALSE(parsed);
    REQUIRE(parsed.error().code == base::ErrorCode::invalid_argument);
}

TEST_CASE("a report about CUDA names what is missing and what changes it, or a GPU", "[device]") {
    const device::CudaReport report = device::cuda_report();
    REQUIRE(report.problem.empty() == report.remedy.empty());
    if (report.problem.empty()) {
        REQUIRE_FALSE(report.devices.empty());
        REQUIRE(device::parse_device("auto") == device::DeviceChoice{.is_cuda = true, .index = 0});
    } else {
        REQUIRE(device::parse_device("auto") == device::DeviceChoice{});
    }
    REQUIRE(report.built == !report.runtime_version.empty());
}

TEST_CASE("a GPU that is not there is refused with what to do", "[device]") {
    const auto gpu = device::cuda_device(63);
    REQUIRE_FALSE(gpu);
    REQUIRE(gpu.error().message.find("cuda:63") != std::string::npos);
    const bool built = device::cuda_report().built;
    REQUIRE(gpu.error().code == (built ? base::ErrorCode::unavailable : base::ErrorCode::unimplemented));
}
