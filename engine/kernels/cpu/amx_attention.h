// Part of vector_amx.cpp; everything in it is local to that file. Attention of up to 16 query vectors over one
// partition of keys by tiles: what vector_attention.h does, and nothing of it depends on how many vectors come
// together.
//
// A tile of K is stored as [lanes][16 tokens] and one of V as [8 pairs of tokens][16 dims] lanes: both are what a tile
// of weights looks like, so they are loaded where they lie.
#pragma once

#include "engine/kernels/cpu/amx_tiles.h"
#include "engine/kernels/cpu/vector_soften.h"

namespace engine {
namespace {

constexpr std::uint32_t kValueLanes = kTileTokens / 2;

/// [vector][lanes, padded to chunks of 16].
void pack_query_rows(const float* q, std::uint32_t head_dim, std::uint32_t vector, std::uint32_t /*vectors*/,
                     void* block) {
    const std::uint32_t chunks = (head_dim + 2 * kTile - 1) / (2 * kTile);
    auto* out = static_cast<std::byte*>(block) + std::size_t{vector} * chunks * kTileStride;
    for (std::uint32_t chunk = 0; chunk < chunks; ++chunk, out += kTileStride) {
        const std::uint32_t left = head_dim - chunk * 32;
        const float* from = q + chunk * 32;
        const __m512 low = load_n(from, left);
        const __m512 high = left > 16 ? load_n(from + 16, left - 16) : zero();
        _mm512_storeu_si512(out, (__m512i)_mm512_cvtne2ps_pbh(high, low));
    }
}

/// Of the first `count` tiles from `k` on one chunk of 16 lanes (or of what is left of them) each, against the queries
/// in the activations' register.
template <int kActivations, int kWeights>
inline void multiply_keys(const std::byte* const* k, std::size_t offset, std::size_t stride, std::uint32_t count) {
    load_tile<kWeights>(k[0] + offset, stride);
    multiply_tiles<0, kActivations, kWeights>();
    if (count == 1) { return; }
    load_tile<kWeights>(k[1] + offset, stride);
    multiply_tiles<1, kActivations, kWeights>();
    if (count == 2) { return; }
    load_tile<kWeights>(k[2] + offset, stride);
    multiply_tiles<2, kActivations, kWeights>();
    if (count == 3) { return; }
    load_tile<kWeights>(k[3] + offset, stride);
    multiply_tiles<3, kActivations, kWeights>();
}

inline void zero_sums() {
    zero_sum<0>();
    zero_sum<1>();
    zero_sum<2>();
    zero_sum<3>();
}

/// The first `count` sums, beside each other.
inline void store_sums(float* to, std::size_t stride, std::uint32_t count) {
    store_sum<0>(to, stride);
    if (count > 1) { store_sum<1>(to + kTile, stride); }
    if (count > 2) { store_sum<2>(to + 2 * kTile, stride); }
    if (count > 3) { store_sum<3>(to + 3 * kTile, stride); }
}

inline void bring_rows(const std::byte* from, std::size_t stride, std::uint32_t rows) {
    for (std::uint32_t row = 0; row < rows; ++row) {
        __builtin_prefetch(from + row * stride, 0, 2);
    }
}

/// scores[vector][kWeightStride]: queries times keys.
void score_keys(const AttentionBlock& block, float* scores) {
    const std::uint32_t whole = block.head_lanes / kTile;
    const std::uint32_t rest = block.head_lanes % kTile;
    TileConfig config;
    for (std::uint32_t sum = 0; sum < 4; ++sum) {
        config.set(sum, block.vectors, kTile);
    }
    config.set(4, block.vectors, kTile);
    config.set(6, kTile, kTile);
    if (rest != 0) {
        config.set(5, block.vectors, rest);
        config.set(7, rest, kTile);
    }
    configure(config);
    const auto* q = static_cast<const std::byte*>(block.q);
    const std::size_t q_stride = (whole + (rest != 0 ? 1 : 0)) * kTileStride;
    for (std::uint32_t t = 0; t < block.tiles; t += 4) {
        const std::uint32_t count = least(4, block.tiles - t);
        zero_sums();
        for (std::uint32_t chunk = 0; chunk < whole; ++chunk) {
            load_tile<4>(q + chunk * kTileStride, q_stride);
            multiply_keys<4, 6>(block.k + t, chunk * kTile * block.k_stride, block.k_stride, count);
        }
        if (rest != 0) {
            load_tile<5>(q + whole * kTileStride, q_stride);
            multiply_keys<5, 7>(block.k + t, whole * kTile * block.k_stride, block.k_stride, count);
        }
        if (block.k_ahead != nullptr) {
            for (std::uint32_t i = t; i < t + count; ++i) {
                bring_rows(block.k_ahead[i], block.k_stride, block.head_lanes);
            }
        }
        store_sums(scores + t * kTileTokens, kWeightStride * sizeof(float), count);
    }
}

/// block.weighted: the weights times V, tile after tile of 16 keys.
void weigh_values(const AttentionBlock& block, const std::uint32_t* weights) {
    TileConfig config;
    for (std::uint32_t sum = 0; sum < 4; ++sum) {
        config.set(sum, block.vectors, kTile);
    }
    config.set(4, block.vectors, kValueLanes);
    config.set(6, kValueLanes, kTile);
    configure(config);
    for (std::uint32_t chunk = 0; chunk < block.chunks; chunk += 4) {
        const std::uint32_t count = least(4, block.chunks - chunk);
        zero_sums();
        for (std::uint32_t t = 0; t < block.tiles; ++t) {
            load_tile<4>(weights + t * kValueLanes, kWeightStride * sizeof(std::uint32_t));
            const std::byte* v = block.v[t] + chunk * kPanelRowBytes;
            load_tile<6>(v, block.v_stride);
            multiply_tiles<0, 4, 6>();
            if (count > 1) {
                load_tile<6>(v + kPanelRowBytes, block.v_stride);
                multiply_tiles<1, 4, 6>();
            }
            if (count > 2) {
                load_tile<6>(v + 2 * kPanelRowBytes, block.v_stride);
                multiply_tiles<2, 4, 6>();
            }
            if (count > 3) {
                load_tile<6>(v + 3 * kPanelRowBytes, block.v_stride);
                multiply_tiles<3, 4, 6>();
            }
            if (block.v_ahead != nullptr) {
                for (std::uint32_t i = 0; i < count; ++i) {
                    bring_rows(block.v_ahead[t] + (chunk + i) * kPanelRowBytes, block.v_stride, kValueLanes);
                }
            }
        }
        store_sums(block.weighted + chunk * kTile, std::size_t{block.chunks} * kTile * sizeof(float), count);
    }
}

void attend_tiles(const AttentionBlock& block) {
    alignas(64) float scores[kTile * kWeightStride];
    alignas(64) std::uint32_t weights[kTile * kWeightStride];
    score_keys(block, scores);
    for (std::uint32_t vector = 0; vector < block.vectors; ++vector) {
        soften<Bf16>(scores + vector * kWeightStride, block.tiles, block.visible[vector], block.scale_log2,
                     block.largest + vector, block.sum + vector, weights + vector * kWeightStride);
    }
    weigh_values(block, weights);
    _tile_release();
}

}  // namespace
}  // namespace engine
