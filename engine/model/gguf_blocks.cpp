#include "engine/model/gguf_blocks.h"

#include <array>
#include <cstdint>
#include <cstring>

#include "base/check.h"
#include "engine/kernels/float_formats.h"

// In all of these an element is a small integer q times a scale of its group, minus (K types) or plus (Q4_1, Q5_1) a
// minimum of its group. K types have blocks of 256 elements whose groups' scales are themselves small integers times
// one half-precision number of the block. Scale and minimum are multiplied out in float first, then q * scale, then the
// minimum is added: the compiler must not fuse these (-ffp-contract=off), or the last bit changes.

namespace engine {
namespace {

constexpr std::size_t kSuper = 256;  // elements of a block of the K types

std::uint32_t byte_at(const std::byte* block, std::size_t at) {
    return std::to_integer<std::uint32_t>(block[at]);
}

int signed_at(const std::byte* block, std::size_t at) {
    return static_cast<std::int8_t>(byte_at(block, at));
}

float half_at(const std::byte* block, std::size_t at) {
    return float_from_f16(static_cast<std::uint16_t>(byte_at(block, at) | byte_at(block, at + 1) << 8));
}

float as_float(std::uint32_t value) {
    return static_cast<float>(static_cast<int>(value));
}

/// Of 32 elements packed two in a byte: the low halves of 16 bytes, then the high ones.
std::uint32_t nibble(const std::byte* packed, std::size_t element) {
    return byte_at(packed, element % 16) >> (element < 16 ? 0 : 4) & 0xfu;
}

void q4_0(const std::byte* block, float* out) {
    const float scale = half_at(block, 0);
    for (std::size_t i = 0; i < 32; ++i) {
        out[i] = scale * static_cast<float>(static_cast<int>(nibble(block + 2, i)) - 8);
    }
}

void q4_1(const std::byte* block, float* out) {
    const float scale = half_at(block, 0);
    const float minimum = half_at(block, 2);
    for (std::size_t i = 0; i < 32; ++i) {
        out[i] = scale * as_float(nibble(block + 4, i)) + minimum;
    }
}

/// Four low bits as above, and the fifth as one bit of a 32-bit word before them.
std::uint32_t five_bits(const std::byte* block, std::size_t word_at, std::size_t element) {
    const std::uint32_t high = byte_at(block, word_at + element / 8) >> element % 8 & 1u;
    return nibble(block + word_at + 4, element) | high << 4;
}

void q5_0(const std::byte* block, float* out) {
    const float scale = half_at(block, 0);
    for (std::size_t i = 0; i < 32; ++i) {
        out[i] = scale * static_cast<float>(static_cast<int>(five_bits(block, 2, i)) - 16);
    }
}

void q5_1(const std::byte* block, float* out) {
    const float scale = half_at(block, 0);
    const float minimum = half_at(block, 2);
    for (std::size_t i = 0; i < 32; ++i) {
        out[i] = scale * as_float(five_bits(block, 4, i)) + minimum;
    }
}

void q8_0(const std::byte* block, float* out) {
    const float scale = half_at(block, 0);
    for (std::size_t i = 0; i < 32; ++i) {
        out[i] = static_cast<float>(signed_at(block, 2 + i)) * scale;
    }
}

/// 16 groups' 4-bit scales (low) and minima (high) | 64 bytes of 2-bit values | scale, minimum.
/// The values of elements 128 h + 32 k + j stand in byte 32 h + j, at bit 2 k.
void q2_k(const std::byte* block, float* out) {
    const float scale = half_at(block, 80);
    const float minimum = half_at(block, 82);
    for (std::size_t i = 0; i < kSuper; ++i) {
        const std::uint32_t group = byte_at(block, i / 16);
        const std::uint32_t q = byte_at(block, 16 + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3u;
        const float group_scale = scale * as_float(group & 0xfu);
        const float group_minimum = minimum * as_float(group >> 4);
        out[i] = group_scale * as_float(q) - group_minimum;
    }
}

/// 32 bytes of third bits | 64 bytes of 2-bit values (as q2_k) | 12 bytes of sixteen 6-bit scales | scale.
/// The third bit of element 32 k + j is bit k of byte j; where it is clear, 4 is taken off. Low 4 bits of the groups'
/// scales: two in each of 8 bytes (group g and g + 8); high 2 bits: four in each of the next 4 bytes (g % 4).
void q3_k(const std::byte* block, float* out) {
    const float scale = half_at(block, 108);
    for (std::size_t i = 0; i < kSuper; ++i) {
        const std::size_t group = i / 16;
        const std::uint32_t low = byte_at(block, 96 + group % 8) >> (group < 8 ? 0 : 4) & 0xfu;
        const std::uint32_t high = byte_at(block, 104 + group % 4) >> (group / 4 * 2) & 3u;
        const float group_scale = scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
        const std::uint32_t q = byte_at(block, 32 + i / 128 * 32 + i % 32) >> (i % 128 / 32 * 2) & 3u;
        const std::uint32_t third = byte_at(block, i % 32) >> (i / 32) & 1u;
        out[i] = group_scale * static_cast<float>(static_cast<int>(q) - (third != 0 ? 0 : 4));
    }
}

struct ScaleAndMinimum {
    float scale;
    float minimum;
};

/// Of Q4_K and Q5_K: scale, minimum | 12 bytes of eight 6-bit scales and minima. Those of groups 0 to 3 are the low 6
/// bits of bytes 0 to 3 and 4 to 7; those of groups 4 to 7 have their low 4 bits in bytes 8 to 11 (scale low, minimum
/// high) and their high 2 bits on top of the others'.
ScaleAndMinimum k_group(const std::byte* block, std::size_t group) {
    const std::byte* packed = block + 4;
    std::uint32_t scale = 0;
    std::uint32_t minimum = 0;
    if (group < 4) {
        scale = byte_at(packed, group) & 0x3fu;
        minimum = byte_at(packed, 4 + group) & 0x3fu;
    } else {
        const std::uint32_t low = byte_at(packed, 4 + group);
        scale = (low & 0xfu) | (byte_at(packed, group - 4) >> 6 << 4);
        minimum = low >> 4 | (byte_at(packed, group) >> 6 << 4);
    }
    return {half_at(block, 0) * as_float(scale), half_at(block, 2) * as_float(minimum)};
}

/// Element 64 h + j (j < 32) is the low half of byte 32 h + j, element 64 h + 32 + j its high half.
std::uint32_t k_nibble(const std::byte* packed, std::size_t element) {
    return byte_at(packed, element / 64 * 32 + element % 32) >> (element % 64 < 32 ? 0 : 4) & 0xfu;
}

void q4_k(const std::byte* block, float* out) {
    for (std::size_t group = 0; group < 8; ++group) {
        const auto [scale, minimum] = k_group(block, group);
        for (std::size_t i = group * 32; i < group * 32 + 32; ++i) {
            out[i] = scale * as_float(k_nibble(block + 16, i)) - minimum;
        }
    }
}

/// As q4_k with 32 bytes of fifth bits before the halves: that of element 32 k + j is bit k of byte j.
void q5_k(const std::byte* block, float* out) {
    for (std::size_t group = 0; group < 8; ++group) {
        const auto [scale, minimum] = k_group(block, group);
        for (std::size_t i = group * 32; i < group * 32 + 32; ++i) {
            const std::uint32_t fifth = byte_at(block, 16 + i % 32) >> group & 1u;
            out[i] = scale * as_float(k_nibble(block + 48, i) | fifth << 4) - minimum;
        }
    }
}

/// 128 bytes of low halves | 64 bytes of high 2 bits | 16 groups' signed scales | scale.
/// Element 128 h + 32 k + j: low half k / 2 of byte 64 h + 32 (k % 2) + j; high bits 2 k of byte 32 h + j.
void q6_k(const std::byte* block, float* out) {
    const float scale = half_at(block, 208);
    for (std::size_t i = 0; i < kSuper; ++i) {
        const std::size_t half = i / 128;
        const std::size_t quarter = i % 128 / 32;
        const std::uint32_t low = byte_at(block, half * 64 + quarter % 2 * 32 + i % 32) >> (quarter / 2 * 4) & 0xfu;
        const std::uint32_t high = byte_at(block, 128 + half * 32 + i % 32) >> (quarter * 2) & 3u;
        const float group_scale = scale * static_cast<float>(signed_at(block, 192 + i / 16));
        out[i] = group_scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
    }
}

/// What the 16 values of the IQ4 types stand for: finer near zero.
constexpr std::array<float, 16> kIq4Values = {-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113};

void iq4_nl(const std::byte* block, float* out) {
    const float scale = half_at(block, 0);
    for (std::size_t i = 0; i < 32; ++i) {
        out[i] = scale * kIq4Values[nibble(block + 2, i)];
    }
}

/// Scale | 16 bits: high 2 bits of the eight groups' scales | 4 bytes: their low 4 bits | 8 groups of 16 bytes.
void iq4_xs(const std::byte* block, float* out) {
    const float scale = half_at(block, 0);
    for (std::size_t group = 0; group < 8; ++group) {
        const std::uint32_t low = byte_at(block, 4 + group / 2) >> (group % 2 * 4) & 0xfu;
        const std::uint32_t high = byte_at(block, 2 + group / 4) >> (group % 4 * 2) & 3u;
        const float group_scale = scale * static_cast<float>(static_cast<int>(low | high << 4) - 32);
        for (std::size_t i = 0; i < 32; ++i) {
            out[group * 32 + i] = group_scale * kIq4Values[nibble(block + 8 + group * 16, i)];
        }
    }
}

void f32(const std::byte* block, float* out) {
    std::memcpy(out, block, sizeof *out);
}

void f16(const std::byte* block, float* out) {
    *out = half_at(block, 0);
}

void bf16(const std::byte* block, float* out) {
    *out = float_from_bf16(static_cast<std::uint16_t>(byte_at(block, 0) | byte_at(block, 1) << 8));
}

using Block = void (*)(const std::byte* block, float* out);

Block block_of(const base::GgufTensorType& type) {
    switch (type.number) {
        case 0:
            return f32;
        case 1:
            return f16;
        case 2:
            return q4_0;
        case 3:
            return q4_1;
        case 6:
            return q5_0;
        case 7:
            return q5_1;
        case 8:
            return q8_0;
        case 10:
            return q2_k;
        case 11:
            return q3_k;
        case 12:
            return q4_k;
        case 13:
            return q5_k;
        case 14:
            return q6_k;
        case 20:
            return iq4_nl;
        case 23:
            return iq4_xs;
        case 30:
            return bf16;
        default:
            return nullptr;
    }
}

}  // namespace

bool can_dequantize(const base::GgufTensorType& type) {
    return block_of(type) != nullptr;
}

void dequantize_row(const base::GgufTensorType& type, std::span<const std::byte> row, std::span<float> out) {
    const Block block = block_of(type);
    const std::size_t blocks = out.size() / type.block_elements;
    CHECK(block != nullptr, type.name);
    CHECK(out.size() == blocks * type.block_elements && row.size() == blocks * type.block_bytes,
          out.size() << " elements of " << type.name << " from " << row.size() << " bytes");
    for (std::size_t i = 0; i < blocks; ++i) {
        block(row.data() + i * type.block_bytes, out.data() + i * type.block_elements);
    }
}

}  // namespace engine
