// Compiled with AVX-512 F, BF16 and VNNI (machine_loops.h).
#include "bench/machine_loops.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace bench {
namespace {

float sum_of(__m512 v) {
    alignas(64) float lanes[16];
    _mm512_store_ps(lanes, v);
    float sum = 0;
    for (const float lane : lanes) {
        sum += lane;
    }
    return sum;
}

float read(const float* a, std::size_t count) {
    __m512 s[8];
    for (__m512& v : s) {
        v = _mm512_setzero_ps();
    }
    for (std::size_t i = 0; i < count; i += 128) {
#pragma GCC unroll 8
        for (int j = 0; j < 8; ++j) {
            s[j] = _mm512_add_ps(s[j], _mm512_load_ps(a + i + 16 * j));
        }
    }
    for (int j = 1; j < 8; ++j) {
        s[0] = _mm512_add_ps(s[0], s[j]);
    }
    return sum_of(s[0]);
}

void triad(float* a, const float* b, const float* c, std::size_t count) {
    const __m512 q = _mm512_set1_ps(3.0f);
    for (std::size_t i = 0; i < count; i += 16) {
        _mm512_stream_ps(a + i, _mm512_fmadd_ps(q, _mm512_load_ps(c + i), _mm512_load_ps(b + i)));
    }
    _mm_sfence();
}

// Accumulators of each rate loop: enough to cover the latency of two pipes.
constexpr int kSums = 16;

float f32(std::size_t rounds) {
    __m512 x = _mm512_set1_ps(0.999f);
    const __m512 y = _mm512_set1_ps(1e-3f);
    __m512 s[kSums];
    for (__m512& v : s) {
        v = _mm512_set1_ps(1.0f);
    }
    for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kSums; ++j) {
            s[j] = _mm512_fmadd_ps(s[j], x, y);
        }
        asm volatile("" : "+v"(x));
    }
    for (int j = 1; j < kSums; ++j) {
        s[0] = _mm512_add_ps(s[0], s[j]);
    }
    return sum_of(s[0]);
}

float bf16(std::size_t rounds) {
    __m512i x = _mm512_set1_epi16(0x3c00);
    __m512i y = _mm512_set1_epi16(0x3c01);
    __m512 s[kSums];
    for (__m512& v : s) {
        v = _mm512_set1_ps(1.0f);
    }
    for (std::size_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 16
        for (int j = 0; j < kSums; ++j) {
            s[j] = _mm512_dpbf16_ps(s[j], (__m512bh)x, (__m512bh)y);
        }
        asm volatile("" : "+v"(x), "+v"(y));
    }
    for (int j = 1; j < kSums; ++j) {
        s[0] = _mm512_add_ps(s[0], s[j]);
    }
    return sum_of(s[0]);
}

// Sums with names, and one statement: of an array of them g++ 12 writes each to memory in every round, and what is
// measured is that.
constexpr int kInt8Sums = 12;

float int8(std::size_t rounds) {
    const __m512i x = _mm512_set1_epi8(1);
    const __m512i y = _mm512_set1_epi8(2);
    const __m512i zero = _mm512_setzero_si512();
    __m512i a = zero, b = zero, c = zero, d = zero, e = zero, f = zero;
    __m512i g = zero, h = zero, i = zero, j = zero, k = zero, l = zero;
    for (std::size_t round = 0; round < rounds; ++round) {
        asm volatile(
            "vpdpbusd %13, %12, %0\n\t"
            "vpdpbusd %13, %12, %1\n\t"
            "vpdpbusd %13, %12, %2\n\t"
            "vpdpbusd %13, %12, %3\n\t"
            "vpdpbusd %13, %12, %4\n\t"
            "vpdpbusd %13, %12, %5\n\t"
            "vpdpbusd %13, %12, %6\n\t"
            "vpdpbusd %13, %12, %7\n\t"
            "vpdpbusd %13, %12, %8\n\t"
            "vpdpbusd %13, %12, %9\n\t"
            "vpdpbusd %13, %12, %10\n\t"
            "vpdpbusd %13, %12, %11"
            : "+v"(a), "+v"(b), "+v"(c), "+v"(d), "+v"(e), "+v"(f), "+v"(g), "+v"(h), "+v"(i), "+v"(j), "+v"(k), "+v"(l)
            : "v"(x), "v"(y));
    }
    __m512i sum = zero;
    const __m512i parts[] = {a, b, c, d, e, f, g, h, i, j, k, l};
    for (const __m512i& part : parts) {
        sum = _mm512_add_epi32(sum, part);
    }
    return sum_of(_mm512_cvtepi32_ps(sum));
}

}  // namespace

MachineLoops avx512_loops() {
    MachineLoops loops;
    loops.read = read;
    loops.triad = triad;
    loops.f32_operations = kSums * 32;
    loops.f32 = f32;
    loops.bf16_operations = kSums * 64;
    loops.bf16 = bf16;
    loops.int8_operations = kInt8Sums * 128;
    loops.int8 = int8;
    return loops;
}

}  // namespace bench
#else
namespace bench {
MachineLoops avx512_loops() {
    return generic_loops();
}
}  // namespace bench
#endif
