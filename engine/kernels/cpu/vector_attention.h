// Part of an instruction set's file (vector_avx2.cpp, vector_avx512.cpp); everything in it is local to that file.
// Attention of a few query vectors over one partition of keys (FlashAttention's recurrence, Dao et al. 2022, with the
// partitions at fixed places so that a vector's numbers do not depend on how the work is cut).
#pragma once

#include "engine/kernels/cpu/vector_soften.h"

namespace engine {
namespace {

template <class A>
void pack_query(const float* q, std::uint32_t head_dim, std::uint32_t vector, std::uint32_t vectors, void* block) {
    constexpr std::uint32_t kLanesAtOnce = 16 / A::kElements;
    auto* lanes = static_cast<typename A::Lane*>(block) + vector;
    for (std::uint32_t i = 0; i < head_dim; i += 16) {
        const std::uint32_t elements = least(head_dim - i, 16);
        typename A::Lane some[kLanesAtOnce];
        A::to_lanes(load_n(q + i, elements), some);
        for (std::uint32_t j = 0; j * A::kElements < elements; ++j, lanes += vectors) {
            *lanes = some[j];
        }
    }
}

/// scores[r][tile * 16 + token] for NT tiles.
template <class A, int R, int NT, bool kAhead>
inline void score_tiles(const typename A::Lane* q, const std::byte* const* k, std::size_t k_stride, std::uint32_t lanes,
                        const std::byte* const* k_ahead, float* scores) {
    Vec sums[R][NT];
    const std::byte* tiles[NT];
#pragma GCC unroll 8
    for (int t = 0; t < NT; ++t) {
        tiles[t] = k[t];
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
            sums[r][t] = zero();
        }
    }
    std::size_t offset = 0;
    for (std::uint32_t i = 0; i < lanes; ++i) {
        typename A::Weights keys[NT];
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
            keys[t] = A::weights(tiles[t] + offset);
        }
#pragma GCC unroll 8
        for (int r = 0; r < R; ++r) {
            const auto value = A::broadcast(q + r);
#pragma GCC unroll 8
            for (int t = 0; t < NT; ++t) {
                sums[r][t] = A::multiply_add(sums[r][t], value, keys[t]);
            }
        }
        q += R;
        if constexpr (kAhead) {
#pragma GCC unroll 8
            for (int t = 0; t < NT; ++t) {
                __builtin_prefetch(k_ahead[t] + offset, 0, 2);
            }
        }
        offset += k_stride;
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int t = 0; t < NT; ++t) {
            store(scores + r * kPartitionTokens + t * kTileTokens, sums[r][t]);
        }
    }
}

/// weighted[r][16 * NC] = sum over the tiles of weight * V.
template <class A, int R, int NC, bool kAhead>
inline void weigh_values(const typename A::Lane* weights, const std::byte* const* v, std::size_t v_stride,
                         std::size_t v_offset, std::uint32_t tiles, const std::byte* const* v_ahead, float* weighted,
                         std::size_t weighted_stride) {
    Vec sums[R][NC];
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < NC; ++c) {
            sums[r][c] = zero();
        }
    }
    constexpr std::uint32_t kLanes = kTileTokens / A::kElements;
    for (std::uint32_t t = 0; t < tiles; ++t) {
        const std::byte* tile = v[t] + v_offset;
        for (std::uint32_t i = 0; i < kLanes; ++i) {
            typename A::Weights values[NC];
#pragma GCC unroll 8
            for (int c = 0; c < NC; ++c) {
                values[c] = A::weights(tile + c * kPanelRowBytes);
            }
#pragma GCC unroll 8
            for (int r = 0; r < R; ++r) {
                const auto weight = A::broadcast(weights + r * kWeightStride + t * kLanes + i);
#pragma GCC unroll 8
                for (int c = 0; c < NC; ++c) {
                    sums[r][c] = A::multiply_add(sums[r][c], weight, values[c]);
                }
            }
            if constexpr (kAhead) {
#pragma GCC unroll 8
                for (int c = 0; c < NC; ++c) {
                    __builtin_prefetch(v_ahead[t] + (tile - v[t]) + c * kPanelRowBytes, 0, 2);
                }
            }
            tile += v_stride;
        }
    }
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
#pragma GCC unroll 8
        for (int c = 0; c < NC; ++c) {
            store(weighted + r * weighted_stride + c * 16, sums[r][c]);
        }
    }
}

template <class A, int R, bool kAhead>
void attend_vectors(const AttentionBlock& block) {
    constexpr int kTiles = A::template score_tiles_at_once<R>();
    constexpr int kChunks = A::template value_chunks_at_once<R>();
    alignas(64) float scores[R * kPartitionTokens];
    alignas(64) typename A::Lane weights[R * kWeightStride];
    const auto* q = static_cast<const typename A::Lane*>(block.q);
    for (std::uint32_t t = 0; t < block.tiles; t += kTiles) {
        const std::byte* some[kTiles];  // past the last tile: the last one again, masked below
        for (std::uint32_t i = 0; i < kTiles; ++i) {
            some[i] = block.k[least(t + i, block.tiles - 1)];
        }
        const std::byte* const* near = kAhead ? block.k_ahead + t : nullptr;
        float* to = scores + t * kTileTokens;
        if (block.tiles - t > kTiles / 2) {
            score_tiles<A, R, kTiles, kAhead>(q, some, block.k_stride, block.head_lanes, near, to);
        } else {
            score_tiles<A, R, kTiles / 2, kAhead>(q, some, block.k_stride, block.head_lanes, near, to);
        }
    }
    for (int r = 0; r < R; ++r) {
        soften<A>(scores + r * kPartitionTokens, block.tiles, block.visible[r], block.scale_log2, block.largest + r,
                  block.sum + r, weights + r * kWeightStride);
    }
    const std::size_t stride = std::size_t{block.chunks} * 16;
    for (std::uint32_t c = 0; c < block.chunks;) {
        const std::uint32_t left = block.chunks - c;
        const std::size_t offset = c * kPanelRowBytes;
        float* to = block.weighted + c * 16;
        if (left >= kChunks) {
            weigh_values<A, R, kChunks, kAhead>(weights, block.v, block.v_stride, offset, block.tiles, block.v_ahead,
                                                to, stride);
            c += kChunks;
        } else if (left >= 2) {
            weigh_values<A, R, 2, kAhead>(weights, block.v, block.v_stride, offset, block.tiles, block.v_ahead, to,
                                          stride);
            c += 2;
        } else {
            weigh_values<A, R, 1, kAhead>(weights, block.v, block.v_stride, offset, block.tiles, block.v_ahead, to,
                                          stride);
            c += 1;
        }
    }
}

template <class A, bool kAhead>
void attend_as(const AttentionBlock& block) {
    if constexpr (A::kVectors > 2) {
        switch (block.vectors) {
            case 3:
                return attend_vectors<A, 3, kAhead>(block);
            case 4:
                return attend_vectors<A, 4, kAhead>(block);
            case 5:
                return attend_vectors<A, 5, kAhead>(block);
            case 6:
                return attend_vectors<A, 6, kAhead>(block);
            default:
                break;
        }
    }
    if (block.vectors == 1) { return attend_vectors<A, 1, kAhead>(block); }
    attend_vectors<A, 2, kAhead>(block);
}

template <class A>
void attend(const AttentionBlock& block) {
    if (block.k_ahead != nullptr) {
        attend_as<A, true>(block);
    } else {
        attend_as<A, false>(block);
    }
}

void merge(float* largest, float* sum, float* weighted, float part_largest, float part_sum, const float* part_weighted,
           std::uint32_t chunks) {
    const float top = part_largest > *largest ? part_largest : *largest;
    const Vec old_scale = exp2_nonpositive(set(*largest - top));
    const Vec part_scale = exp2_nonpositive(set(part_largest - top));
    *largest = top;
    *sum = first(fma(set(part_sum), part_scale, mul(set(*sum), old_scale)));
    for (std::uint32_t c = 0; c < chunks; ++c) {
        const Vec old = mul(load(weighted + c * 16), old_scale);
        store(weighted + c * 16, fma(load(part_weighted + c * 16), part_scale, old));
    }
}

void finish(const float* weighted, float sum, std::uint32_t head_dim, float* out) {
    const Vec scale = set(1.0f / sum);
    for (std::uint32_t i = 0; i < head_dim; i += 16) {
        const std::uint32_t n = least(head_dim - i, 16);
        store_n(out + i, mul(load_n(weighted + i, n), scale), n);
    }
}

template <class A>
constexpr KvKernels kv_kernels() {
    return {.lane_elements = A::kKvElements,
            .lane_bytes = sizeof(typename A::Lane),
            .block_vectors = A::kVectors,
            .append = append_row<A>,
            .pack_query = pack_query<A>,
            .attend = attend<A>};
}

}  // namespace
}  // namespace engine
