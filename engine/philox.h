#pragma once

#include <array>
#include <cstdint>

namespace engine {

/// Philox4x32-10: 128 random bits as a pure function of a 128-bit counter and a 64-bit key, so that a random number has
/// a name instead of a place in a stream. Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC
/// 2011); their known answers are in the test.
constexpr std::array<std::uint32_t, 4> philox4x32(std::array<std::uint32_t, 4> counter,
                                                  std::array<std::uint32_t, 2> key) {
    for (int round = 0; round < 10; ++round) {
        const std::uint64_t a = std::uint64_t{0xD2511F53} * counter[0];
        const std::uint64_t b = std::uint64_t{0xCD9E8D57} * counter[2];
        counter = {static_cast<std::uint32_t>(b >> 32) ^ counter[1] ^ key[0], static_cast<std::uint32_t>(b),
                   static_cast<std::uint32_t>(a >> 32) ^ counter[3] ^ key[1], static_cast<std::uint32_t>(a)};
        key[0] += 0x9E3779B9;
        key[1] += 0xBB67AE85;
    }
    return counter;
}

/// A double in [0, 1) with 53 random bits.
constexpr double unit_double(std::uint32_t high, std::uint32_t low) {
    const std::uint64_t bits = (std::uint64_t{high} << 32) | low;
    return static_cast<double>(bits >> 11) * 0x1.0p-53;
}

}  // namespace engine
