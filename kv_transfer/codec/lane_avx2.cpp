// Compiled with the flags of this instruction set (lane_kernels.h): the common loops, and by hand what no compiler
// makes of them.
#include "kv_transfer/codec/lane_kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace kv_transfer {
namespace {
#include "kv_transfer/codec/lane_loops.inc"

inline __m256i load(const std::int16_t* from) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
}

void low_words_wide(const LaneRows& rows, const std::int16_t* numbers, std::uint32_t first_lane, std::uint32_t shift,
                    std::uint32_t* words) {
    if (rows.lanes != kLanes) { return low_words(rows, numbers, first_lane, shift, words); }
    for (std::size_t row = 0; row < rows.rows; ++row) {
        const __m256i low = load(numbers + row * rows.stride);
        const __m256i high = load(numbers + row * rows.stride + 16);
        for (std::uint32_t bit = 0; bit < shift; ++bit) {  // to the sign, which a saturating pack keeps
            const __m128i count = _mm_cvtsi32_si128(static_cast<int>(15 - bit));
            const __m256i signs = _mm256_packs_epi16(_mm256_sll_epi16(low, count), _mm256_sll_epi16(high, count));
            words[row * shift + bit] |=
                static_cast<std::uint32_t>(_mm256_movemask_epi8(_mm256_permute4x64_epi64(signs, 0xd8)));
        }
    }
}

void put_low_wide(const LaneRows& rows, const std::uint32_t* words, std::uint32_t first_lane, std::uint32_t shift,
                  std::int16_t* numbers) {
    if (rows.lanes != kLanes) { return put_low(rows, words, first_lane, shift, numbers); }
    const __m256i lane_bits = _mm256_setr_epi16(1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 2048, 4096, 8192, 16384,
                                                static_cast<short>(32768));
    const auto add = [&](std::int16_t* to, std::uint32_t word, std::uint32_t bit) {
        const __m256i own = _mm256_and_si256(_mm256_set1_epi16(static_cast<short>(word)), lane_bits);
        const __m256i set =
            _mm256_and_si256(_mm256_cmpeq_epi16(own, lane_bits), _mm256_set1_epi16(static_cast<short>(1 << bit)));
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(to), _mm256_or_si256(load(to), set));
    };
    for (std::size_t row = 0; row < rows.rows; ++row) {
        std::int16_t* to = numbers + row * rows.stride;
        for (std::uint32_t bit = 0; bit < shift; ++bit) {
            const std::uint32_t word = words[row * shift + bit];
            add(to, word & 0xffffu, bit);
            add(to + 16, word >> 16, bit);
        }
    }
}

constexpr LaneKernels kWideKernels = [] {
    LaneKernels kernels = kLaneKernels;
    kernels.low_words = low_words_wide;
    kernels.put_low = put_low_wide;
    return kernels;
}();
}  // namespace

const LaneKernels* avx2_lane_kernels() {
    return &kWideKernels;
}

}  // namespace kv_transfer
#else
namespace kv_transfer {
const LaneKernels* avx2_lane_kernels() {
    return nullptr;
}
}  // namespace kv_transfer
#endif
