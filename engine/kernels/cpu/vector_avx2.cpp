// AVX2 and FMA. Compiled with these instructions: shares no inline function with other files, and includes nothing of
// the standard library that could leave one behind (kernel_table.h says why).
#include <cstddef>
#include <cstdint>

#include "engine/kernels/cpu/kernel_table.h"

#if defined(__x86_64__)
#include <immintrin.h>

namespace engine {
namespace {

/// 16 floats.
struct Vec {
    __m256 low;
    __m256 high;
};

inline __m256i mask8(std::int32_t n) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(n), _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}
inline __m256i mask_low(std::uint32_t n) {
    return mask8(static_cast<std::int32_t>(n));
}
inline __m256i mask_high(std::uint32_t n) {
    return mask8(static_cast<std::int32_t>(n > 16 ? 16 : n) - 8);
}
inline Vec zero() {
    return {_mm256_setzero_ps(), _mm256_setzero_ps()};
}
inline Vec set(float x) {
    return {_mm256_set1_ps(x), _mm256_set1_ps(x)};
}
inline Vec load(const float* p) {
    return {_mm256_loadu_ps(p), _mm256_loadu_ps(p + 8)};
}
inline Vec load_n(const float* p, std::uint32_t n) {
    return {_mm256_maskload_ps(p, mask_low(n)), _mm256_maskload_ps(p + 8, mask_high(n))};
}
inline void store(float* p, Vec v) {
    _mm256_storeu_ps(p, v.low);
    _mm256_storeu_ps(p + 8, v.high);
}
inline void store_n(float* p, Vec v, std::uint32_t n) {
    _mm256_maskstore_ps(p, mask_low(n), v.low);
    _mm256_maskstore_ps(p + 8, mask_high(n), v.high);
}
inline Vec add(Vec a, Vec b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
}
inline Vec sub(Vec a, Vec b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
}
inline Vec mul(Vec a, Vec b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
}
inline Vec div(Vec a, Vec b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
}
inline Vec fma(Vec a, Vec b, Vec c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
}
inline Vec max(Vec a, Vec b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
}
inline Vec min(Vec a, Vec b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
}
inline Vec round(Vec a) {
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(a.low, kNearest), _mm256_round_ps(a.high, kNearest)};
}
inline __m256 power_of_two8(__m256 n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23));
}
/// 2^n for whole n in [-126, 127].
inline Vec power_of_two(Vec n) {
    return {power_of_two8(n.low), power_of_two8(n.high)};
}
inline Vec zero_where_less(Vec x, Vec bound, Vec v) {
    return {_mm256_and_ps(_mm256_cmp_ps(x.low, bound.low, _CMP_NLT_UQ), v.low),
            _mm256_and_ps(_mm256_cmp_ps(x.high, bound.high, _CMP_NLT_UQ), v.high)};
}
inline Vec first_n(Vec v, std::uint32_t n, float otherwise) {
    const __m256 other = _mm256_set1_ps(otherwise);
    return {_mm256_blendv_ps(other, v.low, _mm256_castsi256_ps(mask_low(n))),
            _mm256_blendv_ps(other, v.high, _mm256_castsi256_ps(mask_high(n)))};
}
inline float first(Vec v) {
    return _mm256_cvtss_f32(v.low);
}
inline float reduce_add(Vec v) {
    const __m256 eight = _mm256_add_ps(v.low, v.high);
    const __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float reduce_max(Vec v) {
    const __m256 eight = _mm256_max_ps(v.low, v.high);
    const __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
    const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
    return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}
inline float square_root(float x) {
    return _mm_cvtss_f32(_mm_sqrt_ss(_mm_set_ss(x)));
}

template <int R>
constexpr int two_or_four() {
    return R == 1 ? 4 : 2;
}

/// f32 weights and KV.
struct F32 {
    using Lane = float;
    using Weights = Vec;
    using KvElement = float;
    static constexpr std::uint32_t kElements = 1;    // inputs of a lane
    static constexpr std::uint32_t kKvElements = 1;  // stored KV elements of a lane
    static constexpr int kRows = 6;                  // rows of a tile
    static constexpr int kSums = 6;                  // accumulators of two registers each, of 16 registers
    static constexpr int kVectors = 2;
    template <int R>
    static constexpr int score_tiles_at_once() {
        return two_or_four<R>();
    }
    template <int R>
    static constexpr int value_chunks_at_once() {
        return two_or_four<R>();
    }

    static Weights weights(const std::byte* p) {
        const auto* f = reinterpret_cast<const float*>(p);
        return {_mm256_loadu_ps(f), _mm256_loadu_ps(f + 8)};
    }
    static __m256 broadcast(const Lane* p) { return _mm256_broadcast_ss(p); }
    static Vec multiply_add(Vec sum, __m256 x, const Weights& w) {
        return {_mm256_fmadd_ps(x, w.low, sum.low), _mm256_fmadd_ps(x, w.high, sum.high)};
    }
    /// Stores the lanes of 16 elements; gives the elements as rounded.
    static Vec to_lanes(Vec v, Lane* out) {
        store(out, v);
        return v;
    }
    static void to_kv(Vec v, KvElement* out) { store(out, v); }
};

/// bf16 weights and KV, widened to f32; activations stay f32. A lane is the two activations of a pair.
struct Bf16 {
    struct Lane {
        float even;
        float odd;
    };
    struct Weights {
        Vec even;
        Vec odd;
    };
    struct Broadcast {
        __m256 even;
        __m256 odd;
    };
    using KvElement = std::uint16_t;
    static constexpr std::uint32_t kElements = 2;
    static constexpr std::uint32_t kKvElements = 2;
    static constexpr int kRows = 4;
    static constexpr int kSums = 4;
    static constexpr int kVectors = 2;
    template <int R>
    static constexpr int score_tiles_at_once() {
        return two_or_four<R>();
    }
    template <int R>
    static constexpr int value_chunks_at_once() {
        return two_or_four<R>();
    }

    static Weights weights(const std::byte* p) {
        const auto* pairs = reinterpret_cast<const __m256i*>(p);
        const __m256i low = _mm256_loadu_si256(pairs);
        const __m256i high = _mm256_loadu_si256(pairs + 1);
        const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xffff0000u));
        return {
            {_mm256_castsi256_ps(_mm256_slli_epi32(low, 16)), _mm256_castsi256_ps(_mm256_slli_epi32(high, 16))},
            {_mm256_castsi256_ps(_mm256_and_si256(low, upper)), _mm256_castsi256_ps(_mm256_and_si256(high, upper))}};
    }
    static Broadcast broadcast(const Lane* p) { return {_mm256_broadcast_ss(&p->even), _mm256_broadcast_ss(&p->odd)}; }
    static Vec multiply_add(Vec sum, const Broadcast& x, const Weights& w) {
        sum.low = _mm256_fmadd_ps(x.even, w.even.low, sum.low);
        sum.high = _mm256_fmadd_ps(x.even, w.even.high, sum.high);
        sum.low = _mm256_fmadd_ps(x.odd, w.odd.low, sum.low);
        sum.high = _mm256_fmadd_ps(x.odd, w.odd.high, sum.high);
        return sum;
    }
    static Vec to_lanes(Vec v, Lane* out) {
        store(reinterpret_cast<float*>(out), v);  // lanes are pairs of neighbours
        return v;
    }
    static void to_kv(Vec v, KvElement* out) {
        alignas(32) std::uint32_t bits[16];
        store(reinterpret_cast<float*>(bits), v);
        for (int i = 0; i < 16; ++i) {
            const std::uint32_t b = bits[i];
            const bool nan = (b & 0x7fffffffu) > 0x7f800000u;
            const std::uint32_t nearest_even = b + 0x7fffu + ((b >> 16) & 1u);
            out[i] = static_cast<KvElement>((nan ? b | 0x400000u : nearest_even) >> 16);
        }
    }
};

}  // namespace
}  // namespace engine

#include "engine/kernels/cpu/vector_linear.h"
#include "engine/kernels/cpu/vector_rows.h"
// after vector_rows.h, whose functions it uses
#include "engine/kernels/cpu/vector_attention.h"

namespace engine {
namespace {

/// IEEE operations only: every processor gives the same bits.
std::uint32_t probe() {
    return 0;
}

constexpr KernelTable kTable{.weights_f32 = weight_kernels<F32>(),
                             .weights_bf16 = weight_kernels<Bf16>(),
                             .kv_f32 = kv_kernels<F32>(),
                             .kv_bf16 = kv_kernels<Bf16>(),
                             .rms_norm = rms_norm,
                             .add = add_rows,
                             .swiglu = swiglu,
                             .add_layer_norm = add_layer_norm,
                             .gelu = gelu,
                             .gelu_tanh = gelu_tanh,
                             .merge = merge,
                             .finish = finish,
                             .exp = exp_array,
                             .exp2_nonpositive = exp2_array,
                             .probe = probe};

}  // namespace

const KernelTable* avx2_kernels() {
    return &kTable;
}

}  // namespace engine
#else
namespace engine {
const KernelTable* avx2_kernels() {
    return nullptr;
}
}  // namespace engine
#endif
