#include "caching/semantic/dot.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace caching {

void dot_rows_avx2(const std::int8_t* a, const std::int8_t* matrix, std::size_t rows, std::size_t dimensions,
                   std::int32_t* out) {
#if defined(__AVX2__)
    for (std::size_t row = 0; row < rows; ++row) {
        const std::int8_t* b = matrix + row * dimensions;
        __m256i sums = _mm256_setzero_si256();
        std::size_t i = 0;
        for (; i + 16 <= dimensions; i += 16) {
            const __m256i left = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(a + i)));
            const __m256i right = _mm256_cvtepi8_epi16(_mm_loadu_si128(reinterpret_cast<const __m128i*>(b + i)));
            sums = _mm256_add_epi32(sums, _mm256_madd_epi16(left, right));
        }
        alignas(32) std::int32_t lanes[8];
        _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums);
        std::int32_t sum = 0;
        for (const std::int32_t lane : lanes) {
            sum += lane;
        }
        for (; i < dimensions; ++i) {
            sum += std::int32_t{a[i]} * b[i];
        }
        out[row] = sum;
    }
#else
    dot_rows_reference(a, matrix, rows, dimensions, out);
#endif
}

}  // namespace caching
