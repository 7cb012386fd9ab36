#pragma once

#include <cstddef>
#include <cstdint>

namespace engine {

/// What a backend asks of one instruction set: plain functions over plain data, one table per instruction set.
///
/// The files that implement a table are compiled with that instruction set, so they must share no inline function with
/// the rest of the program (the linker keeps one copy of each, perhaps the one this processor cannot run). Hence this
/// header holds data only, and nothing of the standard library beyond integer types.
///
/// A *lane* is 32 bits: one f32, or a pair of bf16. Both formats have 16 lanes in a row of a packed panel and of a KV
/// tile, so kernels of one shape serve both; a table has those of weights and those of KV apart.
inline constexpr std::uint32_t kPanelOutputs = 16;
inline constexpr std::size_t kPanelRowBytes = 64;
/// Keys of one attention partition; partitions begin at its multiples.
inline constexpr std::uint32_t kPartitionTokens = 256;
inline constexpr std::uint32_t kTileTokens = 16;
inline constexpr std::uint32_t kPartitionTiles = kPartitionTokens / kTileTokens;
inline constexpr std::uint32_t kHeadDimMax = 256;
/// Query vectors that one attention block takes at most, over all instruction sets.
inline constexpr std::uint32_t kBlockVectorsMax = 16;

/// One thread's share of y = x * W^T + bias: all rows, panels [panel_begin, panel_end).
struct LinearShare {
    const void* x = nullptr;  // made by pack_rows: row tiles one after the other
    std::uint32_t rows = 0;
    std::uint32_t lanes = 0;  // along K: inputs, or pairs of inputs
    const std::byte* w = nullptr;
    std::uint32_t outputs = 0;
    std::uint32_t panel_begin = 0;
    std::uint32_t panel_end = 0;
    const float* bias = nullptr;  // [outputs] or null
    float* y = nullptr;           // [rows, outputs]
};

/// One thread's share of silu(x * G^T) * (x * U^T), where G is the first half of the outputs and U the second one.
struct GatedShare {
    LinearShare product;  // panels of G; no bias, no y
    void* out = nullptr;  // as pack_rows would make it of the result, [rows, outputs / 2]
};

/// Rows are grouped in n = ceil(rows / row_tile_max) tiles; which rows a tile holds is the instruction set's affair.
struct PackRows {
    const float* x = nullptr;  // [rows, inputs]
    std::uint32_t rows = 0;
    std::uint32_t inputs = 0;
    std::uint32_t tile_begin = 0;  // row tiles to pack
    std::uint32_t tile_end = 0;
    void* out = nullptr;  // rows * lanes * lane_bytes bytes, both rounded up to their multiples
};

/// One row of the fused projection: norms, rotation, q out, K and V into their tiles.
struct AppendRow {
    const float* qkv = nullptr;
    std::uint32_t heads_q = 0;
    std::uint32_t heads_kv = 0;
    std::uint32_t head_dim = 0;
    const float* cosines = nullptr;  // [head_dim / 2]
    const float* sines = nullptr;
    const float* q_norm = nullptr;  // [head_dim] or null
    const float* k_norm = nullptr;
    float norm_eps = 0;
    float* q = nullptr;           // [heads_q * head_dim]
    std::byte* k_tile = nullptr;  // of kv head 0
    std::byte* v_tile = nullptr;
    std::size_t tile_bytes = 0;  // from a head to the next
    std::uint32_t token = 0;     // in the block
    std::uint32_t block_tokens = 0;
};

/// A block of query vectors against the first `tiles` tiles of one partition.
struct AttentionBlock {
    const void* q = nullptr;  // made by pack_query
    std::uint32_t vectors = 0;
    std::uint32_t head_lanes = 0;               // lanes of a query: head_dim, or pairs
    std::uint32_t chunks = 0;                   // head_dim / 16, rounded up
    const std::byte* const* k = nullptr;        // [tiles] [head_lanes][16] lanes, rows k_stride apart
    const std::byte* const* v = nullptr;        // [tiles] [16 / e][16 * chunks] lanes, rows v_stride apart
    std::size_t k_stride = 0;                   // bytes
    std::size_t v_stride = 0;                   // bytes
    std::uint32_t tiles = 0;                    // 1 .. kPartitionTiles
    const std::byte* const* k_ahead = nullptr;  // null, or [kPartitionTiles] tiles to bring near, laid out as k
    const std::byte* const* v_ahead = nullptr;
    const std::uint32_t* visible = nullptr;  // [vectors] keys of this partition that each vector sees; 0: none
    float scale_log2 = 0;                    // scale * log2(e)
    float* largest = nullptr;                // out [vectors]: largest scaled score
    float* sum = nullptr;                    // out [vectors]: sum of the weights
    float* weighted = nullptr;               // out [vectors][16 * chunks]: sum of weight * V
};

/// The functions that depend on the format of weights.
struct WeightKernels {
    std::uint32_t lane_elements = 1;  // weights of a lane
    std::uint32_t lane_bytes = 4;     // of a packed activation lane
    std::uint32_t row_tile_max = 1;
    std::uint32_t row_multiple = 1;  // of the packed rows
    std::uint32_t lane_multiple = 1;
    void (*pack_rows)(const PackRows&) = nullptr;
    void (*linear)(const LinearShare&) = nullptr;
    /// Null: there is none, and the product and the activation are two. The same bits as of these, packed.
    void (*gated)(const GatedShare&) = nullptr;
    std::uint32_t gated_multiple = 1;  // of outputs / 2
    std::size_t gated_lanes_max = 0;   // of rows * lanes: with more it would read weights too often
};

/// The functions that depend on the format of KV.
struct KvKernels {
    std::uint32_t lane_elements = 1;  // KV elements of a lane
    std::uint32_t lane_bytes = 4;     // of a packed query lane
    std::uint32_t lane_multiple = 1;  // of the lanes of a packed query
    std::uint32_t block_vectors = 1;
    void (*append)(const AppendRow&) = nullptr;
    /// `q`: one head of one row. `block`: where the block's packed queries are, of which this is the `vector`th of
    /// `vectors`.
    void (*pack_query)(const float* q, std::uint32_t head_dim, std::uint32_t vector, std::uint32_t vectors,
                       void* block) = nullptr;
    void (*attend)(const AttentionBlock&) = nullptr;
};

struct KernelTable {
    WeightKernels weights_f32;
    WeightKernels weights_bf16;
    KvKernels kv_f32;
    KvKernels kv_bf16;

    void (*rms_norm)(const float* x, const float* weight, float eps, std::uint32_t width, float* out) = nullptr;
    void (*add)(float* x, const float* delta, std::size_t count) = nullptr;
    void (*swiglu)(const float* gate, const float* up, std::uint32_t width, float* out) = nullptr;
    /// x = (x + delta - mean) / sqrt(variance + eps) * weight + bias.
    void (*add_layer_norm)(float* x, const float* delta, const float* weight, const float* bias, float eps,
                           std::uint32_t width) = nullptr;
    void (*gelu)(float* x, std::size_t count) = nullptr;
    void (*gelu_tanh)(float* x, std::size_t count) = nullptr;
    /// state = state merged with the partial result of a later partition: largest [1], sum [1], weighted [16 * chunks].
    void (*merge)(float* largest, float* sum, float* weighted, float part_largest, float part_sum,
                  const float* part_weighted, std::uint32_t chunks) = nullptr;
    /// out[i] = weighted[i] / sum.
    void (*finish)(const float* weighted, float sum, std::uint32_t head_dim, float* out) = nullptr;
    /// out[i] = e^x[i]; for tests.
    void (*exp)(const float* x, std::size_t count, float* out) = nullptr;
    /// out[i] = 2^x[i], x <= 0; for tests.
    void (*exp2_nonpositive)(const float* x, std::size_t count, float* out) = nullptr;
    /// Bits of a fixed sum of products: processors differ in how they round inside a bf16 dot product.
    std::uint32_t (*probe)() = nullptr;
};

/// Null when this build has no such code (another architecture).
const KernelTable* avx2_kernels();
const KernelTable* avx512_kernels();
/// After runs_amx() said so: the system must have been asked for the tiles.
const KernelTable* amx_kernels();

}  // namespace engine
