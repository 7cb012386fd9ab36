// Compiled with the flags of this instruction set (lane_kernels.h): the common loops, and by hand those of them that a
// chunk of BF16 spends its time in.
#include "kv_transfer/codec/lane_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace kv_transfer {
namespace {
#include "kv_transfer/codec/lane_loops.inc"

inline __mmask32 mask_of(std::uint32_t lanes) {
    return lanes >= 32 ? ~__mmask32{0} : (__mmask32{1} << lanes) - 1;
}

/// 16 values of bf16.
inline __m512 load_values(const std::uint16_t* from) {
    const __m256i halves = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
    return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(halves), 16));
}

/// Two vectors whose 128-bit lanes a pack instruction took in turns, one behind the other.
inline __m512i in_order(__m512i packed) {
    return _mm512_permutexvar_epi64(_mm512_set_epi64(7, 5, 3, 1, 6, 4, 2, 0), packed);
}

/// whole() of lane_loops.inc: NaN becomes the second operand.
inline __m512i wholes(__m512 value) {
    value = _mm512_min_ps(_mm512_max_ps(value, _mm512_set1_ps(-32767.0f)), _mm512_set1_ps(32767.0f));
    return _mm512_cvtps_epi32(value);
}

struct Pair {
    __m512 low, high;
};

/// Of head_dim a multiple of 64.
template <bool is_rotated, bool has_row_scale>
void quantise_rows(const HeadRows& head, const std::uint16_t* values, std::int16_t* numbers) {
    const std::uint32_t half = head.head_dim / 2;
    for (std::size_t row = 0; row < head.rows; ++row) {
        const std::uint16_t* from = values + row * head.head_dim;
        std::int16_t* to = numbers + row * head.head_dim;
        const __m512 row_scale = _mm512_set1_ps(has_row_scale ? head.row_scale[row] : 1.0f);
        const auto number_of = [&](__m512 value, std::uint32_t i) {
            __m512 scale = _mm512_loadu_ps(head.channel_scale + i);
            if constexpr (has_row_scale) { scale = _mm512_mul_ps(scale, row_scale); }
            return wholes(_mm512_mul_ps(_mm512_sub_ps(value, _mm512_loadu_ps(head.mean + i)), scale));
        };
        const auto unrotated = [&](std::uint32_t i) {
            const __m512 a = load_values(from + i);
            const __m512 b = load_values(from + half + i);
            if constexpr (!is_rotated) { return Pair{a, b}; }
            const __m512 cosine = _mm512_loadu_ps(head.cosines + row * half + i);
            const __m512 sine = _mm512_loadu_ps(head.sines + row * half + i);
            return Pair{_mm512_add_ps(_mm512_mul_ps(a, cosine), _mm512_mul_ps(b, sine)),
                        _mm512_sub_ps(_mm512_mul_ps(b, cosine), _mm512_mul_ps(a, sine))};
        };
        for (std::uint32_t i = 0; i < half; i += 32) {
            const Pair first = unrotated(i);
            const Pair second = unrotated(i + 16);
            _mm512_storeu_si512(to + i,
                                in_order(_mm512_packs_epi32(number_of(first.low, i), number_of(second.low, i + 16))));
            _mm512_storeu_si512(to + half + i, in_order(_mm512_packs_epi32(number_of(first.high, half + i),
                                                                           number_of(second.high, half + i + 16))));
        }
    }
}

void quantise_wide(const HeadRows& head, const void* values, std::int16_t* numbers) {
    if (!head.is_bf16 || head.head_dim % 64 != 0) { return quantise(head, values, numbers); }
    const auto* from = static_cast<const std::uint16_t*>(values);
    if (head.cosines != nullptr) {
        return head.row_scale != nullptr ? quantise_rows<true, true>(head, from, numbers)
                                         : quantise_rows<true, false>(head, from, numbers);
    }
    return head.row_scale != nullptr ? quantise_rows<false, true>(head, from, numbers)
                                     : quantise_rows<false, false>(head, from, numbers);
}

/// put_value() of lane_loops.inc, as 16 bits in each lane of 32.
inline __m512i halves_of(__m512 value) {
    const __m512i bits = _mm512_castps_si512(value);
    const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
    return _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(bits, _mm512_set1_epi32(0x7fff)), odd), 16);
}

/// Of head_dim a multiple of 64.
template <bool is_rotated, bool has_row_scale>
void restore_rows(const HeadRows& head, const std::int16_t* numbers, std::uint16_t* values) {
    const std::uint32_t half = head.head_dim / 2;
    for (std::size_t row = 0; row < head.rows; ++row) {
        const std::int16_t* from = numbers + row * head.head_dim;
        std::uint16_t* to = values + row * head.head_dim;
        const __m512 row_scale = _mm512_set1_ps(has_row_scale ? head.row_scale[row] : 1.0f);
        const auto value_at = [&](std::uint32_t i) {
            const __m256i sixteen = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from + i));
            __m512 scale = _mm512_loadu_ps(head.channel_scale + i);
            if constexpr (has_row_scale) { scale = _mm512_mul_ps(scale, row_scale); }
            return _mm512_add_ps(_mm512_mul_ps(_mm512_cvtepi32_ps(_mm512_cvtepi16_epi32(sixteen)), scale),
                                 _mm512_loadu_ps(head.mean + i));
        };
        const auto rotated = [&](std::uint32_t i) {
            const __m512 a = value_at(i);
            const __m512 b = value_at(half + i);
            if constexpr (!is_rotated) { return Pair{a, b}; }
            const __m512 cosine = _mm512_loadu_ps(head.cosines + row * half + i);
            const __m512 sine = _mm512_loadu_ps(head.sines + row * half + i);
            return Pair{_mm512_sub_ps(_mm512_mul_ps(a, cosine), _mm512_mul_ps(b, sine)),
                        _mm512_add_ps(_mm512_mul_ps(b, cosine), _mm512_mul_ps(a, sine))};
        };
        for (std::uint32_t i = 0; i < half; i += 32) {
            const Pair first = rotated(i);
            const Pair second = rotated(i + 16);
            _mm512_storeu_si512(to + i, in_order(_mm512_packus_epi32(halves_of(first.low), halves_of(second.low))));
            _mm512_storeu_si512(to + half + i,
                                in_order(_mm512_packus_epi32(halves_of(first.high), halves_of(second.high))));
        }
    }
}

void restore_wide(const HeadRows& head, const std::int16_t* numbers, void* values) {
    if (!head.is_bf16 || head.head_dim % 64 != 0) { return restore(head, numbers, values); }
    auto* to = static_cast<std::uint16_t*>(values);
    if (head.cosines != nullptr) {
        return head.row_scale != nullptr ? restore_rows<true, true>(head, numbers, to)
                                         : restore_rows<true, false>(head, numbers, to);
    }
    return head.row_scale != nullptr ? restore_rows<false, true>(head, numbers, to)
                                     : restore_rows<false, false>(head, numbers, to);
}

bool to_symbols_wide(const LaneRows& rows, const std::int16_t* numbers, std::uint32_t shift, std::uint8_t* symbols) {
    const __m128i count = _mm_cvtsi32_si128(static_cast<int>(shift));
    const __mmask32 lanes = mask_of(rows.lanes);
    __m512i most = _mm512_setzero_si512();
    const auto symbols_of = [&](std::size_t row) {
        const __m512i number = _mm512_maskz_loadu_epi16(lanes, numbers + row * rows.stride);
        const __m512i symbol = _mm512_add_epi16(_mm512_sra_epi16(number, count), _mm512_set1_epi16(kSymbolZero));
        const __m512i bounded = _mm512_min_epu16(symbol, _mm512_set1_epi16(kEscape));
        most = _mm512_max_epu16(most, bounded);
        return bounded;
    };
    std::size_t row = 0;
    if (rows.lanes == kLanes) {
        for (; row + 2 <= rows.rows; row += 2) {
            const __m512i first = symbols_of(row);
            _mm512_storeu_si512(symbols + row * kLanes, in_order(_mm512_packus_epi16(first, symbols_of(row + 1))));
        }
    }
    for (; row < rows.rows; ++row) {
        _mm256_mask_storeu_epi8(symbols + row * kLanes, lanes, _mm512_cvtepi16_epi8(symbols_of(row)));
    }
    return (_mm512_cmpeq_epi16_mask(most, _mm512_set1_epi16(kEscape)) & lanes) != 0;
}

void to_numbers_wide(const LaneRows& rows, const std::uint8_t* symbols, std::uint32_t shift, std::int16_t* numbers) {
    const __m128i count = _mm_cvtsi32_si128(static_cast<int>(shift));
    const __mmask32 lanes = mask_of(rows.lanes);
    for (std::size_t row = 0; row < rows.rows; ++row) {
        const __m512i symbol = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(lanes, symbols + row * kLanes));
        const __m512i number = _mm512_sll_epi16(_mm512_sub_epi16(symbol, _mm512_set1_epi16(kSymbolZero)), count);
        _mm512_mask_storeu_epi16(numbers + row * rows.stride, lanes, number);
    }
}

template <std::uint32_t shift>
void low_words_of_rows(const LaneRows& rows, const std::int16_t* numbers, std::uint32_t first_lane,
                       std::uint32_t* words) {
    const __mmask32 lanes = mask_of(rows.lanes);
    for (std::size_t row = 0; row < rows.rows; ++row) {
        const __m512i number = _mm512_maskz_loadu_epi16(lanes, numbers + row * rows.stride);
#pragma GCC unroll 3
        for (std::uint32_t bit = 0; bit < shift; ++bit) {
            const __mmask32 set = _mm512_test_epi16_mask(number, _mm512_set1_epi16(static_cast<short>(1 << bit)));
            words[row * shift + bit] |= set << first_lane;
        }
    }
}

void low_words_wide(const LaneRows& rows, const std::int16_t* numbers, std::uint32_t first_lane, std::uint32_t shift,
                    std::uint32_t* words) {
    switch (shift) {
        case 1:
            return low_words_of_rows<1>(rows, numbers, first_lane, words);
        case 2:
            return low_words_of_rows<2>(rows, numbers, first_lane, words);
        case 3:
            return low_words_of_rows<3>(rows, numbers, first_lane, words);
        default:
            return low_words(rows, numbers, first_lane, shift, words);
    }
}

std::size_t find_escapes_wide(const std::uint8_t* symbols, std::size_t count, std::uint32_t* positions) {
    std::size_t found = 0;
    for (std::size_t at = 0; at < count; at += 64) {
        const std::size_t left = count - at;
        const __mmask64 there = left >= 64 ? ~__mmask64{0} : (__mmask64{1} << left) - 1;
        const __m512i some = _mm512_maskz_loadu_epi8(there, symbols + at);
        for (__mmask64 set = _mm512_cmpeq_epi8_mask(some, _mm512_set1_epi8(kEscape)); set != 0; set &= set - 1) {
            positions[found++] = static_cast<std::uint32_t>(at + static_cast<unsigned>(__builtin_ctzll(set)));
        }
    }
    return found;
}

void put_low_wide(const LaneRows& rows, const std::uint32_t* words, std::uint32_t first_lane, std::uint32_t shift,
                  std::int16_t* numbers) {
    const __mmask32 lanes = mask_of(rows.lanes);
    for (std::size_t row = 0; row < rows.rows; ++row) {
        std::int16_t* to = numbers + row * rows.stride;
        __m512i number = _mm512_maskz_loadu_epi16(lanes, to);
        for (std::uint32_t bit = 0; bit < shift; ++bit) {
            const __mmask32 set = words[row * shift + bit] >> first_lane;
            number = _mm512_or_si512(number, _mm512_maskz_set1_epi16(set, static_cast<short>(1 << bit)));
        }
        _mm512_mask_storeu_epi16(to, lanes, number);
    }
}

std::uint64_t magnitudes_wide(const LaneRows& rows, const std::int16_t* numbers) {
    constexpr std::size_t kRowsOfSum = 1u << 15;  // 2^15 * 2 * 2^15 fits 32 bits
    const __mmask32 lanes = mask_of(rows.lanes);
    std::uint64_t sum = 0;
    for (std::size_t row = 0; row < rows.rows;) {
        const std::size_t end = row + kRowsOfSum < rows.rows ? row + kRowsOfSum : rows.rows;
        __m512i sums = _mm512_setzero_si512();
        for (; row < end; ++row) {
            const __m512i magnitude = _mm512_abs_epi16(_mm512_maskz_loadu_epi16(lanes, numbers + row * rows.stride));
            sums = _mm512_add_epi32(sums, _mm512_and_si512(magnitude, _mm512_set1_epi32(0xffff)));
            sums = _mm512_add_epi32(sums, _mm512_srli_epi32(magnitude, 16));
        }
        const __m512i low = _mm512_cvtepu32_epi64(_mm512_castsi512_si256(sums));
        const __m512i high = _mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(sums, 1));
        sum += static_cast<std::uint64_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(low, high)));
    }
    return sum;
}

float largest_wide(const void* values, std::size_t count, bool is_bf16) {
    if (!is_bf16) { return largest(values, count, is_bf16); }
    const auto* from = static_cast<const std::uint16_t*>(values);
    const __m512i infinity = _mm512_set1_epi16(0x7f80);
    __m512i tops = _mm512_setzero_si512();
    for (std::size_t at = 0; at < count; at += 32) {
        const __mmask32 there = mask_of(static_cast<std::uint32_t>(count - at < 32 ? count - at : 32));
        const __m512i bits = _mm512_maskz_loadu_epi16(there, from + at);
        const __m512i magnitude = _mm512_and_si512(bits, _mm512_set1_epi16(0x7fff));
        tops = _mm512_mask_max_epu16(tops, _mm512_cmplt_epu16_mask(magnitude, infinity), tops, magnitude);
    }
    const __m256i half = _mm256_max_epu16(_mm512_castsi512_si256(tops), _mm512_extracti64x4_epi64(tops, 1));
    const __m128i quarter = _mm_max_epu16(_mm256_castsi256_si128(half), _mm256_extracti128_si256(half, 1));
    // The least of the complements.
    const __m128i least = _mm_minpos_epu16(_mm_xor_si128(quarter, _mm_set1_epi16(-1)));
    return value_of(static_cast<std::uint16_t>(~_mm_cvtsi128_si32(least)));
}

void top_exponents_wide(const LaneRows& rows, const void* values, bool is_bf16, std::uint8_t* tops) {
    if (!is_bf16) { return top_exponents(rows, values, is_bf16, tops); }
    const auto* from = static_cast<const std::uint16_t*>(values);
    const __mmask32 lanes = mask_of(rows.lanes);
    const __m512i infinity = _mm512_set1_epi16(0xff);
    __m512i top = _mm512_setzero_si512();
    for (std::size_t row = 0; row < rows.rows; ++row) {
        const __m512i value = _mm512_maskz_loadu_epi16(lanes, from + row * rows.stride);
        const __m512i exponent = _mm512_and_si512(_mm512_srli_epi16(value, 7), infinity);
        top = _mm512_mask_max_epu16(top, _mm512_cmpneq_epi16_mask(exponent, infinity), top, exponent);
    }
    _mm256_mask_storeu_epi8(tops, lanes, _mm512_cvtepi16_epi8(top));
}

void split_wide(const LaneRows& rows, const void* values, bool is_bf16, const std::uint8_t* tops, std::uint8_t* symbols,
                std::uint8_t* rest, std::size_t plane) {
    if (!is_bf16) { return split(rows, values, is_bf16, tops, symbols, rest, plane); }
    const auto* from = static_cast<const std::uint16_t*>(values);
    const __mmask32 lanes = mask_of(rows.lanes);
    const __m256i top = _mm256_maskz_loadu_epi8(lanes, tops);
    for (std::size_t row = 0; row < rows.rows; ++row) {
        const std::size_t at = row * rows.stride;
        const __m512i value = _mm512_maskz_loadu_epi16(lanes, from + at);
        const __m256i exponent = _mm512_cvtepi16_epi8(_mm512_srli_epi16(value, 7));
        const __m256i below = _mm256_min_epu8(_mm256_sub_epi8(top, exponent), _mm256_set1_epi8(kEscape));
        _mm256_mask_storeu_epi8(symbols + row * kLanes, lanes, below);
        // The sign from the byte above, the mantissa from this one.
        const __m512i both =
            _mm512_ternarylogic_epi32(_mm512_set1_epi16(0x80), _mm512_srli_epi16(value, 8), value, 0xca);
        _mm256_mask_storeu_epi8(rest + at, lanes, _mm512_cvtepi16_epi8(both));
    }
}

void join_wide(const LaneRows& rows, const std::uint8_t* symbols, const std::uint8_t* rest, std::size_t plane,
               const std::uint8_t* tops, bool is_bf16, void* values) {
    if (!is_bf16) { return join(rows, symbols, rest, plane, tops, is_bf16, values); }
    auto* to = static_cast<std::uint16_t*>(values);
    const __mmask32 lanes = mask_of(rows.lanes);
    const __m256i top = _mm256_maskz_loadu_epi8(lanes, tops);
    for (std::size_t row = 0; row < rows.rows; ++row) {
        const std::size_t at = row * rows.stride;
        const __m256i symbol = _mm256_maskz_loadu_epi8(lanes, symbols + row * kLanes);
        const __m512i exponent = _mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm256_sub_epi8(top, symbol)), 7);
        const __m512i both = _mm512_cvtepu8_epi16(_mm256_maskz_loadu_epi8(lanes, rest + at));
        const __m512i sign =
            _mm512_and_si512(_mm512_slli_epi16(both, 8), _mm512_set1_epi16(static_cast<short>(0x8000)));
        const __m512i mantissa = _mm512_and_si512(both, _mm512_set1_epi16(0x7f));
        _mm512_mask_storeu_epi16(to + at, lanes, _mm512_or_si512(_mm512_or_si512(sign, exponent), mantissa));
    }
}

/// By comparing all with each symbol.
void count_wide(const std::uint8_t* symbols, std::size_t rows, std::size_t step, std::uint32_t* counts) {
    constexpr std::uint32_t kPairs = 8;  // of rows at once
    for (std::uint32_t symbol = 0; symbol < 32; ++symbol) {
        counts[symbol] = 0;
    }
    const auto row_of = [&](std::size_t row) {
        return row < rows ? _mm256_loadu_si256(reinterpret_cast<const __m256i*>(symbols + row * step * kLanes))
                          : _mm256_set1_epi8(-1);  // no symbol
    };
    for (std::size_t row = 0; row < rows; row += std::size_t{2} * kPairs) {
        __m512i pairs[kPairs];
        for (std::uint32_t i = 0; i < kPairs; ++i) {
            const std::size_t first = row + std::size_t{2} * i;
            pairs[i] = _mm512_inserti64x4(_mm512_castsi256_si512(row_of(first)), row_of(first + 1), 1);
        }
        for (std::uint32_t symbol = 0; symbol < 32; ++symbol) {
            const __m512i wanted = _mm512_set1_epi8(static_cast<char>(symbol));
            std::uint32_t found = 0;
            for (const __m512i& pair : pairs) {
                found += static_cast<std::uint32_t>(_mm_popcnt_u64(_mm512_cmpeq_epi8_mask(pair, wanted)));
            }
            counts[symbol] += found;
        }
    }
}

constexpr LaneKernels kWideKernels = [] {
    LaneKernels kernels = kLaneKernels;
    kernels.top_exponents = top_exponents_wide;
    kernels.split = split_wide;
    kernels.join = join_wide;
    kernels.quantise = quantise_wide;
    kernels.restore = restore_wide;
    kernels.to_symbols = to_symbols_wide;
    kernels.to_numbers = to_numbers_wide;
    kernels.low_words = low_words_wide;
    kernels.put_low = put_low_wide;
    kernels.magnitudes = magnitudes_wide;
    kernels.largest = largest_wide;
    kernels.find_escapes = find_escapes_wide;
    kernels.count = count_wide;
    return kernels;
}();
}  // namespace

const LaneKernels* avx512_lane_kernels() {
    return &kWideKernels;
}

}  // namespace kv_transfer
#else
namespace kv_transfer {
const LaneKernels* avx512_lane_kernels() {
    return nullptr;
}
}  // namespace kv_transfer
#endif
