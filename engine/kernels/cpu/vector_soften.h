// Part of an instruction set's file (vector_avx2.cpp, vector_avx512.cpp, vector_amx.cpp); everything in it is local to
// that file. Between the two products of attention.
#pragma once

#include "engine/kernels/cpu/vector_exp.h"

namespace engine {
namespace {

/// Scaled weights of one block, as lanes; not a power of two apart.
constexpr std::uint32_t kWeightStride = kPartitionTokens + 16;

/// Scores of one vector to weights 2^(scale * score - largest), as lanes; keys from `visible` on get weight 0.
template <class A>
inline void soften(float* scores, std::uint32_t tiles, std::uint32_t visible, float scale_log2, float* largest,
                   float* sum, typename A::Lane* weights) {
    constexpr std::uint32_t kLanes = kTileTokens / A::kElements;
    const Vec scale = set(scale_log2);
    const std::uint32_t tiles_visible = (visible + kTileTokens - 1) / kTileTokens;
    Vec most = set(-__builtin_inff());
    for (std::uint32_t t = 0; t < tiles_visible; ++t) {
        Vec s = mul(load(scores + t * kTileTokens), scale);
        if ((t + 1) * kTileTokens > visible) { s = first_n(s, visible - t * kTileTokens, -__builtin_inff()); }
        store(scores + t * kTileTokens, s);
        most = max(most, s);
    }
    const float top = reduce_max(most);
    const Vec tops = set(top);
    Vec total = zero();
    for (std::uint32_t t = 0; t < tiles_visible; ++t) {
        const Vec weight = exp2_nonpositive(sub(load(scores + t * kTileTokens), tops));
        total = add(total, A::to_lanes(weight, weights + t * kLanes));
    }
    for (std::uint32_t t = tiles_visible; t < tiles; ++t) {
        A::to_lanes(zero(), weights + t * kLanes);
    }
    *largest = top;
    *sum = reduce_add(total);
}

}  // namespace
}  // namespace engine
