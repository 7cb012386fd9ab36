// Compiled with AMX TILE and BF16 (machine_loops.h).
#include "bench/machine_loops.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstdint>

namespace bench {
namespace {

struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {64, 64, 64, 64, 64, 64, 64, 64};
    std::uint8_t rows[16] = {16, 16, 16, 16, 16, 16, 16, 16};
};

float bf16_tiles(std::size_t rounds) {
    const TileConfig config;
    asm volatile("" ::: "memory");
    _tile_loadconfig(&config);
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    _tile_zero(4);
    _tile_zero(5);
    _tile_zero(6);
    _tile_zero(7);
    for (std::size_t i = 0; i < rounds; ++i) {
        _tile_dpbf16ps(0, 4, 6);
        _tile_dpbf16ps(1, 4, 7);
        _tile_dpbf16ps(2, 5, 6);
        _tile_dpbf16ps(3, 5, 7);
    }
    alignas(64) float sums[256];
    _tile_stored(0, sums, 64);
    _tile_release();
    return sums[0];
}

}  // namespace

MachineLoops amx_loops() {
    MachineLoops loops;
    loops.bf16_operations = 4.0 * 16 * 16 * 32 * 2;
    loops.bf16 = bf16_tiles;
    return loops;
}

}  // namespace bench
#else
namespace bench {
MachineLoops amx_loops() {
    return {};
}
}  // namespace bench
#endif
