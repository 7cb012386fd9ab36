// AVX-512 (F, BW, VL, DQ, BF16). Compiled with these instructions: shares no inline function with other files, and
// includes nothing of the standard library that could leave one behind (kernel_table.h says why).
#include <cstddef>
#include <cstdint>

#include "engine/kernels/cpu/kernel_table.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "engine/kernels/cpu/vec_avx512.h"
#include "engine/kernels/cpu/vector_linear.h"
#include "engine/kernels/cpu/vector_rows.h"
// after vector_rows.h, whose functions it uses
#include "engine/kernels/cpu/vector_attention.h"

namespace engine {
namespace {

/// Sums whose last bits show whether the processor rounds between the two products of a pair, and in which order.
std::uint32_t probe() {
    Vec sum = _mm512_set1_ps(1.0f);
    std::uint32_t state = 0x9e3779b9u;
    for (int i = 0; i < 64; ++i) {
        std::uint32_t lanes[32];
        for (std::uint32_t& lane : lanes) {
            state = state * 1664525u + 1013904223u;
            const std::uint32_t low = 0x3c00u + ((state >> 8) & 0x83ffu);  // about 2^-7 .. 2, both signs
            const std::uint32_t high = 0x3c00u + ((state >> 16) & 0x83ffu);
            lane = high << 16 | low;
        }
        sum = Bf16::multiply_add(sum, _mm512_loadu_si512(lanes), _mm512_loadu_si512(lanes + 16));
    }
    std::uint32_t bits[16];
    _mm512_storeu_si512(bits, _mm512_castps_si512(sum));
    std::uint32_t hash = 2166136261u;
    for (const std::uint32_t word : bits) {
        hash = (hash ^ word) * 16777619u;
    }
    return hash;
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

const KernelTable* avx512_kernels() {
    return &kTable;
}

}  // namespace engine
#else
namespace engine {
const KernelTable* avx512_kernels() {
    return nullptr;
}
}  // namespace engine
#endif
