#include "kv_cache/tile_kernels.h"

#include <cstring>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace kv_cache {
namespace {

constexpr std::size_t kLane = sizeof(std::uint32_t);
constexpr std::size_t kElement = sizeof(std::uint16_t);

void transpose_plain(const std::byte* source, std::size_t source_stride, std::byte* target, std::size_t target_stride,
                     std::size_t rows, std::size_t columns) {
    for (std::size_t column = 0; column < columns; ++column) {
        for (std::size_t row = 0; row < rows; ++row) {
            std::memcpy(target + (column * target_stride + row) * kLane,
                        source + (row * source_stride + column) * kLane, kLane);
        }
    }
}

void split_pairs_plain(const std::byte* pairs, std::byte* even, std::byte* odd, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(even + i * kElement, pairs + i * kLane, kElement);
        std::memcpy(odd + i * kElement, pairs + i * kLane + kElement, kElement);
    }
}

void join_pairs_plain(const std::byte* even, const std::byte* odd, std::byte* pairs, std::size_t count) {
    for (std::size_t i = 0; i < count; ++i) {
        std::memcpy(pairs + i * kLane, even + i * kElement, kElement);
        std::memcpy(pairs + i * kLane + kElement, odd + i * kElement, kElement);
    }
}

#if defined(__x86_64__)

__attribute__((target("avx2"))) inline __m256 load_lanes(const std::byte* source) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(source));
}
__attribute__((target("avx2"))) inline void store_lanes(std::byte* target, __m256 lanes) {
    _mm256_storeu_ps(reinterpret_cast<float*>(target), lanes);
}
__attribute__((target("avx2"))) inline __m256i load_elements(const std::byte* source) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
}
__attribute__((target("avx2"))) inline void store_elements(std::byte* target, __m256i elements) {
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target), elements);
}

/// One 8 x 8 square of lanes, strides in bytes. Only moves bits: no lane is treated as a number.
__attribute__((target("avx2"))) inline void transpose_square(const std::byte* source, std::size_t source_step,
                                                             std::byte* target, std::size_t target_step) {
    const __m256 r0 = load_lanes(source);
    const __m256 r1 = load_lanes(source + source_step);
    const __m256 r2 = load_lanes(source + 2 * source_step);
    const __m256 r3 = load_lanes(source + 3 * source_step);
    const __m256 r4 = load_lanes(source + 4 * source_step);
    const __m256 r5 = load_lanes(source + 5 * source_step);
    const __m256 r6 = load_lanes(source + 6 * source_step);
    const __m256 r7 = load_lanes(source + 7 * source_step);
    // Pairs of rows, then quadruples; the low 128 bits hold columns 0-3, the high ones 4-7.
    const __m256 p0 = _mm256_unpacklo_ps(r0, r1);
    const __m256 p1 = _mm256_unpackhi_ps(r0, r1);
    const __m256 p2 = _mm256_unpacklo_ps(r2, r3);
    const __m256 p3 = _mm256_unpackhi_ps(r2, r3);
    const __m256 p4 = _mm256_unpacklo_ps(r4, r5);
    const __m256 p5 = _mm256_unpackhi_ps(r4, r5);
    const __m256 p6 = _mm256_unpacklo_ps(r6, r7);
    const __m256 p7 = _mm256_unpackhi_ps(r6, r7);
    const __m256 q0 = _mm256_shuffle_ps(p0, p2, 0x44);
    const __m256 q1 = _mm256_shuffle_ps(p0, p2, 0xee);
    const __m256 q2 = _mm256_shuffle_ps(p1, p3, 0x44);
    const __m256 q3 = _mm256_shuffle_ps(p1, p3, 0xee);
    const __m256 q4 = _mm256_shuffle_ps(p4, p6, 0x44);
    const __m256 q5 = _mm256_shuffle_ps(p4, p6, 0xee);
    const __m256 q6 = _mm256_shuffle_ps(p5, p7, 0x44);
    const __m256 q7 = _mm256_shuffle_ps(p5, p7, 0xee);
    store_lanes(target, _mm256_permute2f128_ps(q0, q4, 0x20));
    store_lanes(target + target_step, _mm256_permute2f128_ps(q1, q5, 0x20));
    store_lanes(target + 2 * target_step, _mm256_permute2f128_ps(q2, q6, 0x20));
    store_lanes(target + 3 * target_step, _mm256_permute2f128_ps(q3, q7, 0x20));
    store_lanes(target + 4 * target_step, _mm256_permute2f128_ps(q0, q4, 0x31));
    store_lanes(target + 5 * target_step, _mm256_permute2f128_ps(q1, q5, 0x31));
    store_lanes(target + 6 * target_step, _mm256_permute2f128_ps(q2, q6, 0x31));
    store_lanes(target + 7 * target_step, _mm256_permute2f128_ps(q3, q7, 0x31));
}

__attribute__((target("avx2"))) void transpose_avx2(const std::byte* source, std::size_t source_stride,
                                                    std::byte* target, std::size_t target_stride, std::size_t rows,
                                                    std::size_t columns) {
    const std::size_t rows_square = rows / 8 * 8;
    const std::size_t columns_square = columns / 8 * 8;
    for (std::size_t row = 0; row < rows_square; row += 8) {
        for (std::size_t column = 0; column < columns_square; column += 8) {
            transpose_square(source + (row * source_stride + column) * kLane, source_stride * kLane,
                             target + (column * target_stride + row) * kLane, target_stride * kLane);
        }
    }
    // What does not fill a square: the columns on the right, then the rows at the bottom.
    transpose_plain(source + columns_square * kLane, source_stride, target + columns_square * target_stride * kLane,
                    target_stride, rows, columns - columns_square);
    transpose_plain(source + rows_square * source_stride * kLane, source_stride, target + rows_square * kLane,
                    target_stride, rows - rows_square, columns_square);
}

__attribute__((target("avx2"))) void split_pairs_avx2(const std::byte* pairs, std::byte* even, std::byte* odd,
                                                      std::size_t count) {
    const __m256i low_half = _mm256_set1_epi32(0xffff);
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m256i a = load_elements(pairs + i * kLane);
        const __m256i b = load_elements(pairs + (i + 8) * kLane);
        // packus works within 128 bits: the middle two quarters change places afterwards.
        const __m256i first = _mm256_packus_epi32(_mm256_and_si256(a, low_half), _mm256_and_si256(b, low_half));
        const __m256i second = _mm256_packus_epi32(_mm256_srli_epi32(a, 16), _mm256_srli_epi32(b, 16));
        store_elements(even + i * kElement, _mm256_permute4x64_epi64(first, 0xd8));
        store_elements(odd + i * kElement, _mm256_permute4x64_epi64(second, 0xd8));
    }
    split_pairs_plain(pairs + i * kLane, even + i * kElement, odd + i * kElement, count - i);
}

__attribute__((target("avx2"))) void join_pairs_avx2(const std::byte* even, const std::byte* odd, std::byte* pairs,
                                                     std::size_t count) {
    std::size_t i = 0;
    for (; i + 16 <= count; i += 16) {
        const __m256i first = load_elements(even + i * kElement);
        const __m256i second = load_elements(odd + i * kElement);
        const __m256i low = _mm256_unpacklo_epi16(first, second);
        const __m256i high = _mm256_unpackhi_epi16(first, second);
        store_elements(pairs + i * kLane, _mm256_permute2x128_si256(low, high, 0x20));
        store_elements(pairs + (i + 8) * kLane, _mm256_permute2x128_si256(low, high, 0x31));
    }
    join_pairs_plain(even + i * kElement, odd + i * kElement, pairs + i * kLane, count - i);
}

#endif

}  // namespace

const TileKernels& plain_tile_kernels() {
    static constexpr TileKernels kernels{transpose_plain, split_pairs_plain, join_pairs_plain};
    return kernels;
}

const TileKernels& tile_kernels() {
#if defined(__x86_64__)
    static constexpr TileKernels kernels_avx2{transpose_avx2, split_pairs_avx2, join_pairs_avx2};
    static const bool has_avx2 = __builtin_cpu_supports("avx2") != 0;
    if (has_avx2) { return kernels_avx2; }
#endif
    return plain_tile_kernels();
}

}  // namespace kv_cache
