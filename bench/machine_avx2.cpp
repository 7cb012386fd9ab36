// Compiled with AVX2 and FMA (machine_loops.h).
#include "bench/machine_loops.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace bench {
namespace {

float sum_of(__m256 v) {
    alignas(32) float lanes[8];
    _mm256_store_ps(lanes, v);
    return lanes[0] + lanes[1] + lanes[2] + lanes[3] + lanes[4] + lanes[5] + lanes[6] + lanes[7];
}

float read(const float* a, std::size_t count) {
    __m256 s[8];
    for (__m256& v : s) {
        v = _mm256_setzero_ps();
    }
    for (std::size_t i = 0; i < count; i += 64) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
            s[j] = _mm256_add_ps(s[j], _mm256_load_ps(a + i + 8 * j));
        }
    }
    for (int j = 1; j < 8; ++j) {
        s[0] = _mm256_add_ps(s[0], s[j]);
    }
    return sum_of(s[0]);
}

void triad(float* a, const float* b, const float* c, std::size_t count) {
    const __m256 q = _mm256_set1_ps(3.0f);
    for (std::size_t i = 0; i < count; i += 8) {
        _mm256_stream_ps(a + i, _mm256_fmadd_ps(q, _mm256_load_ps(c + i), _mm256_load_ps(b + i)));
    }
    _mm_sfence();
}

constexpr int kSums = 12;

float f32(std::size_t rounds) {
    __m256 x = _mm256_set1_ps(0.999f);
    const __m256 y = _mm256_set1_ps(1e-3f);
    __m256 s[kSums];
    for (__m256& v : s) {
        v = _mm256_set1_ps(1.0f);
    }
    for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 12
        for (int j = 0; j < kSums; ++j) {
            s[j] = _mm256_fmadd_ps(s[j], x, y);
        }
        asm volatile("" : "+x"(x));
    }
    for (int j = 1; j < kSums; ++j) {
        s[0] = _mm256_add_ps(s[0], s[j]);
    }
    return sum_of(s[0]);
}

}  // namespace

MachineLoops avx2_loops() {
    MachineLoops loops;
    loops.read = read;
    loops.triad = triad;
    loops.f32_operations = kSums * 16;
    loops.f32 = f32;
    return loops;
}

}  // namespace bench
#else
namespace bench {
MachineLoops avx2_loops() {
    return generic_loops();
}
}  // namespace bench
#endif
