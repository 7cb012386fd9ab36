#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

/// The CUDA kernels as plain functions. What holds for every launch function here and in linear.h and sampling.h:
/// - asynchronous on `stream`; no allocation, no synchronisation, no host memory read after it has returned: it can be
///   captured into a CUDA graph. What changes from step to step (token ids, positions, block tables) is read from
///   device buffers of fixed place, which the caller fills by a copy from pinned memory before;
/// - pointers are device pointers, aligned to 16 bytes; arrays are dense and row-major unless said;
/// - returns cudaGetLastError() of its launches, or cudaErrorInvalidValue for arguments it cannot work with (nothing is
///   launched then); any thread, one at a time per stream;
/// - the numbers of a row depend on nothing but the row (design 4.1), whatever `rows` is.
/// Limits: rows * width below 2^31 elements per buffer.
namespace engine::cuda {

/// The bits of a bfloat16.
using Bf16 = std::uint16_t;

/// A row that only fills up a bucket of a captured graph has this token and this position: kernels neither read nor
/// write KV for it, and give zeros for it.
constexpr std::int32_t kIdleRow = -1;

// ---- rows -----------------------------------------------------------------------------------------------------------

/// out[row] = table[tokens[row]] as float; zeros for idle rows. table: [vocabulary, hidden] bf16, out: [rows, hidden].
/// Tokens must lie in [0, vocabulary) (checked by the engine before); others are treated as idle.
cudaError_t embed(const Bf16* table, std::int32_t vocabulary, std::int32_t hidden, const std::int32_t* tokens,
                  std::int32_t rows, float* out, cudaStream_t stream);

/// Where an operator leaves its output in FP8 too: the bytes and scales that quantize_rows_fp8() would make of it.
/// Null: it does not. The width must then be a multiple of 16.
struct QuantizedRows {
    std::uint8_t* data = nullptr;  // [rows, width] e4m3
    float* scales = nullptr;       // [rows]
};

/// out = bf16(x / sqrt(mean(x^2) + eps) * weight). x: [rows, width] float, weight: [width] float, out: [rows, width].
cudaError_t rms_norm(const float* x, const float* weight, float eps, std::int32_t rows, std::int32_t width, Bf16* out,
                     cudaStream_t stream, const QuantizedRows& quantized = {});

/// residual += delta (+ bias), then out = rms_norm(residual). residual: [rows, width] float, in place;
/// delta: [rows, width] float or null (when a GEMM has already accumulated into the residual); bias: [width] or null.
cudaError_t add_rms_norm(float* residual, const float* delta, const float* bias, const float* weight, float eps,
                         std::int32_t rows, std::int32_t width, Bf16* out, cudaStream_t stream,
                         const QuantizedRows& quantized = {});

/// out[row][i] = bf16(silu(gate_up[row][i]) * gate_up[row][width + i]). gate_up: [rows, 2 * width] bf16.
cudaError_t swiglu(const Bf16* gate_up, std::int32_t rows, std::int32_t width, Bf16* out, cudaStream_t stream,
                   const QuantizedRows& quantized = {});

/// out[i] = source[row_index[i]] for rows of `row_bytes` bytes (a multiple of 4); zeros where the index is negative.
/// `out` and `source` must not overlap. Keeps the rows whose logits are wanted.
cudaError_t gather_rows(const void* source, std::size_t row_bytes, const std::int32_t* row_index, std::int32_t rows,
                        void* out, cudaStream_t stream);

/// bf16 (nearest even) of floats, and back.
cudaError_t to_bf16(const float* source, std::size_t elements, Bf16* out, cudaStream_t stream);
cudaError_t to_float(const Bf16* source, std::size_t elements, float* out, cudaStream_t stream);
/// bf16 of IEEE half floats (checkpoints).
cudaError_t half_to_bf16(const std::uint16_t* source, std::size_t elements, Bf16* out, cudaStream_t stream);

// ---- KV cache -------------------------------------------------------------------------------------------------------

/// One layer of the block-major pool (kv_cache::KvLayout, bf16, token_major): the tile of (block, part, kv_head) is
/// `base + block * block_bytes + layer_offset + (part * kv_heads + kv_head) * tile_bytes`, `[block_tokens][head_dim]`.
struct KvLayer {
    std::byte* base = nullptr;     // the pool, device memory, aligned to 16 bytes
    std::size_t block_bytes = 0;   // KvLayout::block_bytes()
    std::size_t layer_offset = 0;  // KvLayout::tile_offset(layer, K, 0)
    std::size_t tile_bytes = 0;    // KvLayout::tile_bytes()
    std::int32_t kv_heads = 0;
    std::int32_t head_dim = 0;
    std::int32_t block_tokens = 16;  // a multiple of 16
};

/// Which blocks hold which sequence. Row r of a batch belongs to sequence row_sequence[r], at position row_position[r].
struct RowMap {
    const std::int32_t* block_tables = nullptr;  // [sequences][table_stride]: block ids in sequence order
    std::int32_t table_stride = 0;
    const std::int32_t* row_sequence = nullptr;  // [rows]
    const std::int32_t* row_position = nullptr;  // [rows]; kIdleRow: the row is idle
};

struct RopeAppendArguments {
    const Bf16* qkv = nullptr;        // [rows, (heads_q + 2 * kv_heads) * head_dim]: q, then k, then v heads
    const float* qkv_bias = nullptr;  // [(heads_q + 2 * kv_heads) * head_dim] or null; added first, in float
    std::int32_t rows = 0;
    std::int32_t heads_q = 0;
    const float* cosines = nullptr;  // [context_tokens][head_dim / 2] (RopeTable)
    const float* sines = nullptr;
    const float* q_norm = nullptr;  // [head_dim] or null: RMS norm of each head before the rotation (Qwen3)
    const float* k_norm = nullptr;
    float norm_eps = 0;
    RowMap map;
    KvLayer kv;
    Bf16* q = nullptr;  // out [rows, heads_q * head_dim], rotated
};

/// Bias, norms (if any), rotation of q and k by halves, q out, K and V of the rows into their blocks. head_dim even, at
/// most 256. Blocks of the rows must be the sequence's own (a shared block is never written).
cudaError_t rope_and_append(const RopeAppendArguments& arguments, cudaStream_t stream);

/// A rectangle of one sequence's KV between the pool and a contiguous buffer in the wire order
/// `[layer][K|V][kv_head][token][head_dim]`: layers [layer_begin, layer_end) of tokens [token_begin, token_end).
struct KvCopyArguments {
    KvLayer kv;                            // layer_offset is not read; the others are
    std::size_t layer_stride = 0;          // KvLayout::layer_stride()
    const std::int32_t* blocks = nullptr;  // device: the sequence's block ids from token 0 on
    std::int32_t layer_begin = 0;
    std::int32_t layer_end = 0;
    std::int32_t token_begin = 0;
    std::int32_t token_end = 0;
};
cudaError_t kv_gather(const KvCopyArguments& arguments, void* out, cudaStream_t stream);
cudaError_t kv_scatter(const KvCopyArguments& arguments, const void* source, cudaStream_t stream);

// ---- attention ------------------------------------------------------------------------------------------------------
// Keys are cut into partitions of kPartitionTokens at fixed absolute positions; inside one, keys are taken in steps of
// 64 with a running maximum; partial results are merged in ascending order. Prefill and decode do the same operations
// in the same order, so a row gets the same bits from either. Weights are rounded to bf16 before they are summed and
// before they meet V.

/// Tokens of one partition of keys.
constexpr std::int32_t kPartitionTokens = 256;
/// (query token, query head) pairs of one prefill tile.
constexpr std::int32_t kPrefillTileRows = 128;

struct KvPoolMap;

/// Query tokens per prefill tile: all query heads of a KV head for this many consecutive tokens of one sequence. A
/// chunk of n tokens is cut into ceil(n / tokens) tiles.
constexpr std::int32_t prefill_tile_tokens(std::int32_t heads_q, std::int32_t kv_heads) {
    const std::int32_t group = heads_q / kv_heads;
    return group >= kPrefillTileRows ? 1 : kPrefillTileRows / group;
}

/// Rows [row_begin, row_begin + rows) of the batch are consecutive tokens of one sequence from `position` on.
/// rows == 0: an idle tile. At most prefill_tile_tokens() rows.
struct PrefillTile {
    std::int32_t row_begin = 0;
    std::int32_t rows = 0;
    std::int32_t position = 0;
    std::int32_t sequence = 0;  // index into the block tables
};

struct AttentionArguments {
    const Bf16* q = nullptr;  // [rows, heads_q * head_dim]
    std::int32_t heads_q = 0;
    float scale = 0;  // 1 / sqrt(head_dim)
    const std::int32_t* block_tables = nullptr;
    std::int32_t table_stride = 0;
    KvLayer kv;
    Bf16* out = nullptr;  // [rows, heads_q * head_dim]
};

/// Causal attention of prompt chunks: row r of a tile sees positions [0, position + r]. `tiles`: device, [tile_count];
/// the longest (latest position) first gives the best balance. Any head_dim even and up to 256; 64, 96 and 128 are
/// fast.
cudaError_t attention_prefill(const AttentionArguments& arguments, const PrefillTile* tiles, std::int32_t tile_count,
                              cudaStream_t stream);

/// The same by Hopper's own instructions (compute capability 9.0 alone; others: cudaErrorNoKernelImageForDevice or an
/// invalid instruction), for heads that attention_hopper_can(). `map`: make_kv_pool_map() of the pool. A row's bits
/// depend on the row alone, but they are not those of attention_prefill() and attention_decode().
bool attention_hopper_can(std::int32_t heads_q, std::int32_t kv_heads, std::int32_t head_dim);
cudaError_t attention_prefill_hopper(const AttentionArguments& arguments, const KvPoolMap& map,
                                     const PrefillTile* tiles, std::int32_t tile_count, cudaStream_t stream);

/// Bytes of scratch with which attention_decode does `rows` rows whose contexts are at most `context_tokens_max` long
/// in one piece.
std::size_t attention_decode_scratch_bytes(std::int32_t rows, std::int32_t heads_q, std::int32_t head_dim,
                                           std::int32_t context_tokens_max);

/// Attention of single tokens, each of its own sequence (or several of one: every row is on its own). For i in
/// [0, rows): batch row row_index[i] (i where row_index is null), sequence row_sequence[row], position
/// row_position[row]. `context_tokens_max` (at least the largest position + 1) fixes the launch grid: a captured graph
/// serves every context up to it. `scratch`: `scratch_bytes` bytes, at least attention_decode_scratch_bytes() of one
/// row; rows are done in pieces that fit in it. Idle rows and entries with a negative row_index do nothing, except that
/// the row of an idle one (row_index not negative) is given zeros.
cudaError_t attention_decode(const AttentionArguments& arguments, const std::int32_t* row_sequence,
                             const std::int32_t* row_position, const std::int32_t* row_index, std::int32_t rows,
                             std::int32_t context_tokens_max, void* scratch, std::size_t scratch_bytes,
                             cudaStream_t stream);

}  // namespace engine::cuda
