// Part of vector_amx.cpp; everything in it is local to that file. Tiles: how they are configured, loaded and stored.
#pragma once

namespace engine {
namespace {

constexpr std::uint32_t kTile = 16;  // rows, lanes (pairs of bf16) of a row, outputs
constexpr std::size_t kTileBytes = 1024;
constexpr std::size_t kTileStride = 64;  // of a tile whose rows follow each other

struct alignas(64) TileConfig {
    std::uint8_t palette = 1;
    std::uint8_t start_row = 0;
    std::uint8_t reserved[14] = {};
    std::uint16_t row_bytes[16] = {};
    std::uint8_t rows[16] = {};

    void set(std::uint32_t tile, std::uint32_t tile_rows, std::uint32_t tile_lanes) {
        rows[tile] = static_cast<std::uint8_t>(tile_rows);
        row_bytes[tile] = static_cast<std::uint16_t>(tile_lanes * 4);
    }
};

/// g++'s tile instructions do not say which memory they read.
inline void memory_barrier() {
    asm volatile("" ::: "memory");
}

inline void configure(const TileConfig& config) {
    memory_barrier();
    _tile_loadconfig(&config);
}

// g++'s tile instructions want their registers as literals.
template <int kRegister>
inline void load_tile(const void* from, std::size_t stride) {
    static_assert(kRegister < 8);
    if constexpr (kRegister == 0) { _tile_loadd(0, from, stride); }
    if constexpr (kRegister == 1) { _tile_loadd(1, from, stride); }
    if constexpr (kRegister == 2) { _tile_loadd(2, from, stride); }
    if constexpr (kRegister == 3) { _tile_loadd(3, from, stride); }
    if constexpr (kRegister == 4) { _tile_loadd(4, from, stride); }
    if constexpr (kRegister == 5) { _tile_loadd(5, from, stride); }
    if constexpr (kRegister == 6) { _tile_loadd(6, from, stride); }
    if constexpr (kRegister == 7) { _tile_loadd(7, from, stride); }
}
template <int kRegister>
inline void zero_sum() {
    static_assert(kRegister < 4);
    if constexpr (kRegister == 0) { _tile_zero(0); }
    if constexpr (kRegister == 1) { _tile_zero(1); }
    if constexpr (kRegister == 2) { _tile_zero(2); }
    if constexpr (kRegister == 3) { _tile_zero(3); }
}
template <int kRegister>
inline void store_sum(void* to, std::size_t stride) {
    static_assert(kRegister < 4);
    if constexpr (kRegister == 0) { _tile_stored(0, to, stride); }
    if constexpr (kRegister == 1) { _tile_stored(1, to, stride); }
    if constexpr (kRegister == 2) { _tile_stored(2, to, stride); }
    if constexpr (kRegister == 3) { _tile_stored(3, to, stride); }
}

/// sum += activations * weights.
template <int kSum, int kActivations, int kWeights>
inline void multiply_tiles() {
    static_assert(kSum < 4 && (kActivations == 4 || kActivations == 5) && (kWeights == 6 || kWeights == 7));
#define SLUICE_MULTIPLY(sum)                                                             \
    if constexpr (kSum == (sum)) {                                                       \
        if constexpr (kActivations == 4 && kWeights == 6) { _tile_dpbf16ps(sum, 4, 6); } \
        if constexpr (kActivations == 4 && kWeights == 7) { _tile_dpbf16ps(sum, 4, 7); } \
        if constexpr (kActivations == 5 && kWeights == 6) { _tile_dpbf16ps(sum, 5, 6); } \
        if constexpr (kActivations == 5 && kWeights == 7) { _tile_dpbf16ps(sum, 5, 7); } \
    }
    SLUICE_MULTIPLY(0)
    SLUICE_MULTIPLY(1)
    SLUICE_MULTIPLY(2)
    SLUICE_MULTIPLY(3)
#undef SLUICE_MULTIPLY
}

}  // namespace
}  // namespace engine
