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

// ---- encoding: states of 32 bits, half a row a vector

struct DivisionTable {
    __m512i packed_low, packed_high;
    __m512 reciprocal_low, reciprocal_high;
};

/// Half a row. The words that leave are written below `end`.
inline __m512i put(const DivisionTable& table, __m512i state, const std::uint8_t* symbols, std::byte*& end) {
    const __m512i symbol = _mm512_cvtepu8_epi32(_mm_loadu_si128(reinterpret_cast<const __m128i*>(symbols)));
    const __m512i packed = _mm512_permutex2var_epi32(table.packed_low, symbol, table.packed_high);
    const __m512 reciprocal = _mm512_permutex2var_ps(table.reciprocal_low, symbol, table.reciprocal_high);
    const __m512i frequency = _mm512_srli_epi32(packed, 16);
    const __m512i start = _mm512_and_si512(packed, _mm512_set1_epi32(0xffff));
    const __mmask16 leaves = _mm512_cmpge_epu32_mask(state, _mm512_slli_epi32(frequency, 32 - kRansBits));
    const __m256i words = _mm512_cvtepi32_epi16(_mm512_maskz_compress_epi32(leaves, state));
    const auto count = static_cast<unsigned>(_mm_popcnt_u32(leaves));
    end -= 2 * count;
    _mm256_mask_storeu_epi16(end, static_cast<__mmask16>((1u << count) - 1), words);
    const __m512i kept = _mm512_mask_srli_epi32(state, leaves, state, 16);
    __m512i quotient = _mm512_cvttps_epu32(_mm512_mul_ps(_mm512_cvtepu32_ps(kept), reciprocal));
    __m512i rest = _mm512_sub_epi32(kept, _mm512_mullo_epi32(quotient, frequency));
    const __mmask16 is_small = _mm512_cmpge_epu32_mask(rest, frequency);
    quotient = _mm512_mask_add_epi32(quotient, is_small, quotient, _mm512_set1_epi32(1));
    rest = _mm512_mask_sub_epi32(rest, is_small, rest, frequency);
    return _mm512_add_epi32(_mm512_slli_epi32(quotient, kRansBits), _mm512_add_epi32(rest, start));
}

std::byte* encode(const RansRows& rows, const std::uint8_t* symbols, std::byte* end) {
    DivisionTable table;
    table.packed_low = _mm512_loadu_si512(rows.table->packed);
    table.packed_high = _mm512_loadu_si512(rows.table->packed + 16);
    table.reciprocal_low = _mm512_loadu_ps(rows.table->reciprocal);
    table.reciprocal_high = _mm512_loadu_ps(rows.table->reciprocal + 16);
    for (std::size_t row = rows.rows; row-- > 0;) {
        std::uint32_t* states = rows.states + (row & (rows.groups - 1)) * kRansLanes;
        const std::uint8_t* from = symbols + row * kRansLanes;
        _mm512_storeu_si512(states + 16, put(table, _mm512_loadu_si512(states + 16), from + 16, end));
        _mm512_storeu_si512(states, put(table, _mm512_loadu_si512(states), from, end));
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
