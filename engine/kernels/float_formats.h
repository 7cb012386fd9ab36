#pragma once

#include <bit>
#include <cstdint>

namespace engine {

inline float float_from_bf16(std::uint16_t bits) {
    return std::bit_cast<float>(std::uint32_t{bits} << 16);
}

/// Rounds to nearest even; NaN stays NaN.
inline std::uint16_t bf16_from_float(float value) {
    const auto bits = std::bit_cast<std::uint32_t>(value);
    if ((bits & 0x7fffffffu) > 0x7f800000u) { return static_cast<std::uint16_t>(bits >> 16 | 0x40u); }
    return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// The value that bf16 keeps of `value`.
inline float round_to_bf16(float value) {
    return float_from_bf16(bf16_from_float(value));
}

/// IEEE half precision to float, exact.
inline float float_from_f16(std::uint16_t bits) {
    const std::uint32_t sign = std::uint32_t{bits} >> 15 << 31;
    const std::uint32_t exponent = bits >> 10 & 0x1fu;
    std::uint32_t fraction = bits & 0x3ffu;
    if (exponent == 0x1f) { return std::bit_cast<float>(sign | 0x7f800000u | fraction << 13); }
    if (exponent != 0) { return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13); }
    if (fraction == 0) { return std::bit_cast<float>(sign); }
    std::uint32_t shift = 0;  // a denormal half is a normal float
    while ((fraction & 0x400u) == 0) {
        fraction <<= 1;
        ++shift;
    }
    return std::bit_cast<float>(sign | (113 - shift) << 23 | (fraction & 0x3ffu) << 13);
}

/// e4m3 (four bits of exponent, three of fraction, no infinities) to float, exact.
inline float float_from_e4m3(std::uint8_t bits) {
    const std::uint32_t sign = std::uint32_t{bits} >> 7 << 31;
    const std::uint32_t exponent = bits >> 3 & 0xfu;
    const std::uint32_t fraction = bits & 0x7u;
    if (exponent == 0xf && fraction == 0x7) { return std::bit_cast<float>(sign | 0x7fc00000u); }
    if (exponent != 0) { return std::bit_cast<float>(sign | (exponent + 120) << 23 | fraction << 20); }
    const float magnitude = static_cast<float>(fraction) * 0x1p-9f;
    return sign != 0 ? -magnitude : magnitude;
}

}  // namespace engine
