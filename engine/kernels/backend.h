#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "base/model_shape.h"
#include "base/result.h"
#include "device/device.h"
#include "engine/sampling.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// How the matrices of a model are stored after packing. fp8: those of the layers as e4m3 with one scale per output,
/// multiplied with activations that are rounded the same way, row by row; embedding and head stay bf16
/// (docs/decisions/0013-fp8-weights.md).
enum class WeightFormat : std::uint32_t { f32 = 0, bf16 = 1, fp8 = 2 };
std::string_view name_of(WeightFormat format);  // as settings spell it: "bf16"

/// In which order.
/// panels: one order for all CPU backends, so that they share one file: outputs in panels of 16 (the last one padded
/// with zeros), `[panel][inputs / e][16][e]` with e = 2 for bf16 (the pair that one vdpbf16ps lane takes; an odd number
/// of inputs is padded with a zero) and e = 1 for f32. row_major: `[outputs][inputs]`, as in checkpoints; CUDA.
enum class WeightOrder : std::uint32_t { panels = 0, row_major = 1 };

/// A weight matrix `[outputs, inputs]` in the backend's order, in a mapped file or in the memory of its device;
/// borrowed, read-only.
struct PackedMatrix {
    WeightFormat format = WeightFormat::f32;
    std::uint32_t outputs = 0;
    std::uint32_t inputs = 0;
    const std::byte* data = nullptr;  // 64-byte aligned
    const float* scales = nullptr;    // fp8: [outputs], W[o][i] = e4m3(data[o][i]) * scales[o]; else null
};

/// Bytes of the packed form in panels, of f32 or bf16.
std::size_t packed_bytes(WeightFormat format, std::uint32_t outputs, std::uint32_t inputs);

/// One sequence's rows in a batch: rows [row_begin, row_begin + rows) are its tokens at positions
/// [position, position + rows).
struct SequenceRows {
    std::uint32_t row_begin = 0;
    std::uint32_t rows = 0;
    std::uint32_t position = 0;
    std::span<const base::BlockId> blocks;  // cover positions [0, position + rows)
    std::uint32_t sequence = 0;             // its place in StepRows::sequences
};

/// What one step works on. Stays unchanged from begin_step() to end_step().
struct StepRows {
    std::span<const base::TokenId> tokens;           // [rows], sequence after sequence
    std::span<const SequenceRows> sequences;         // cover the rows in order
    std::span<const std::uint32_t> rows_wanted;      // rows whose logits are wanted, ascending
    std::span<const SequenceRows> sequences_wanted;  // the same as runs; row_begin counts the wanted rows alone
};

/// Which rows an operator works on: all of a step, or the wanted ones moved to the front (keep_wanted()).
enum class RowSet : std::uint32_t { all, wanted };

/// What a buffer of activations holds. Each backend chooses the type of the elements, kind by kind.
enum class Activation : std::uint32_t { residual, normed, delta, qkv, q, attention, gate_up, activated, logits };

/// Rotary tables, made once per model with our own sine and cosine: `[context_tokens][head_dim / 2]` each.
struct RopeTable {
    std::uint32_t head_dim = 0;
    std::vector<float> cosines;
    std::vector<float> sines;
};

/// q, k and v of a batch after the fused projection, and where they go.
struct AppendArgs {
    const void* qkv = nullptr;  // [rows, (heads_q + 2 * heads_kv) * head_dim]: q heads, then k heads, then v heads
    std::uint32_t rows = 0;
    std::span<const SequenceRows> sequences;
    const RopeTable* rope = nullptr;  // rotates halves: (x[i], x[i + head_dim / 2]), as Hugging Face does
    const float* q_norm = nullptr;    // [head_dim] or null (Qwen3: RMS norm of each head before RoPE)
    const float* k_norm = nullptr;
    float norm_eps = 0;
    std::uint32_t layer = 0;
    void* q = nullptr;                // out [rows, heads_q * head_dim], rotated
    kv_cache::KvStore* kv = nullptr;  // out: K and V of these positions, rounded to the KV format
};

struct AttentionArgs {
    const void* q = nullptr;  // [rows, heads_q * head_dim]
    std::span<const SequenceRows> sequences;
    std::uint32_t layer = 0;
    float scale = 0;  // 1 / sqrt(head_dim)
    const kv_cache::KvStore* kv = nullptr;
    void* out = nullptr;        // [rows, heads_q * head_dim]
    RowSet rows = RowSet::all;  // what `sequences` are: the step's, or its wanted ones
};

/// What a backend keeps at a fixed place for the life of a model. All pointers live longer than the backend's work.
struct ModelLimits {
    const base::ModelShape* shape = nullptr;
    const RopeTable* rope = nullptr;
    const kv_cache::KvStore* kv = nullptr;
    std::uint32_t batch_tokens = 0;                  // rows of a step at most
    std::uint32_t batch_sequences = 0;               // sequences of a step at most
    std::uint32_t logit_rows = 0;                    // rows of logits at a time
    WeightFormat weight_format = WeightFormat::f32;  // of the layers' matrices
};

/// How a step is carried out.
struct StepPlan {
    std::uint32_t rows = 0;  // rows that operators work on; more than the step's where idle rows fill up a bucket
    std::uint32_t rows_wanted = 0;  // the same of the wanted rows
    bool is_replayed = false;       // run() may repeat what it recorded in an earlier step
};

/// How one wanted row of logits becomes a token: a draw, or the log-probability of a given one.
struct RowChoice {
    const SamplerContext* draw = nullptr;  // Sampler::sample(); null: score
    base::TokenId score_target = 0;        // Sampler::score()
    std::uint32_t score_top = 0;
};

/// The operators of a decoder-only transformer over buffers of fixed place in the memory of one device. Backends:
/// reference (plain loops), avx2, avx512, cuda. Called from one thread at a time.
///
/// On the host operators have run when they return (with the backend's own threads inside), and the calls around a step
/// do nothing. On a GPU operators are only started; a failure is kept, the rest of the step is skipped, and
/// read_logits(), choose() and end_step() tell. docs/decisions/0012-one-graph-for-cpu-and-gpu.md.
///
/// Every operator gives bit-identical numbers for a row whatever else is in the batch, for any number of rows and
/// threads (design 4.1): per output element one order of accumulation along K; attention in key partitions at fixed
/// absolute positions, merged in ascending order; K and V read back as stored. (CUDA: in its deterministic mode, or
/// where the products' library has no say.)
///
/// Activations are passed as `void*`: [rows, width] elements of element_bytes(kind), float on every CPU backend.
class Backend {
public:
    virtual ~Backend() = default;

    /// "reference", "avx2", "avx512", "cuda".
    virtual std::string_view family() const = 0;
    /// All that decides the bits of a result besides numerics_version(): the family, for CUDA also chip and libraries.
    virtual std::string numerics_name() const { return std::string(family()); }
    /// Raised whenever numbers change; part of the numerics id.
    virtual std::uint32_t numerics_version() const = 0;
    /// The order of KV tiles that `append` and `attention` of this backend want.
    virtual kv_cache::TileOrder tile_order() const = 0;
    virtual std::uint32_t threads() const = 0;

    /// Where activations, weights and KV live.
    virtual device::Device& device() { return device::host_device(); }
    virtual WeightOrder weight_order() const { return WeightOrder::panels; }
    virtual std::size_t element_bytes(Activation /*kind*/) const { return sizeof(float); }
    /// Whether models can be stored so here. Error: unimplemented, with what to do.
    virtual base::Result<void> check_weight_format(WeightFormat format) const;
    /// Rounds rows of bf16 to e4m3 with one scale each, on `stream` of this backend's device, where all four lie:
    /// `rows` [count, width], width a multiple of 16; `out`: [count, width] bytes, `scales`: [count].
    /// Only where check_weight_format(fp8) allows it. Error: internal.
    virtual base::Result<void> quantize_rows(const std::byte* rows, std::uint32_t count, std::uint32_t width,
                                             std::byte* out, float* scales, device::Stream& stream);

    /// Once, before the first step: what has to be uploaded or allocated.
    /// Error: resource_exhausted; unimplemented for a shape or KV format that the kernels do not have.
    virtual base::Result<void> prepare(const ModelLimits& /*limits*/) { return {}; }

    /// Hands over what changes from step to step. Then: run(), perhaps read_logits() or choose(), end_step().
    /// Error: resource_exhausted, internal (then there is no step to end).
    virtual base::Result<StepPlan> begin_step(const StepRows& step) {
        return StepPlan{static_cast<std::uint32_t>(step.tokens.size()),
                        static_cast<std::uint32_t>(step.rows_wanted.size())};
    }
    /// Calls `operators`, or repeats what they did in an earlier step with the same plan.
    virtual void run(const std::function<void()>& operators) { operators(); }
    /// `news` is called when all that was started so far has run, from within this or a later call of this step; in
    /// order; not at all when something has failed.
    virtual void when_done(std::function<void()> news) { news(); }
    /// Waits for the step. Error: the first failure of it (internal: the device has failed).
    virtual base::Result<void> end_step() { return {}; }

    /// out[row] = table[token of row]; out: residual. `table` is [vocabulary, hidden]; it may be the (tied) head's
    /// packed matrix. `tokens`: the step's.
    virtual void embed(const PackedMatrix& table, std::span<const base::TokenId> tokens, void* out) = 0;

    /// out = x / sqrt(mean(x^2) + eps) * weight, per row. x: residual, out: normed, [rows, width]; weight: [width].
    virtual void rms_norm(const void* x, const float* weight, float eps, std::uint32_t rows, std::uint32_t width,
                          void* out) = 0;
    /// residual += delta, then out = rms_norm(residual). All [rows, width].
    virtual void add_rms_norm(void* residual, const void* delta, const float* weight, float eps, std::uint32_t rows,
                              std::uint32_t width, void* out) = 0;

    /// y = x * W^T (+ bias). x: [rows, inputs] (rounded to bf16 first where the format is bf16 and the family computes
    /// so, to e4m3 with a scale per row where it is fp8), y: [rows, outputs] of kind `kind`, bias: [outputs] or null
    /// (it may be added later, by the operator that reads y). Skinny and wide shapes give the same bits.
    virtual void linear(const PackedMatrix& w, const void* x, std::uint32_t rows, const float* bias, void* y,
                        Activation kind) = 0;

    /// out[row][i] = silu(gate_up[row][i]) * gate_up[row][width + i]. gate_up: [rows, 2 * width], out: [rows, width].
    virtual void swiglu(const void* gate_up, std::uint32_t rows, std::uint32_t width, void* out) = 0;

    /// Norms (if any), rotates q and k, writes q and appends K and V to the cache.
    virtual void rope_and_append(const base::ModelShape& shape, const AppendArgs& args) = 0;

    /// Causal grouped-query attention over the block-major cache; row r of a sequence sees positions [0, position + r].
    virtual void attention(const base::ModelShape& shape, const AttentionArgs& args) = 0;

    /// Moves the step's wanted rows of a buffer `[rows, width]` of kind `kind` to its front.
    virtual void keep_wanted(const StepRows& step, Activation kind, void* rows, std::uint32_t width);

    /// `count` rows of logits where the processor can read them, once they are there; until the next call of this
    /// backend. Error: internal.
    virtual base::Result<std::span<const float>> read_logits(const void* logits, std::uint32_t count,
                                                             std::uint32_t vocabulary) {
        return std::span(static_cast<const float*>(logits), std::size_t{count} * vocabulary);
    }
    /// Chooses tokens from `choices.size()` rows of logits where they are, bit by bit as engine::Sampler does:
    /// `chosen[i]` of row i, or resource_exhausted where the row has to be read and sampled by the caller.
    /// False: this backend samples nothing (and nothing was done).
    virtual base::Result<bool> choose(const void* /*logits*/, std::uint32_t /*vocabulary*/,
                                      std::span<const RowChoice> /*choices*/,
                                      std::vector<base::Result<SampledToken>>& /*chosen*/) {
        return false;
    }
};

struct BackendOptions {
    std::string_view family = "auto";  // auto: the best this machine's processor can run
    std::uint32_t threads = 1;         // compute threads, the caller's included
    std::vector<std::uint32_t> cpus;   // pin to these processors; empty: do not pin
    std::uint32_t device_index = 0;    // cuda: which GPU
    bool deterministic = false;        // cuda: only products whose order of sums is fixed; the others always do so
    bool prefill_by_wgmma = false;     // cuda, Hopper: attention of chunks by its own instructions
    bool dependent_launch = false;     // cuda 9.0: kernels of a step may begin before the one before; same bits
};

/// Error: unimplemented when the machine lacks the instructions of an explicitly named family, or the build lacks CUDA;
/// unavailable when the GPU cannot be used; invalid_argument for an unknown name.
base::Result<std::unique_ptr<Backend>> make_backend(const BackendOptions& options);

/// Packs rows [output_begin, output_begin + outputs) of a row-major checkpoint matrix. `source`: [outputs, inputs] of
/// f32, f16 or bf16 (`source_format`), `out`: packed_bytes(...) bytes. Rounds to nearest even where precision is lost.
enum class SourceFormat : std::uint32_t { f32, f16, bf16 };
void pack_matrix(SourceFormat source_format, const std::byte* source, std::uint32_t outputs, std::uint32_t inputs,
                 WeightFormat format, std::byte* out);

}  // namespace engine
