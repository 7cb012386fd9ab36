// AMX (TILE, BF16) beside AVX-512: products of BF16 by tiles, the rest as there. Compiled with these instructions:
// shares no inline function with other files, and includes nothing of the standard library that could leave one behind
// (kernel_table.h says why).
#include <cstddef>
#include <cstdint>

#include "engine/kernels/cpu/kernel_table.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "engine/kernels/cpu/vec_avx512.h"
// after vec_avx512.h, whose vectors they use
#include "engine/kernels/cpu/amx_attention.h"
#include "engine/kernels/cpu/amx_linear.h"

namespace engine {
namespace {

/// As of AVX-512, whose kernels do the rest, and a product of tiles.
std::uint32_t probe() {
    std::uint32_t hash = avx512_kernels()->probe();
    alignas(64) std::uint32_t tiles[2][kTile * kTile];
    std::uint32_t state = 0x9e3779b9u;
    for (auto& tile : tiles) {
        for (std::uint32_t& lane : tile) {
            state = state * 1664525u + 1013904223u;
            const std::uint32_t low = 0x3c00u + ((state >> 8) & 0x83ffu);  // about 2^-7 .. 2, both signs
            const std::uint32_t high = 0x3c00u + ((state >> 16) & 0x83ffu);
            lane = high << 16 | low;
        }
    }
    alignas(64) std::uint32_t sums[kTile * kTile];
    configure(config_of(kTile));
    _tile_zero(0);
    _tile_loadd(4, tiles[0], kTileStride);
    _tile_loadd(6, tiles[1], kTileStride);
    _tile_dpbf16ps(0, 4, 6);
    _tile_dpbf16ps(0, 4, 6);
    _tile_stored(0, sums, kTileStride);
    _tile_release();
    for (const std::uint32_t word : sums) {
        hash = (hash ^ word) * 16777619u;
    }
    return hash;
}

}  // namespace

const KernelTable* amx_kernels() {
    static const KernelTable table = [] {
        KernelTable made = *avx512_kernels();
        made.weights_bf16 = {.lane_elements = 2,
                             .lane_bytes = 4,
                             .row_tile_max = kTile,
                             .row_multiple = kTile,
                             .lane_multiple = kTile,
                             .pack_rows = pack_tiles,
                             .linear = linear_tiles,
                             .gated = gated_tiles,
                             .gated_multiple = 2 * kPanelOutputs,
                             .gated_lanes_max = std::size_t{2} * kGatedChunks * kTile * kTile};
        made.kv_bf16.lane_multiple = kTile;
        made.kv_bf16.block_vectors = kTile;
        made.kv_bf16.pack_query = pack_query_rows;
        made.kv_bf16.attend = attend_tiles;
        made.probe = probe;
        return made;
    }();
    return &table;
}

}  // namespace engine
#else
namespace engine {
const KernelTable* amx_kernels() {
    return nullptr;
}
}  // namespace engine
#endif
