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
#include "engine/kernels/backend_options.h"
#include "engine/kernels/encoder_operators.h"
#include "engine/kernels/packing.h"
#include "engine/kernels/step_types.h"
#include "engine/sampling.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// What a buffer of activations holds. Each backend chooses the type of the elements, kind by kind.
enum class Activation : std::uint32_t { residual, normed, delta, qkv, q, attention, gate_up, activated, logits };

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

/// y = (silu(x * G^T) * (x * U^T)) * down^T, where G and U are the halves of gate_up.
struct MlpArgs {
    const PackedMatrix* gate_up = nullptr;  // [2 * down->inputs, hidden]
    const PackedMatrix* down = nullptr;
    const void* x = nullptr;  // [rows, hidden]
    std::uint32_t rows = 0;
    void* gate_up_rows = nullptr;    // room for [rows, 2 * down->inputs] ...
    void* activated_rows = nullptr;  // ... and [rows, down->inputs] between the operators
    void* y = nullptr;               // out [rows, hidden], of kind `kind`
    Activation kind = Activation::delta;
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

/// The operators of a decoder-only transformer over buffers of fixed place in the memory of one device. Backends:
/// reference (plain loops), avx2, avx512, amx, cuda. Called from one thread at a time.
///
/// On the host operators have run when they return (with the backend's own threads inside), and the calls around a step
/// do nothing. On a GPU operators are only started; a failure is kept, the rest of the step is skipped, and
/// read_rows(), choose() and end_step() tell. docs/decisions/0012-one-graph-for-cpu-and-gpu.md.
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

    /// "reference", "avx2", "avx512", "amx", "cuda".
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
    /// How a model is kept here whose matrices are `stored` so, after the options that this backend was made with.
    virtual ModelFormats choose_formats(WeightFormat stored) const = 0;
    /// Rounds rows of bf16 to e4m3 with one scale each, on `stream` of this backend's device, where all four lie:
    /// `rows` [count, width], width a multiple of 16; `out`: [count, width] bytes, `scales`: [count].
    /// Only where choose_formats() may say fp8. Error: internal.
    virtual base::Result<void> quantize_rows(const std::byte* rows, std::uint32_t count, std::uint32_t width,
                                             std::byte* out, float* scales, device::Stream& stream);

    /// What an encoder takes besides embed() and linear(); null: this backend runs none. No prepare() and no calls
    /// around a step go before these.
    virtual EncoderOperators* encoder() { return nullptr; }

    /// Once, before the first step: what has to be uploaded or allocated.
    /// Error: resource_exhausted; unimplemented for a shape or KV format that the kernels do not have.
    virtual base::Result<void> prepare(const ModelLimits& /*limits*/) { return {}; }

    /// Hands over what changes from step to step. Then: run(), perhaps read_rows() or choose(), end_step().
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

    /// linear() by gate_up, swiglu(), linear() by down; the same bits.
    virtual void mlp(const MlpArgs& args);

    /// Norms (if any), rotates q and k, writes q and appends K and V to the cache.
    virtual void rope_and_append(const base::ModelShape& shape, const AppendArgs& args) = 0;

    /// Causal grouped-query attention over the block-major cache; row r of a sequence sees positions [0, position + r].
    virtual void attention(const base::ModelShape& shape, const AttentionArgs& args) = 0;

    /// Moves the step's wanted rows of a buffer `[rows, width]` of kind `kind` to its front.
    virtual void keep_wanted(const StepRows& step, Activation kind, void* rows, std::uint32_t width);

    /// `count` rows (at most ModelLimits::logit_rows) of logits or of normed hidden states as floats where the
    /// processor can read them, once they are there; until the next call of this backend. Error: internal.
    virtual base::Result<std::span<const float>> read_rows(const void* rows, Activation /*kind*/, std::uint32_t count,
                                                           std::uint32_t width) {
        return std::span(static_cast<const float*>(rows), std::size_t{count} * width);
    }
    /// Chooses tokens from `choices.size()` rows of logits where they are, bit by bit as engine::Sampler does:
    /// `chosen[i]` of row i, or resource_exhausted where the row has to be read by the caller.
    /// False: this backend samples nothing (and nothing was done).
    virtual base::Result<bool> choose(const void* /*logits*/, std::uint32_t /*vocabulary*/,
                                      std::span<const RowChoice> /*choices*/,
                                      std::vector<base::Result<SampledToken>>& /*chosen*/) {
        return false;
    }
};

/// Error: unimplemented when the machine lacks the instructions of an explicitly named family, or the build lacks CUDA;
/// unavailable when the GPU cannot be used; invalid_argument for an unknown name; unimplemented or invalid_argument for
/// options that the backend does not have, saying what to set.
base::Result<std::unique_ptr<Backend>> make_backend(const BackendOptions& options);

}  // namespace engine
