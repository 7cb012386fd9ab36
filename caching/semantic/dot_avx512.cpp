#include "caching/semantic/dot.h"

#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace caching {

void dot_rows_avx512(const std::int8_t* a, const std::int8_t* matrix, std::size_t rows, std::size_t dimensions,
                     std::int32_t* out) {
#if defined(__AVX512BW__)
    for (std::size_t row = 0; row < rows; ++row) {
        const std::int8_t* b = matrix + row * dimensions;
        __m512i sums = _mm512_setzero_si512();
        std::size_t i = 0;
        for (; i + 32 <= dimensions; i += 32) {
            const __m512i left = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(a + i)));
            const __m512i right = _mm512_cvtepi8_epi16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(b + i)));
            sums = _mm512_add_epi32(sums, _mm512_madd_epi16(left, right));
        }
        alignas(64) std::int32_t lanes[16];
        _mm512_store_si512(reinterpret_cast<__m512i*>(lanes), sums);
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
