// Compiled with AVX2 and POPCNT (rans_kernels.h).
#include "kv_transfer/codec/rans_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace kv_transfer {
namespace {

/// For each set of lanes that want a word: which of the next words each lane takes; and the inverse, for encoding:
/// which lanes' words leave, the last ones at the end.
struct Permutations {
    alignas(8) std::uint8_t expand[256][8];
    alignas(8) std::uint8_t compress[256][8];
};

constexpr Permutations make_permutations() {
    Permutations made{};
    for (unsigned set = 0; set < 256; ++set) {
        unsigned next = 0;
        unsigned count = 0;
        for (unsigned lane = 0; lane < 8; ++lane) {
            count += set >> lane & 1;
        }
        unsigned place = 8 - count;
        for (unsigned lane = 0; lane < 8; ++lane) {
            if ((set >> lane & 1) == 0) { continue; }
            made.expand[set][lane] = static_cast<std::uint8_t>(next++);
            made.compress[set][place++] = static_cast<std::uint8_t>(lane);
        }
    }
    return made;
}
constexpr Permutations kPermutations = make_permutations();

inline __m256i indices(const std::uint8_t* eight) {
    return _mm256_cvtepu8_epi32(_mm_loadl_epi64(reinterpret_cast<const __m128i*>(eight)));
}

inline __m256i load(const std::uint32_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

inline void store(std::uint32_t* to, __m256i value) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), value);
}

/// Eight lanes of a row. False when fewer words are left than they need.
inline bool take(const RansTable& table, std::uint32_t* states, const std::byte*& words, const std::byte* words_end,
                 std::uint8_t* symbols) {
    const __m256i state = load(states);
    const __m256i slot = _mm256_i32gather_epi32(reinterpret_cast<const int*>(table.slots),
                                                _mm256_and_si256(state, _mm256_set1_epi32(kRansSlots - 1)), 4);
    const __m256i frequency = _mm256_srli_epi32(slot, 17);
    const __m256i rest = _mm256_and_si256(_mm256_srli_epi32(slot, 5), _mm256_set1_epi32(kRansSlots - 1));
    const __m256i next = _mm256_add_epi32(_mm256_mullo_epi32(frequency, _mm256_srli_epi32(state, kRansBits)), rest);
    const __m256i needs = _mm256_cmpeq_epi32(_mm256_srli_epi32(next, 16), _mm256_setzero_si256());
    const auto set = static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(needs)));
    const auto wanted = 2 * static_cast<std::ptrdiff_t>(_mm_popcnt_u32(set));
    __m128i eight;
    if (words_end - words >= 16) {
        eight = _mm_loadu_si128(reinterpret_cast<const __m128i*>(words));
    } else {
        if (words_end - words < wanted) { return false; }
        alignas(16) std::byte last[16] = {};
        for (std::ptrdiff_t i = 0; i < words_end - words; ++i) {
            last[i] = words[i];
        }
        eight = _mm_load_si128(reinterpret_cast<const __m128i*>(last));
    }
    words += wanted;
    const __m256i given = _mm256_permutevar8x32_epi32(_mm256_cvtepu16_epi32(eight), indices(kPermutations.expand[set]));
    store(states, _mm256_blendv_epi8(next, _mm256_or_si256(_mm256_slli_epi32(next, 16), given), needs));
    // The low byte of each lane, to 8 bytes.
    const __m256i symbol = _mm256_and_si256(slot, _mm256_set1_epi32(31));
    const __m128i halves = _mm_packus_epi32(_mm256_castsi256_si128(symbol), _mm256_extracti128_si256(symbol, 1));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(symbols), _mm_packus_epi16(halves, halves));
    return true;
}

const std::byte* decode(const RansRows& rows, const std::byte* words, const std::byte* words_end,
                        std::uint8_t* symbols) {
    const RansTable& table = *rows.table;
    for (std::size_t row = 0; row < rows.rows; ++row) {
        std::uint32_t* states = rows.states + (row & (rows.groups - 1)) * kRansLanes;
        std::uint8_t* to = symbols + row * kRansLanes;
        for (unsigned lane = 0; lane < kRansLanes; lane += 8) {
            if (!take(table, states + lane, words, words_end, to + lane)) { return nullptr; }
        }
    }
    return words;
}

inline __m256 to_float(__m256i value) {  // of 32 bits without sign, rounded once or twice
    const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(value, 16));
    const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(value, _mm256_set1_epi32(0xffff)));
    return _mm256_add_ps(_mm256_mul_ps(high, _mm256_set1_ps(65536.0f)), low);
}

/// Eight lanes of a row. The words that leave are written below `end`.
inline void put(const RansTable& table, std::uint32_t* states, const std::uint8_t* symbols, std::byte*& end) {
    const __m256i symbol = indices(symbols);
    const __m256i packed = _mm256_i32gather_epi32(reinterpret_cast<const int*>(table.packed), symbol, 4);
    const __m256 reciprocal = _mm256_i32gather_ps(table.reciprocal, symbol, 4);
    const __m256i frequency = _mm256_srli_epi32(packed, 16);
    const __m256i start = _mm256_and_si256(packed, _mm256_set1_epi32(0xffff));
    const __m256i state = load(states);
    // state >= frequency << 20, as a comparison of what is above bit 20 (12 bits: signed is fine).
    const __m256i stays = _mm256_cmpgt_epi32(frequency, _mm256_srli_epi32(state, 32 - kRansBits));
    const auto set = ~static_cast<unsigned>(_mm256_movemask_ps(_mm256_castsi256_ps(stays))) & 0xff;
    const __m256i leaving = _mm256_permutevar8x32_epi32(_mm256_and_si256(state, _mm256_set1_epi32(0xffff)),
                                                        indices(kPermutations.compress[set]));
    const __m128i words = _mm_packus_epi32(_mm256_castsi256_si128(leaving), _mm256_extracti128_si256(leaving, 1));
    // All eight are written, those that leave at the end: below `end` there is room for the states at least.
    _mm_storeu_si128(reinterpret_cast<__m128i*>(end - 16), words);
    end -= 2 * _mm_popcnt_u32(set);
    const __m256i kept = _mm256_blendv_epi8(_mm256_srli_epi32(state, 16), state, stays);
    __m256i quotient = _mm256_cvttps_epi32(_mm256_mul_ps(to_float(kept), reciprocal));
    __m256i rest = _mm256_sub_epi32(kept, _mm256_mullo_epi32(quotient, frequency));
    const __m256i is_right = _mm256_cmpgt_epi32(frequency, rest);
    quotient = _mm256_add_epi32(quotient, _mm256_andnot_si256(is_right, _mm256_set1_epi32(1)));
    rest = _mm256_sub_epi32(rest, _mm256_andnot_si256(is_right, frequency));
    store(states, _mm256_add_epi32(_mm256_slli_epi32(quotient, kRansBits), _mm256_add_epi32(rest, start)));
}

std::byte* encode(const RansRows& rows, const std::uint8_t* symbols, std::byte* end) {
    const RansTable& table = *rows.table;
    for (std::size_t row = rows.rows; row-- > 0;) {
        std::uint32_t* states = rows.states + (row & (rows.groups - 1)) * kRansLanes;
        const std::uint8_t* from = symbols + row * kRansLanes;
        for (unsigned lane = kRansLanes; lane > 0; lane -= 8) {
            put(table, states + lane - 8, from + lane - 8, end);
        }
    }
    return end;
}

constexpr RansKernels kKernels{encode, decode};

}  // namespace

const RansKernels* rans_avx2() {
    return &kKernels;
}

}  // namespace kv_transfer
#else
namespace kv_transfer {
const RansKernels* rans_avx2() {
    return nullptr;
}
}  // namespace kv_transfer
#endif
