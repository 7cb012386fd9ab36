#pragma once

#include <bit>
#include <cstdint>

namespace kv_transfer {

// One value at a time. lane_loops.inc has its own: it is compiled once for each instruction set, and an inline function
// shared with it could be linked in the wrong one.

inline float value_of(std::uint16_t bf16) {
    return std::bit_cast<float>(std::uint32_t{bf16} << 16);
}

/// Rounds to nearest even. Of a number.
inline std::uint16_t bf16_near(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

}  // namespace kv_transfer
