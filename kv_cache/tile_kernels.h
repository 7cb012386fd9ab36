#pragma once

#include <cstddef>
#include <cstdint>

namespace kv_cache {

/// The moves inside a tile that pack and unpack are made of. Pointers need no alignment; source and target do not
/// overlap. Internal to this folder.
struct TileKernels {
    /// target[column * target_stride + row] = source[row * source_stride + column], in 32-bit lanes.
    void (*transpose)(const std::byte* source, std::size_t source_stride, std::byte* target, std::size_t target_stride,
                      std::size_t rows, std::size_t columns);
    /// Splits `count` pairs of 16-bit elements: the first of each goes to `even`, the second to `odd`.
    void (*split_pairs)(const std::byte* pairs, std::byte* even, std::byte* odd, std::size_t count);
    /// The inverse.
    void (*join_pairs)(const std::byte* even, const std::byte* odd, std::byte* pairs, std::size_t count);
};

/// Plain C++: the reference for the others.
const TileKernels& plain_tile_kernels();
/// The fastest that this machine can run.
const TileKernels& tile_kernels();

}  // namespace kv_cache
