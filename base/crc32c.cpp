#include "base/crc32c.h"

#include <array>
#include <cstring>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace base {
namespace {

constexpr std::uint32_t kPolynomial = 0x82f63b78;  // reflected

constexpr std::array<std::uint32_t, 256> make_table() {
    std::array<std::uint32_t, 256> table{};
    for (std::uint32_t i = 0; i < 256; ++i) {
        std::uint32_t value = i;
        for (int bit = 0; bit < 8; ++bit) {
            value = (value >> 1) ^ ((value & 1) != 0 ? kPolynomial : 0);
        }
        table[i] = value;
    }
    return table;
}
constexpr auto kTable = make_table();

std::uint32_t update_table(std::uint32_t state, const std::byte* data, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
        state = kTable[(state ^ std::to_integer<std::uint32_t>(data[i])) & 0xff] ^ (state >> 8);
    }
    return state;
}

#if defined(__x86_64__)

// Three independent streams hide the latency of the instruction (3 cycles, one a cycle). Their results are joined by
// multiplying with x^(8*kStride) modulo the polynomial: appending zero bytes to a message is linear in its state.
constexpr std::size_t kStride = 1024;  // bytes of one stream in one round

using ShiftTable = std::array<std::array<std::uint32_t, 256>, 4>;

constexpr std::uint32_t append_zeros(std::uint32_t state, std::size_t bytes) {
    for (std::size_t i = 0; i < bytes; ++i) {
        state = kTable[state & 0xff] ^ (state >> 8);
    }
    return state;
}

ShiftTable make_shift(std::size_t bytes) {
    ShiftTable shift{};
    for (std::uint32_t position = 0; position < 4; ++position) {
        for (std::uint32_t value = 0; value < 256; ++value) {
            shift[position][value] = append_zeros(value << (8 * position), bytes);
        }
    }
    return shift;
}

std::uint32_t apply(const ShiftTable& shift, std::uint32_t state) {
    return shift[0][state & 0xff] ^ shift[1][(state >> 8) & 0xff] ^ shift[2][(state >> 16) & 0xff] ^
           shift[3][state >> 24];
}

__attribute__((target("sse4.2"))) std::uint64_t step(std::uint64_t state, const std::byte* data) {
    std::uint64_t word;
    std::memcpy(&word, data, sizeof word);
    return _mm_crc32_u64(state, word);
}

__attribute__((target("sse4.2"))) std::uint32_t update_hardware(std::uint32_t state, const std::byte* data,
                                                                std::size_t bytes) {
    static const ShiftTable one = make_shift(kStride);
    static const ShiftTable two = make_shift(2 * kStride);
    while (bytes >= 3 * kStride) {
        std::uint64_t a = state;
        std::uint64_t b = 0;
        std::uint64_t c = 0;
        for (std::size_t i = 0; i < kStride; i += 8) {
            a = step(a, data + i);
            b = step(b, data + kStride + i);
            c = step(c, data + 2 * kStride + i);
        }
        state = apply(two, static_cast<std::uint32_t>(a)) ^ apply(one, static_cast<std::uint32_t>(b)) ^
                static_cast<std::uint32_t>(c);
        data += 3 * kStride;
        bytes -= 3 * kStride;
    }
    std::uint64_t wide = state;
    for (; bytes >= 8; bytes -= 8, data += 8) {
        wide = step(wide, data);
    }
    state = static_cast<std::uint32_t>(wide);
    for (; bytes > 0; --bytes, ++data) {
        state = _mm_crc32_u8(state, std::to_integer<std::uint8_t>(*data));
    }
    return state;
}

#endif

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> data, std::uint32_t previous) {
    const std::uint32_t state = ~previous;
#if defined(__x86_64__)
    static const bool has_instruction = __builtin_cpu_supports("sse4.2") != 0;
    if (has_instruction) { return ~update_hardware(state, data.data(), data.size()); }
#endif
    return ~update_table(state, data.data(), data.size());
}

}  // namespace base
