#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/model_shape.h"
#include "base/result.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// How a matrix is stored after packing.
enum class WeightFormat : std::uint32_t { f32 = 0, bf16 = 1 };

/// A weight matrix `[outputs, inputs]` in packed order inside a mapped file or buffer; borrowed, read-only.
/// The packed order is one for all CPU backends, so that they share one file:
/// outputs in panels of 16 (the last one padded with zeros), `[panel][inputs / e][16][e]` with e = 2 for bf16 (the pair
/// that one vdpbf16ps lane takes; an odd number of inputs is padded with a zero) and e = 1 for f32.
struct PackedMatrix {
    WeightFormat format = WeightFormat::f32;
    std::uint32_t outputs = 0;
    std::uint32_t inputs = 0;
    const std::byte* data = nullptr;  // 64-byte aligned
};

/// Bytes of the packed form.
std::size_t packed_bytes(WeightFormat format, std::uint32_t outputs, std::uint32_t inputs);

/// One sequence's rows in a batch: rows [row_begin, row_begin + rows) are its tokens at positions [position, position +
/// rows).
struct SequenceRows {
    std::uint32_t row_begin = 0;
    std::uint32_t rows = 0;
    std::uint32_t position = 0;
    std::span<const base::BlockId> blocks;  // cover positions [0, position + rows)
};

/// Rotary tables, made once per model with our own sine and cosine: `[context_tokens][head_dim / 2]` each.
struct RopeTable {
    std::uint32_t head_dim = 0;
    std::vector<float> cosines;
    std::vector<float> sines;
};

/// q, k and v of a batch after the fused projection, and where they go.
struct AppendArgs {
    const float* qkv = nullptr;  // [rows, (heads_q + 2 * heads_kv) * head_dim]: q heads, then k heads, then v heads
    std::uint32_t rows = 0;
    std::span<const SequenceRows> sequences;
    const RopeTable* rope = nullptr;  // rotates halves: (x[i], x[i + head_dim / 2]), as Hugging Face does
    const float* q_norm = nullptr;    // [head_dim] or null (Qwen3: RMS norm of each head before RoPE)
    const float* k_norm = nullptr;
    float norm_eps = 0;
    std::uint32_t layer = 0;
    float* q = nullptr;               // out [rows, heads_q * head_dim], rotated
    kv_cache::KvStore* kv = nullptr;  // out: K and V of these positions, rounded to the KV format
};

struct AttentionArgs {
    const float* q = nullptr;  // [rows, heads_q * head_dim]
    std::span<const SequenceRows> sequences;
    std::uint32_t layer = 0;
    float scale = 0;  // 1 / sqrt(head_dim)
    const kv_cache::KvStore* kv = nullptr;
    float* out = nullptr;  // [rows, heads_q * head_dim]
};

/// The operators of a decoder-only transformer over buffers of fixed place. Backends: reference (plain loops), avx2,
/// avx512 (and CUDA later). Called from one thread at a time; operators use the backend's own threads inside and return
/// when done.
///
/// Every operator gives bit-identical numbers for a row whatever else is in the batch, for any number of rows and
/// threads (design 4.1): per output element one order of accumulation along K; attention in key partitions at fixed
/// absolute positions, merged in ascending order; K and V read back as stored.
class Backend {
public:
    virtual ~Backend() = default;

    /// "reference", "avx2", "avx512".
    virtual std::string_view family() const = 0;
    /// Raised whenever numbers change; part of the numerics id.
    virtual std::uint32_t numerics_version() const = 0;
    /// The order of KV tiles that `append` and `attention` of this backend want.
    virtual kv_cache::TileOrder tile_order() const = 0;
    virtual std::uint32_t threads() const = 0;

    /// out[row] = table[token of row], as float. `table` is [vocabulary, hidden]; it may be the (tied) head's packed
    /// matrix.
    virtual void embed(const PackedMatrix& table, std::span<const base::TokenId> tokens, float* out) = 0;

    /// out = x / sqrt(mean(x^2) + eps) * weight, per row. x, out: [rows, width]; weight: [width].
    virtual void rms_norm(const float* x, const float* weight, float eps, std::uint32_t rows, std::uint32_t width,
                          float* out) = 0;
    /// residual += delta, then out = rms_norm(residual). All [rows, width].
    virtual void add_rms_norm(float* residual, const float* delta, const float* weight, float eps, std::uint32_t rows,
                              std::uint32_t width, float* out) = 0;

    /// y = x * W^T (+ bias). x: [rows, inputs] (rounded to bf16 first where the format is bf16 and the family computes
    /// so), y: [rows, outputs], bias: [outputs] or null. Skinny and wide shapes give the same bits.
    virtual void linear(const PackedMatrix& w, const float* x, std::uint32_t rows, const float* bias, float* y) = 0;

    /// out[row][i] = silu(gate_up[row][i]) * gate_up[row][width + i]. gate_up: [rows, 2 * width], out: [rows, width].
    virtual void swiglu(const float* gate_up, std::uint32_t rows, std::uint32_t width, float* out) = 0;

    /// Norms (if any), rotates q and k, writes q and appends K and V to the cache.
    virtual void rope_and_append(const base::ModelShape& shape, const AppendArgs& args) = 0;

    /// Causal grouped-query attention over the block-major cache; row r of a sequence sees positions [0, position + r].
    virtual void attention(const base::ModelShape& shape, const AttentionArgs& args) = 0;
};

struct BackendOptions {
    std::string_view family = "auto";  // auto: the best this machine can run
    std::uint32_t threads = 1;         // compute threads, the caller's included
    std::vector<std::uint32_t> cpus;   // pin to these processors; empty: do not pin
};

/// Error: unimplemented when the machine lacks the instructions of an explicitly named family; invalid_argument for an
/// unknown name.
base::Result<std::unique_ptr<Backend>> make_backend(const BackendOptions& options);

/// Packs rows [output_begin, output_begin + outputs) of a row-major checkpoint matrix. `source`: [outputs, inputs] of
/// f32, f16 or bf16 (`source_format`), `out`: packed_bytes(...) bytes. Rounds to nearest even where precision is lost.
enum class SourceFormat : std::uint32_t { f32, f16, bf16 };
void pack_matrix(SourceFormat source_format, const std::byte* source, std::uint32_t outputs, std::uint32_t inputs,
                 WeightFormat format, std::byte* out);

}  // namespace engine
