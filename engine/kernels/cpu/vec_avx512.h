// Part of the files that are compiled with AVX-512 (vector_avx512.cpp, vector_amx.cpp); everything in it is local to
// that file. 16 floats, and what weights and KV of each format are to them.
#pragma once

namespace engine {
namespace {

/// 16 floats.
using Vec = __m512;

inline __mmask16 mask_of(std::uint32_t n) {
    return static_cast<__mmask16>(n >= 16 ? 0xffffu : (1u << n) - 1u);
}
inline Vec zero() {
    return _mm512_setzero_ps();
}
inline Vec set(float x) {
    return _mm512_set1_ps(x);
}
inline Vec load(const float* p) {
    return _mm512_loadu_ps(p);
}
inline Vec load_n(const float* p, std::uint32_t n) {
    return _mm512_maskz_loadu_ps(mask_of(n), p);
}
inline void store(float* p, Vec v) {
    _mm512_storeu_ps(p, v);
}
inline void store_n(float* p, Vec v, std::uint32_t n) {
    _mm512_mask_storeu_ps(p, mask_of(n), v);
}
inline Vec add(Vec a, Vec b) {
    return _mm512_add_ps(a, b);
}
inline Vec sub(Vec a, Vec b) {
    return _mm512_sub_ps(a, b);
}
inline Vec mul(Vec a, Vec b) {
    return _mm512_mul_ps(a, b);
}
inline Vec div(Vec a, Vec b) {
    return _mm512_div_ps(a, b);
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return _mm512_fmadd_ps(a, b, c);
}
inline Vec max(Vec a, Vec b) {
    return _mm512_max_ps(a, b);
}
inline Vec min(Vec a, Vec b) {
    return _mm512_min_ps(a, b);
}
inline Vec round(Vec a) {
    return _mm512_roundscale_ps(a, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}
/// 2^n for whole n in [-126, 127].
inline Vec power_of_two(Vec n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23));
}
inline Vec zero_where_less(Vec x, Vec bound, Vec v) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, bound, _CMP_NLT_UQ), v);
}
inline Vec first_n(Vec v, std::uint32_t n, float otherwise) {
    return _mm512_mask_mov_ps(_mm512_set1_ps(otherwise), mask_of(n), v);
}
inline float first(Vec v) {
    return _mm512_cvtss_f32(v);
}
inline float reduce_add(Vec v) {
    const __m256 eight = _mm256_add_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float reduce_max(Vec v) {
    const __m256 eight = _mm256_max_ps(_mm512_castps512_ps256(v), _mm512_extractf32x8_ps(v, 1));
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float square_root(float x) {
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

/// f32 weights and KV: fused multiply-add.
struct F32 {
    using Lane = float;
    using Weights = __m512;
    using KvElement = float;
    static constexpr std::uint32_t kElements = 1;    // inputs of a lane
    static constexpr std::uint32_t kKvElements = 1;  // stored KV elements of a lane
    static constexpr int kRows = 14;                 // rows of a tile
    static constexpr int kSums = 28;                 // accumulators: 32 registers less weights and the broadcast
    static constexpr int kVectors = 6;
    template <int R>
    static constexpr int score_tiles_at_once() {
        return R <= 3 ? 8 : 4;
    }
    template <int R>
    static constexpr int value_chunks_at_once() {
        return 4;
    }

    static Weights weights(const std::byte* p) { return _mm512_loadu_ps(p); }
    static Vec broadcast(const Lane* p) { return _mm512_set1_ps(*p); }
    static Vec multiply_add(Vec sum, Vec x, Weights w) { return _mm512_fmadd_ps(w, x, sum); }
    /// Stores the lanes of 16 elements; gives the elements as rounded.
    static Vec to_lanes(Vec v, Lane* out) {
        _mm512_storeu_ps(out, v);
        return v;
    }
    static void to_kv(Vec v, KvElement* out) { _mm512_storeu_ps(out, v); }
};

/// bf16 weights and KV: activations rounded to bf16, pairs summed by vdpbf16ps.
struct Bf16 {
    using Lane = std::uint32_t;
    using Weights = __m512i;
    using KvElement = std::uint16_t;
    static constexpr std::uint32_t kElements = 2;
    static constexpr std::uint32_t kKvElements = 2;
    static constexpr int kRows = 14;
    static constexpr int kSums = 28;
    static constexpr int kVectors = 6;
    template <int R>
    static constexpr int score_tiles_at_once() {
        return F32::score_tiles_at_once<R>();
    }
    template <int R>
    static constexpr int value_chunks_at_once() {
        return F32::value_chunks_at_once<R>();
    }

    static Weights weights(const std::byte* p) { return _mm512_loadu_si512(p); }
    static __m512i broadcast(const Lane* p) { return _mm512_set1_epi32(static_cast<int>(*p)); }
    static Vec multiply_add(Vec sum, __m512i x, Weights w) { return _mm512_dpbf16_ps(sum, (__m512bh)w, (__m512bh)x); }
    static Vec to_lanes(Vec v, Lane* out) {
        const auto rounded = (__m256i)_mm512_cvtneps_pbh(v);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), rounded);
        return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(rounded), 16));
    }
    static void to_kv(Vec v, KvElement* out) {
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), (__m256i)_mm512_cvtneps_pbh(v));
    }
};

}  // namespace
}  // namespace engine
