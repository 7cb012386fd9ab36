// Part of vector_amx.cpp; everything in it is local to that file. y = x * W^T + bias by tiles.
//
// A packed panel has a tile's form already: 16 lanes along K for 16 outputs are 1 KiB in a row. Activations are packed
// to it: [row tile][chunk of 16 lanes][16 rows][16 lanes], with zeros where rows or lanes end. An element has one
// accumulator and is summed chunk by chunk, K ascending, bias last. Within a chunk the processor sums the first and the
// second of each pair apart, in a fixed order. So a row's numbers depend on nothing but the row, for every number of
// rows.
#pragma once

#include "engine/kernels/cpu/amx_tiles.h"

namespace engine {
namespace {

/// 0 to 3: sums; 4, 5: activations; 6, 7: weights. `rows`: of sums and activations.
TileConfig config_of(std::uint32_t rows) {
    TileConfig config;
    for (std::uint32_t i = 0; i < 8; ++i) {
        config.set(i, i < 6 ? rows : kTile, kTile);
    }
    return config;
}

/// A part of a panel that comes nearer while tiles are multiplied: `lines` with each chunk, from `at` to `end`, then
/// from `then_at` to `then_end`.
struct Ahead {
    const std::byte* at = nullptr;
    const std::byte* end = nullptr;
    const std::byte* then_at = nullptr;
    const std::byte* then_end = nullptr;
    std::uint32_t lines = 0;

    void bring() {
        for (std::uint32_t i = 0; i < lines; ++i, at += kTileStride) {
            if (at >= end) {
                if (then_at >= then_end) { return; }
                at = then_at;
                end = then_end;
                then_at = then_end;
            }
            __builtin_prefetch(at, 0, 2);
        }
    }
};

/// The last chunk of a panel whose lanes are no multiple of 16: behind it lies another panel, or nothing.
struct Weights {
    const std::byte* at = nullptr;  // of the first chunk of the block
    std::uint32_t whole = 0;        // chunks that can be read in place
    const std::byte* rest = nullptr;
};

template <int kRegister>
inline void load_weights(const Weights& weights, std::uint32_t chunk) {
    load_tile<kRegister>(chunk < weights.whole ? weights.at + chunk * kTileBytes : weights.rest, kTileStride);
}

/// Where a block of sums lies.
struct Sums {
    float* y = nullptr;
    std::uint32_t rows = 0;
    std::uint32_t outputs = 0;
    std::size_t stride = 0;  // floats
};

/// Sums from and to y; through a tile of its own where the block is not whole.
struct Block {
    alignas(64) float memory[kTile * kTile];
    bool is_whole;
    const Sums& sums;

    Block(const Sums& of, std::uint32_t rows_of_tile)
        : is_whole(of.rows == rows_of_tile && of.outputs == kTile), sums(of) {}
    const float* fetch() {
        if (is_whole) { return sums.y; }
        for (std::uint32_t row = 0; row < kTile; ++row) {
            const __m512 values = row < sums.rows
                                      ? _mm512_maskz_loadu_ps(mask_of(sums.outputs), sums.y + row * sums.stride)
                                      : _mm512_setzero_ps();
            _mm512_store_ps(memory + row * kTile, values);
        }
        memory_barrier();
        return memory;
    }
    float* target() { return is_whole ? sums.y : memory; }
    std::size_t stride_bytes() const { return is_whole ? sums.stride * sizeof(float) : kTileStride; }
    /// After the tile was stored in target(): the bias, and back to y.
    void put(const float* bias) {
        if (is_whole && bias == nullptr) { return; }
        const __mmask16 mask = mask_of(sums.outputs);
        const __m512 add = bias == nullptr ? _mm512_setzero_ps() : _mm512_maskz_loadu_ps(mask, bias);
        for (std::uint32_t row = 0; row < sums.rows; ++row) {
            float* to = sums.y + row * sums.stride;
            __m512 values = is_whole ? _mm512_loadu_ps(to) : _mm512_load_ps(memory + row * kTile);
            if (bias != nullptr) { values = _mm512_add_ps(values, add); }
            _mm512_mask_storeu_ps(to, mask, values);
        }
    }
};

template <int kSum>
inline void begin_sum(bool first, Block& block) {
    if (first) {
        zero_sum<kSum>();
    } else {
        const float* from = block.fetch();
        load_tile<kSum>(from, block.stride_bytes());
    }
}
template <int kSum>
inline void end_sum(Block& block, const float* bias) {
    store_sum<kSum>(block.target(), block.stride_bytes());
    block.put(bias);
}

/// MT row tiles against NP panels over `chunks` chunks. `x`: the first row tile's chunk; `x_step`: bytes to the next
/// row tile. `sums`: [MT * NP]. `first`: they start at zero, else from y. `rows_of_tile`: as configured.
template <int MT, int NP>
void multiply(const std::byte* x, std::size_t x_step, const Weights* weights, std::uint32_t chunks, bool first,
              const float* bias, const Sums* sums, std::uint32_t rows_of_tile, Ahead* ahead) {
    Block a(sums[0], rows_of_tile);
    Block b(sums[NP > 1 ? 1 : 0], rows_of_tile);
    Block c(sums[MT > 1 ? NP : 0], rows_of_tile);
    Block d(sums[MT * NP - 1], rows_of_tile);
    begin_sum<0>(first, a);
    if constexpr (NP > 1) { begin_sum<1>(first, b); }
    if constexpr (MT > 1) { begin_sum<2>(first, c); }
    if constexpr (MT > 1 && NP > 1) { begin_sum<3>(first, d); }
    for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
        load_weights<6>(weights[0], chunk);
        load_tile<4>(x, kTileStride);
        if constexpr (MT > 1) { load_tile<5>(x + x_step, kTileStride); }
        multiply_tiles<0, 4, 6>();
        if constexpr (NP > 1) {
            load_weights<7>(weights[1], chunk);
            multiply_tiles<1, 4, 7>();
        }
        ahead[0].bring();
        ahead[1].bring();
        if constexpr (MT > 1) { multiply_tiles<2, 5, 6>(); }
        if constexpr (MT > 1 && NP > 1) { multiply_tiles<3, 5, 7>(); }
        x += kTileBytes;
    }
    end_sum<0>(a, bias);
    const float* next_bias = bias == nullptr ? nullptr : bias + kTile;
    if constexpr (NP > 1) { end_sum<1>(b, next_bias); }
    if constexpr (MT > 1) { end_sum<2>(c, bias); }
    if constexpr (MT > 1 && NP > 1) { end_sum<3>(d, next_bias); }
}

/// Blocks: along K so that those of a pair of panels (24 KiB) stay in the first cache while rows pass by, along rows so
/// that their activations (768 KiB) stay in the second one while the panels pass by. With some rows only, blocks twice
/// as long are better, since their sums are fetched half as often. Nothing of it changes the order in which an element
/// is summed.
constexpr std::uint32_t kBlockChunks = 12;
constexpr std::uint32_t kSomeRowTiles = 8;
constexpr std::uint32_t kLongBlockChunks = 24;
constexpr std::uint32_t kBlockRowTiles = 32;
/// Up to so many row tiles weights come from memory, once: all of K is one block, and lines come near so far ahead in
/// each panel.
constexpr std::uint32_t kFewRowTiles = 2;
constexpr std::size_t kAheadBytes = 8192;

/// Part of K, [chunk, chunk + count), and of the rows.
struct TileBlock {
    std::uint32_t chunk;
    std::uint32_t count;
    std::uint32_t whole;  // of `count`: chunks with all lanes
    std::uint32_t tile_begin;
    std::uint32_t tile_end;
};

/// A share as tiles.
struct TileShare {
    const LinearShare& share;
    std::uint32_t chunks;
    std::uint32_t row_tiles;
    std::uint32_t rows_of_tile;
    std::size_t panel_bytes;
    std::size_t row_tile_bytes;

    explicit TileShare(const LinearShare& of)
        : share(of),
          chunks((of.lanes + kTile - 1) / kTile),
          row_tiles((of.rows + kTile - 1) / kTile),
          rows_of_tile(row_tiles == 1 ? of.rows : kTile),
          panel_bytes(std::size_t{of.lanes} * kPanelRowBytes),
          row_tile_bytes(chunks * kTileBytes) {}

    bool has_few_rows() const { return row_tiles <= kFewRowTiles; }
    std::uint32_t k_blocks() const {
        if (has_few_rows()) { return 1; }
        const std::uint32_t length = row_tiles <= kSomeRowTiles ? kLongBlockChunks : kBlockChunks;
        return (chunks + length - 1) / length;
    }
    const std::byte* panel(std::uint32_t index) const { return share.w + index * panel_bytes; }
    /// The kth of `k_blocks` parts of K.
    TileBlock block(std::uint32_t k, std::uint32_t k_blocks, std::uint32_t tile_begin, std::uint32_t tile_end) const {
        const std::uint32_t chunk = chunks * k / k_blocks;
        const std::uint32_t count = chunks * (k + 1) / k_blocks - chunk;
        return {chunk, count, least(count, share.lanes / kTile - chunk), tile_begin, tile_end};
    }
};

/// A panel's part of the block; `rest` is filled where its last chunk is not whole.
Weights weights_of(const TileShare& tiles, const TileBlock& block, std::uint32_t panel, std::byte* rest) {
    const std::byte* at = tiles.panel(panel) + block.chunk * kTileBytes;
    if (block.whole != block.count) {
        for (std::uint32_t lane = 0; lane < kTile; ++lane) {
            const std::byte* from = at + block.whole * kTileBytes + lane * kPanelRowBytes;
            _mm512_store_si512(rest + lane * kPanelRowBytes,
                               lane < tiles.share.lanes % kTile ? _mm512_loadu_si512(from) : _mm512_setzero_si512());
        }
    }
    return {at, block.whole, rest};
}

/// What comes near during a block of the panels from `panel` on: with few rows what is further on in the same panels,
/// then the first of the next ones; else the same block of the next ones, a few lines with each of its chunks.
Ahead ahead_of(const TileShare& tiles, const TileBlock& block, std::uint32_t panel, std::uint32_t panel_in_pair) {
    const std::uint32_t steps = (block.tile_end - block.tile_begin + 1) / 2;
    const std::byte* here = tiles.panel(panel + panel_in_pair) + block.chunk * kTileBytes;
    const std::byte* next = here + 2 * tiles.panel_bytes;
    const bool has_next = panel + panel_in_pair + 2 < tiles.share.panel_end;
    Ahead ahead;
    ahead.lines = (kTile + steps - 1) / steps;
    if (!tiles.has_few_rows()) {
        ahead.at = next;
        ahead.end = has_next ? next + block.whole * kTileBytes : next;
    } else if (panel + panel_in_pair < tiles.share.panel_end) {
        ahead.at = here + kAheadBytes;
        ahead.end = here + tiles.panel_bytes;
        ahead.then_at = next;
        ahead.then_end = has_next ? next + kAheadBytes : next;
    }
    return ahead;
}

/// All rows of the block against `panels` panels.
void multiply_panels(const TileShare& tiles, const TileBlock& block, std::uint32_t panel, std::uint32_t panels) {
    const LinearShare& share = tiles.share;
    alignas(64) std::byte rests[2][kTileBytes];
    Weights weights[2];
    for (std::uint32_t p = 0; p < panels; ++p) {
        weights[p] = weights_of(tiles, block, panel + p, rests[p]);
    }
    memory_barrier();
    Ahead ahead[2] = {ahead_of(tiles, block, panel, 0), ahead_of(tiles, block, panel, 1)};
    const bool is_last = block.chunk + block.count == tiles.chunks;
    const float* bias = is_last && share.bias != nullptr ? share.bias + panel * kPanelOutputs : nullptr;
    for (std::uint32_t tile = block.tile_begin; tile < block.tile_end; tile += 2) {
        const std::uint32_t count = least(2, block.tile_end - tile);
        Sums sums[4];
        for (std::uint32_t i = 0; i < count; ++i) {
            for (std::uint32_t p = 0; p < panels; ++p) {
                const std::uint32_t row = (tile + i) * kTile;
                const std::uint32_t output = (panel + p) * kPanelOutputs;
                sums[i * panels + p] = {share.y + std::size_t{row} * share.outputs + output,
                                        least(kTile, share.rows - row), least(kTile, share.outputs - output),
                                        share.outputs};
            }
        }
        const std::byte* x =
            static_cast<const std::byte*>(share.x) + tile * tiles.row_tile_bytes + block.chunk * kTileBytes;
        const auto multiply_block = count == 2 ? (panels == 2 ? multiply<2, 2> : multiply<2, 1>)
                                               : (panels == 2 ? multiply<1, 2> : multiply<1, 1>);
        multiply_block(x, tiles.row_tile_bytes, weights, block.count, block.chunk == 0, bias, sums, tiles.rows_of_tile,
                       ahead);
    }
}

void linear_tiles(const LinearShare& share) {
    const TileShare tiles(share);
    const std::uint32_t k_blocks = tiles.k_blocks();
    configure(config_of(tiles.rows_of_tile));
    for (std::uint32_t row_tile = 0; row_tile < tiles.row_tiles; row_tile += kBlockRowTiles) {
        for (std::uint32_t k = 0; k < k_blocks; ++k) {
            const TileBlock block =
                tiles.block(k, k_blocks, row_tile, least(row_tile + kBlockRowTiles, tiles.row_tiles));
            for (std::uint32_t panel = share.panel_begin; panel < share.panel_end; panel += 2) {
                multiply_panels(tiles, block, panel, least(2, share.panel_end - panel));
            }
        }
    }
    _tile_release();
}

/// Of the activations of rows that one pass over the weights takes: 1 MiB, half of the second cache.
constexpr std::uint32_t kGatedChunks = 1024;

/// A panel of each half against the rows of a block, all of K; then the activation, and its bf16 where the next product
/// looks for it: 16 outputs are half a chunk.
struct GatedTiles {
    const GatedShare& share;
    const TileShare& tiles;
    void (*swiglu)(const float* gate, const float* up, std::uint32_t width, float* out);
    std::byte* sums;  // [row tiles of a block][2] tiles: of G, of U

    float* sums_of(std::uint32_t tile, std::uint32_t half) const {
        return reinterpret_cast<float*>(sums + (std::size_t{tile} * 2 + half) * kTileBytes);
    }

    void multiply_pair(const TileBlock& block, std::uint32_t panel) const {
        const std::uint32_t panels[2] = {panel, panel + tiles.share.outputs / (2 * kPanelOutputs)};
        const std::uint32_t steps = (block.tile_end - block.tile_begin + 1) / 2;
        const bool is_last = block.chunk + block.count == tiles.chunks;
        const bool has_next = !is_last || panel + 1 < tiles.share.panel_end;
        alignas(64) std::byte rests[2][kTileBytes];
        Weights weights[2];
        Ahead ahead[2];
        for (std::uint32_t p = 0; p < 2; ++p) {
            weights[p] = weights_of(tiles, block, panels[p], rests[p]);
            const std::byte* next = weights[p].at + block.whole * kTileBytes;  // the next panel lies behind this one
            ahead[p].lines = (kTile + steps - 1) / steps;
            if (tiles.has_few_rows()) {
                ahead[p].at = weights[p].at + kAheadBytes;
                ahead[p].end = has_next ? next + kAheadBytes : next;
            } else if (has_next) {
                ahead[p].at = next;
                ahead[p].end = next + block.whole * kTileBytes;
            }
        }
        memory_barrier();
        for (std::uint32_t tile = block.tile_begin; tile < block.tile_end; tile += 2) {
            const std::uint32_t count = least(2, block.tile_end - tile);
            Sums to[4];
            for (std::uint32_t i = 0; i < 2 * count; ++i) {
                to[i] = {sums_of(tile - block.tile_begin + i / 2, i % 2), tiles.rows_of_tile, kTile, kTile};
            }
            const std::byte* x =
                static_cast<const std::byte*>(tiles.share.x) + tile * tiles.row_tile_bytes + block.chunk * kTileBytes;
            const auto multiply_block = count == 2 ? multiply<2, 2> : multiply<1, 2>;
            multiply_block(x, tiles.row_tile_bytes, weights, block.count, block.chunk == 0, nullptr, to,
                           tiles.rows_of_tile, ahead);
        }
    }

    void activate(const TileBlock& block, std::uint32_t panel) const {
        memory_barrier();
        const std::size_t chunks_out = tiles.share.outputs / (4 * kPanelOutputs);
        for (std::uint32_t tile = block.tile_begin; tile < block.tile_end; ++tile) {
            float* result = sums_of(tile - block.tile_begin, 0);
            swiglu(result, sums_of(tile - block.tile_begin, 1), tiles.rows_of_tile * kTile, result);
            std::byte* out = static_cast<std::byte*>(share.out) + (tile * chunks_out + panel / 2) * kTileBytes +
                             panel % 2 * kTileStride / 2;
            for (std::uint32_t row = 0; row < tiles.rows_of_tile; ++row) {
                _mm256_store_si256(reinterpret_cast<__m256i*>(out + row * kTileStride),
                                   (__m256i)_mm512_cvtneps_pbh(_mm512_load_ps(result + row * kTile)));
            }
        }
    }
};

void gated_tiles(const GatedShare& share) {
    const TileShare tiles(share.product);
    alignas(64) std::byte sums[kBlockRowTiles * 2 * kTileBytes];
    const GatedTiles gated{share, tiles, avx512_kernels()->swiglu, sums};
    const std::uint32_t fitting = kGatedChunks / tiles.chunks / 2 * 2;
    const std::uint32_t rows_at_once = fitting == 0 ? 2 : least(kBlockRowTiles, fitting);
    const std::uint32_t k_blocks = tiles.k_blocks();
    configure(config_of(tiles.rows_of_tile));
    for (std::uint32_t row_tile = 0; row_tile < tiles.row_tiles; row_tile += rows_at_once) {
        const std::uint32_t tile_end = least(row_tile + rows_at_once, tiles.row_tiles);
        for (std::uint32_t panel = share.product.panel_begin; panel < share.product.panel_end; ++panel) {
            for (std::uint32_t k = 0; k < k_blocks; ++k) {
                gated.multiply_pair(tiles.block(k, k_blocks, row_tile, tile_end), panel);
            }
            gated.activate(tiles.block(0, 1, row_tile, tile_end), panel);
        }
    }
    _tile_release();
}

void pack_tiles(const PackRows& pack) {
    const std::uint32_t lanes = (pack.inputs + 1) / 2;
    const std::uint32_t chunks = (lanes + kTile - 1) / kTile;
    const std::uint32_t row_tiles = (pack.rows + kTile - 1) / kTile;
    for (std::uint32_t tile = pack.tile_begin; tile < pack.tile_end; ++tile) {
        const std::uint32_t rows = least(kTile, pack.rows - tile * kTile);
        auto* out = static_cast<std::byte*>(pack.out) + std::size_t{tile} * chunks * kTileBytes;
        for (std::uint32_t row = 0; row < rows; ++row) {
            const float* x = pack.x + (std::size_t{tile} * kTile + row) * pack.inputs;
            for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
                const std::uint32_t at = chunk * 32;
                const std::uint32_t left = pack.inputs - at;
                const __m512 low = _mm512_maskz_loadu_ps(mask_of(left), x + at);
                const __m512 high =
                    left > 16 ? _mm512_maskz_loadu_ps(mask_of(left - 16), x + at + 16) : _mm512_setzero_ps();
                _mm512_store_si512(out + chunk * kTileBytes + row * kTileStride,
                                   (__m512i)_mm512_cvtne2ps_pbh(high, low));
            }
        }
        if (row_tiles == 1) { continue; }  // the tiles have as many rows as there are
        for (std::uint32_t row = rows; row < kTile; ++row) {
            for (std::uint32_t chunk = 0; chunk < chunks; ++chunk) {
                _mm512_store_si512(out + chunk * kTileBytes + row * kTileStride, _mm512_setzero_si512());
            }
        }
    }
}

}  // namespace
}  // namespace engine
