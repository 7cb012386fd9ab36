#include "base/crc32c.h"

#include <algorithm>
#include <array>
#include <random>
#include <string_view>
#include <vector>

#include "tests/support/catch.h"

namespace {

/// Bit by bit: the definition.
std::uint32_t crc32c_reference(std::span<const std::byte> data) {
    std::uint32_t state = 0xffffffff;
    for (const std::byte byte : data) {
        state ^= std::to_integer<std::uint32_t>(byte);
        for (int bit = 0; bit < 8; ++bit) {
            state = (state >> 1) ^ ((state & 1) != 0 ? 0x82f63b78u : 0);
        }
    }
    return ~state;
}

std::vector<std::byte> random_bytes(std::size_t count, std::mt19937& random) {
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(random() & 0xff);
    }
    return bytes;
}

}  // namespace

TEST_CASE("crc32c gives the vectors of RFC 3720", "[base]") {
    std::array<std::byte, 32> bytes{};
    REQUIRE(base::crc32c(bytes) == 0x8a9136aau);
    bytes.fill(std::byte{0xff});
    REQUIRE(base::crc32c(bytes) == 0x62a8ab43u);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<std::byte>(i);
    }
    REQUIRE(base::crc32c(bytes) == 0x46dd794eu);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<std::byte>(31 - i);
    }
    REQUIRE(base::crc32c(bytes) == 0x113fdb5cu);
    REQUIRE(base::crc32c(std::as_bytes(std::span(std::string_view("123456789")))) == 0xe3069283u);
    REQUIRE(base::crc32c({}) == 0u);
}

TEST_CASE("crc32c equals its definition at every length and alignment", "[base]") {
    const auto seed = GENERATE(range(0u, 5u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto bytes = random_bytes(10000, random);
    for (const std::size_t length : {1u, 7u, 8u, 9u, 63u, 1023u, 1024u, 3071u, 3072u, 3073u, 6143u, 6144u, 9000u}) {
        const std::size_t begin = random() % 16;
        CAPTURE(begin, length);
        const auto part = std::span(bytes).subspan(begin, length);
        REQUIRE(base::crc32c(part) == crc32c_reference(part));
    }
}

TEST_CASE("the crc32c of a whole is that of its parts one after the other", "[base]") {
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto bytes = random_bytes(1 + random() % 20000, random);
    std::uint32_t value = 0;
    for (std::size_t at = 0; at < bytes.size();) {
        const std::size_t length = std::min<std::size_t>(bytes.size() - at, random() % 5000);
        value = base::crc32c(std::span(bytes).subspan(at, length), value);
        at += length;
    }
    REQUIRE(value == base::crc32c(bytes));
}

TEST_CASE("crc32c notices every flipped bit", "[base]") {
    std::mt19937 random{1};
    auto bytes = random_bytes(200, random);
    const std::uint32_t value = base::crc32c(bytes);
    for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
        bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
        REQUIRE(base::crc32c(bytes) != value);
        bytes[bit / 8] ^= static_cast<std::byte>(1 << (bit % 8));
    }
}
