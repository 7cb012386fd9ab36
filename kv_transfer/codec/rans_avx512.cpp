// Compiled with AVX-512 F, BW, DQ, VL and VBMI2 (rans_kernels.h).
#include "kv_transfer/codec/rans_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace kv_transfer {
namespace {

// ---- decoding: states in halves of 16 bits, so that one vector has a whole row

/// A table in registers. The last symbol whose start is not above a slot is found by halves: 16, then 8, 4, 2, 1.
struct SearchTable {
    __m512i half16;                          // start[16] in every lane
    __m512i ahead8, ahead4, ahead2, ahead1;  // start[i + 8], ...
    __m512i start, frequency;
};

inline SearchTable load_table(const RansTable& table) {
    SearchTable search;
    search.half16 = _mm512_set1_epi16(static_cast<short>(table.start[16]));
    search.ahead8 = _mm512_loadu_si512(table.start + 8);
    search.ahead4 = _mm512_loadu_si512(table.start + 4);
    search.ahead2 = _mm512_loadu_si512(table.start + 2);
    search.ahead1 = _mm512_loadu_si512(table.start + 1);
    search.start = _mm512_loadu_si512(table.start);
    search.frequency = _mm512_loadu_si512(table.frequency);
    return search;
}

/// The states of one group.
struct Halves {
    __m512i low, high;
};

inline __m512i one_more(__m512i index, __m512i slot, __m512i ahead, short step) {
    const __mmask32 above = _mm512_cmpge_epu16_mask(slot, _mm512_permutexvar_epi16(index, ahead));
    return _mm512_mask_add_epi16(index, above, index, _mm512_set1_epi16(step));
}

/// One row but for the refill. The lanes that need a word.
inline __mmask32 step(const SearchTable& table, Halves& state, __m512i& symbol) {
    const __m512i slot = _mm512_and_si512(state.low, _mm512_set1_epi16(kRansSlots - 1));
    __m512i index = _mm512_maskz_mov_epi16(_mm512_cmpge_epu16_mask(slot, table.half16), _mm512_set1_epi16(16));
    index = one_more(index, slot, table.ahead8, 8);
    index = one_more(index, slot, table.ahead4, 4);
    index = one_more(index, slot, table.ahead2, 2);
    index = one_more(index, slot, table.ahead1, 1);
    symbol = index;
    const __m512i frequency = _mm512_permutexvar_epi16(index, table.frequency);
    const __m512i rest = _mm512_sub_epi16(slot, _mm512_permutexvar_epi16(index, table.start));
    // frequency * (state >> 12) + rest, in halves; below 2^32 whatever the bytes were.
    const __m512i quotient_low = _mm512_shrdi_epi16(state.low, state.high, kRansBits);
    const __m512i quotient_high = _mm512_srli_epi16(state.high, kRansBits);
    const __m512i product = _mm512_mullo_epi16(frequency, quotient_low);
    const __m512i carried =
        _mm512_add_epi16(_mm512_mulhi_epu16(frequency, quotient_low), _mm512_mullo_epi16(frequency, quotient_high));
    const __m512i low = _mm512_add_epi16(product, rest);
    const __mmask32 carry = _mm512_cmplt_epu16_mask(low, product);
    const __m512i high = _mm512_mask_add_epi16(carried, carry, carried, _mm512_set1_epi16(1));
    const __mmask32 needs = _mm512_testn_epi16_mask(high, high);
    state.high = _mm512_mask_mov_epi16(high, needs, low);
    state.low = low;
    return needs;
}

inline void store_symbols(std::uint8_t* out, __m512i symbol) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_cvtepi16_epi8(symbol));
}

inline void refill(Halves& state, __mmask32 needs, const std::byte*& words) {
    state.low = _mm512_mask_expand_epi16(state.low, needs, _mm512_loadu_si512(words));
    words += 2 * _mm_popcnt_u32(needs);
}

/// The same where fewer than a row's words may be left. False when there are too few.
inline bool refill_bounded(Halves& state, __mmask32 needs, const std::byte*& words, const std::byte* words_end) {
    const auto left = static_cast<std::size_t>(words_end - words) / 2;
    const auto wanted = static_cast<std::size_t>(_mm_popcnt_u32(needs));
    if (left < wanted) { return false; }
    const __mmask32 there = left >= 32 ? ~__mmask32{0} : (__mmask32{1} << left) - 1;
    state.low = _mm512_mask_expand_epi16(state.low, needs, _mm512_maskz_loadu_epi16(there, words));
    words += 2 * wanted;
    return true;
}

inline Halves load_state(const std::uint32_t* states) {
    const __m512i a = _mm512_loadu_si512(states);
    const __m512i b = _mm512_loadu_si512(states + 16);
    const __m256i low_a = _mm512_cvtepi32_epi16(a);
    const __m256i low_b = _mm512_cvtepi32_epi16(b);
    const __m256i high_a = _mm512_cvtepi32_epi16(_mm512_srli_epi32(a, 16));
    const __m256i high_b = _mm512_cvtepi32_epi16(_mm512_srli_epi32(b, 16));
    return {_mm512_inserti64x4(_mm512_castsi256_si512(low_a), low_b, 1),
            _mm512_inserti64x4(_mm512_castsi256_si512(high_a), high_b, 1)};
}

inline void store_state(std::uint32_t* states, const Halves& state) {
    const auto join = [](__m256i low, __m256i high) {
        return _mm512_or_si512(_mm512_cvtepu16_epi32(low), _mm512_slli_epi32(_mm512_cvtepu16_epi32(high), 16));
    };
    _mm512_storeu_si512(states, join(_mm512_castsi512_si256(state.low), _mm512_castsi512_si256(state.high)));
    _mm512_storeu_si512(states + 16,
                        join(_mm512_extracti64x4_epi64(state.low, 1), _mm512_extracti64x4_epi64(state.high, 1)));
}

/// As many rounds of `groups` rows as have enough words for the worst case. Rows done.
template <unsigned groups>
inline std::size_t decode_rounds(const SearchTable& table, std::size_t rows, Halves* states, const std::byte*& words,
                                 const std::byte* words_end, std::uint8_t* symbols) {
    Halves own[groups];
    for (unsigned group = 0; group < groups; ++group) {
        own[group] = states[group];
    }
    std::size_t row = 0;
    for (; row + groups <= rows && words_end - words >= static_cast<std::ptrdiff_t>(2 * groups * kRansLanes);
         row += groups) {
        __m512i symbol[groups];
        __mmask32 needs[groups];
#pragma GCC unroll 4
        for (unsigned group = 0; group < groups; ++group) {
            needs[group] = step(table, own[group], symbol[group]);
        }
#pragma GCC unroll 4
        for (unsigned group = 0; group < groups; ++group) {
            refill(own[group], needs[group], words);
            store_symbols(symbols + (row + group) * kRansLanes, symbol[group]);
        }
    }
    for (unsigned group = 0; group < groups; ++group) {
        states[group] = own[group];
    }
    return row;
}

const std::byte* decode(const RansRows& rows, const std::byte* words, const std::byte* words_end,
                        std::uint8_t* symbols) {
    const SearchTable table = load_table(*rows.table);
    Halves states[kRansGroupsMax];
    for (unsigned group = 0; group < rows.groups; ++group) {
        states[group] = load_state(rows.states + group * kRansLanes);
    }
    std::size_t row = 0;
    switch (rows.groups) {
        case 4:
            row = decode_rounds<4>(table, rows.rows, states, words, words_end, symbols);
            break;
        case 2:
            row = decode_rounds<2>(table, rows.rows, states, words, words_end, symbols);
            break;
        default:
            row = decode_rounds<1>(table, rows.rows, states, words, words_end, symbols);
            break;
    }
    for (; row < rows.rows; ++row) {
        Halves& state = states[row % rows.groups];
        __m512i symbol;
        const __mmask32 needs = step(table, state, symbol);
        if (!refill_bounded(state, needs, words, words_end)) { return nullptr; }
        store_symbols(symbols + row * kRansLanes, symbol);
    }
    for (unsigned group = 0; group < rows.groups; ++group) {
        store_state(rows.states + group * kRansLanes, states[group]);
    }
    return words;
}

// ---- encoding: states in halves, too; divided as floats, even and odd lanes by themselves

struct DivisionTable {
    __m512i frequency, start;  // of 16 bits
    __m512 reciprocal_low, reciprocal_high;
};

constexpr __mmask32 kOddLanes = 0xaaaaaaaau;

/// The state over the frequency, cut: right or 1 too small. Even lanes of 16 bits have the value, odd ones what is
/// above 16 bits of it.
inline __m512i divided(__m512i state, __m512 reciprocal) {
    return _mm512_cvttps_epu32(_mm512_mul_ps(_mm512_cvtepu32_ps(state), reciprocal));
}

/// One row. The words that leave are written below `end`.
inline void put(const DivisionTable& table, Halves& state, const std::uint8_t* symbols, std::byte*& end) {
    const __m512i symbol = _mm512_cvtepu8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(symbols)));
    const __m512i frequency = _mm512_permutexvar_epi16(symbol, table.frequency);
    const __m512i start = _mm512_permutexvar_epi16(symbol, table.start);
    // state >= frequency << 20; a frequency is below 2^12, for all 32 have one.
    const __mmask32 leaves = _mm512_cmpge_epu16_mask(state.high, _mm512_slli_epi16(frequency, 32 - kRansBits - 16));
    const auto count = static_cast<unsigned>(_mm_popcnt_u32(leaves));
    end -= 2 * count;
    _mm512_mask_storeu_epi16(end, static_cast<__mmask32>((std::uint64_t{1} << count) - 1),
                             _mm512_maskz_compress_epi16(leaves, state.low));
    const __m512i low = _mm512_mask_mov_epi16(state.low, leaves, state.high);
    const __m512i high = _mm512_maskz_mov_epi16(~leaves, state.high);
    // An index of 32 bits counts by its lowest five: those of the even lane's symbol.
    const __m512i even = _mm512_mask_blend_epi16(kOddLanes, low, _mm512_slli_epi32(high, 16));
    const __m512i odd = _mm512_mask_blend_epi16(kOddLanes, _mm512_srli_epi32(low, 16), high);
    const __m512i odd_symbol = _mm512_srli_epi32(symbol, 16);
    const __m512i quotient_even =
        divided(even, _mm512_permutex2var_ps(table.reciprocal_low, symbol, table.reciprocal_high));
    const __m512i quotient_odd =
        divided(odd, _mm512_permutex2var_ps(table.reciprocal_low, odd_symbol, table.reciprocal_high));
    const __m512i quotient_low = _mm512_mask_blend_epi16(kOddLanes, quotient_even, _mm512_slli_epi32(quotient_odd, 16));
    const __m512i quotient_high =
        _mm512_mask_blend_epi16(kOddLanes, _mm512_srli_epi32(quotient_even, 16), quotient_odd);
    // What is left is below twice the frequency, so its low half is all of it. One more of the quotient adds 2^12.
    const __m512i rest = _mm512_sub_epi16(low, _mm512_mullo_epi16(quotient_low, frequency));
    const __mmask32 is_small = _mm512_cmpge_epu16_mask(rest, frequency);
    __m512i add = _mm512_add_epi16(rest, start);
    add = _mm512_mask_add_epi16(add, is_small, add, _mm512_sub_epi16(_mm512_set1_epi16(kRansSlots), frequency));
    state.low = _mm512_add_epi16(_mm512_slli_epi16(quotient_low, kRansBits), add);
    const __mmask32 carry = _mm512_cmplt_epu16_mask(state.low, add);
    const __m512i shifted = _mm512_shldi_epi16(quotient_high, quotient_low, kRansBits);
    state.high = _mm512_mask_add_epi16(shifted, carry, shifted, _mm512_set1_epi16(1));
}

/// Rows [0, rows), from the last to the first; `rows` a multiple of `groups`.
template <unsigned groups>
inline std::byte* encode_rounds(const DivisionTable& table, std::size_t rows, Halves* states,
                                const std::uint8_t* symbols, std::byte* end) {
    Halves own[groups];
    for (unsigned group = 0; group < groups; ++group) {
        own[group] = states[group];
    }
    for (std::size_t row = rows; row > 0; row -= groups) {
#pragma GCC unroll 4
        for (unsigned i = 1; i <= groups; ++i) {
            put(table, own[groups - i], symbols + (row - i) * kRansLanes, end);
        }
    }
    for (unsigned group = 0; group < groups; ++group) {
        states[group] = own[group];
    }
    return end;
}

std::byte* encode(const RansRows& rows, const std::uint8_t* symbols, std::byte* end) {
    const DivisionTable table{_mm512_loadu_si512(rows.table->frequency), _mm512_loadu_si512(rows.table->start),
                              _mm512_loadu_ps(rows.table->reciprocal), _mm512_loadu_ps(rows.table->reciprocal + 16)};
    Halves states[kRansGroupsMax];
    for (unsigned group = 0; group < rows.groups; ++group) {
        states[group] = load_state(rows.states + group * kRansLanes);
    }
    std::size_t row = rows.rows;
    for (; row % rows.groups != 0; --row) {
        put(table, states[(row - 1) % rows.groups], symbols + (row - 1) * kRansLanes, end);
    }
    switch (rows.groups) {
        case 4:
            end = encode_rounds<4>(table, row, states, symbols, end);
            break;
        case 2:
            end = encode_rounds<2>(table, row, states, symbols, end);
            break;
        default:
            end = encode_rounds<1>(table, row, states, symbols, end);
            break;
    }
    for (unsigned group = 0; group < rows.groups; ++group) {
        store_state(rows.states + group * kRansLanes, states[group]);
    }
    return end;
}

constexpr RansKernels kKernels{encode, decode};

}  // namespace

const RansKernels* rans_avx512() {
    return &kKernels;
}

}  // namespace kv_transfer
#else
namespace kv_transfer {
const RansKernels* rans_avx512() {
    return nullptr;
}
}  // namespace kv_transfer
#endif
