#include "engine/kernels/cuda/cuda_backend.h"

#include <cublasLt.h>

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "device/cuda/cuda_device.h"
#include "device/cuda/cuda_library.h"
#include "device/cuda/cuda_native.h"
#include "engine/kernels/cuda/cuda_engine_backend.h"
#include "engine/kernels/cuda/cuda_options.h"
#include "engine/kernels/cuda/dependent_launch.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::Result;
using cuda::Bf16;

/// Raise when any kernel of this folder changes its numbers.
constexpr std::uint32_t kNumericsVersion = 1;
/// Of cuBLASLt; what it wants on Hopper.
constexpr std::size_t kBlasWorkspaceBytes = std::size_t{32} << 20;
/// Of attention_decode: beyond it rows are done in pieces, which by then fill the chip many times over.
constexpr std::size_t kAttentionScratchBytes = std::size_t{256} << 20;
constexpr std::uint64_t kElementsMax = (std::uint64_t{1} << 31) - 1;  // of a buffer; kernels count in 32 bits

std::int32_t narrow(std::size_t value) {
    CHECK(value <= kElementsMax);
    return static_cast<std::int32_t>(value);
}

cuda::DeviceMatrix device_matrix(const PackedMatrix& w) {
    CHECK(w.format == WeightFormat::bf16);
    return {.data = reinterpret_cast<const Bf16*>(w.data), .outputs = narrow(w.outputs), .inputs = narrow(w.inputs)};
}

cuda::LinearOutput output_of(Activation kind) {
    switch (kind) {
        case Activation::delta:
        case Activation::logits:
            return cuda::LinearOutput::f32;
        default:
            return cuda::LinearOutput::bf16;
    }
}

/// "cuda sm90 cublaslt130100": what else than our own version decides the numbers.
std::string name_numbers(std::uint32_t sm, bool has_library, bool prefill_by_wgmma) {
    std::string name = "cuda sm" + std::to_string(sm) + (prefill_by_wgmma ? " wgmma" : "");
    if (!has_library) { return name + " fixed order"; }
    std::size_t version = 0;
    if (const auto blas = device::blas_library()) {
        if (const auto get = blas->find<std::size_t (*)()>("cublasLtGetVersion"); get != nullptr) { version = get(); }
    }
    return name + " cublaslt" + std::to_string(version);
}

}  // namespace

Result<std::unique_ptr<Backend>> make_cuda_backend(const BackendOptions& options) {
    return CudaBackend::make(options);
}

Result<std::unique_ptr<Backend>> CudaBackend::make(const BackendOptions& options) {
    if (auto checked = check_cuda_options(options); !checked) { return base::pass_on(checked); }
    auto device = device::cuda_device(options.device_index);
    if (!device) { return base::pass_on(device, "kernels: cuda"); }
    if (auto used = device::use_cuda_device(options.device_index); !used) { return base::pass_on(used); }
    std::unique_ptr<CudaBackend> backend(new CudaBackend(**device, options));
    auto stream = (*device)->make_stream();
    if (!stream) { return base::pass_on(stream); }
    backend->stream_owner_ = std::move(*stream);
    backend->stream_ = device::native_stream(*backend->stream_owner_);
    if (!options.deterministic && device::blas_library()) {
        cudaError_t code = cudaSuccess;
        backend->library_ = cuda::MatmulLibrary::make(kBlasWorkspaceBytes, &code);
        if (backend->library_ == nullptr) { return tl::unexpected(device::cuda_error(code, "starting cuBLASLt")); }
    }
    cudaDeviceProp properties{};
    if (const cudaError_t code = cudaGetDeviceProperties(&properties, static_cast<int>(options.device_index));
        code != cudaSuccess) {
        return tl::unexpected(device::cuda_error(code, "asking what GPU this is"));
    }
    const bool by_wgmma = options.prefill_attention == "wgmma";
    if (by_wgmma && (properties.major != 9 || properties.minor != 0)) {
        return base::fail(ErrorCode::unimplemented,
                          "prefill_attention is 'wgmma', which only GPUs of compute capability 9.0 have; " +
                              std::string(properties.name) + " has " + std::to_string(properties.major) + "." +
                              std::to_string(properties.minor) + ": set it to auto");
    }
    bool can_depend = true;
    if (options.dependent_launch) {
        const cudaError_t code = cuda::can_launch_dependently(&can_depend);
        if (code != cudaSuccess) {
            return tl::unexpected(device::cuda_error(code, "asking how kernels were compiled"));
        }
    }
    if (!can_depend) {
        return base::fail(ErrorCode::unimplemented,
                          "dependent_launch is true, which needs compute capability 9.0 or more, and a build for it; " +
                              std::string(properties.name) + " has " + std::to_string(properties.major) + "." +
                              std::to_string(properties.minor) + ": set it to false");
    }
    backend->sm_ = static_cast<std::uint32_t>(properties.major * 10 + properties.minor);
    if (auto checked = backend->check_fp8(); !checked) { return base::pass_on(checked); }
    backend->numerics_name_ = name_numbers(backend->sm_, backend->library_ != nullptr, by_wgmma);
    return backend;
}

std::uint32_t CudaBackend::numerics_version() const {
    return kNumericsVersion;
}

std::size_t CudaBackend::element_bytes(Activation kind) const {
    switch (kind) {
        case Activation::residual:
        case Activation::delta:
        case Activation::logits:
            return sizeof(float);
        case Activation::normed:
        case Activation::qkv:
        case Activation::q:
        case Activation::attention:
        case Activation::gate_up:
        case Activation::activated:
            return sizeof(Bf16);
    }
    return sizeof(float);
}

Result<void> CudaBackend::prepare(const ModelLimits& limits) {
    const base::ModelShape& shape = *limits.shape;
    const kv_cache::KvLayout& layout = limits.kv->layout();
    const auto refuse = [](const std::string& what) {
        return base::fail(ErrorCode::unimplemented, "kernels: cuda: " + what);
    };
    if (layout.format().dtype != kv_cache::KvDtype::bf16 || layout.format().order != tile_order()) {
        return refuse("KV is stored as " + layout.format().name() + ", the kernels read bf16/token_major");
    }
    if (layout.groups().size() != 1 || layout.layer_stride() != 2 * layout.kv_heads() * layout.tile_bytes()) {
        return refuse("KV with scales, or in several groups");
    }
    if (shape.head_dim % 2 != 0 || shape.head_dim > 256) {
        return refuse("head_dim is " + std::to_string(shape.head_dim) + ", must be even and at most 256");
    }
    const std::uint64_t widest =
        std::max<std::uint64_t>({std::uint64_t{2} * shape.intermediate, shape.hidden,
                                 (shape.heads_q + std::uint64_t{2} * shape.heads_kv) * shape.head_dim});
    if (limits.batch_tokens * widest > kElementsMax ||
        std::uint64_t{limits.logit_rows} * shape.vocabulary > kElementsMax) {
        return base::fail(ErrorCode::invalid_argument,
                          "batch_tokens_max " + std::to_string(limits.batch_tokens) + " or batch_sequences_max " +
                              std::to_string(limits.logit_rows) + " is too large for this model on CUDA");
    }
    const bool by_wgmma = options_.prefill_attention == "wgmma";
    if (by_wgmma &&
        !cuda::attention_hopper_can(narrow(shape.heads_q), narrow(shape.heads_kv), narrow(shape.head_dim))) {
        return refuse("prefill_attention: wgmma: heads must have 64 or 128 dims; this model's have " +
                      std::to_string(shape.head_dim) + ": set it to auto");
    }
    if (auto used = device::use_cuda_device(options_.device_index); !used) { return used; }
    limits_ = limits;
    if (by_wgmma) {
        pool_map_.emplace();
        const cudaError_t code =
            cuda::make_kv_pool_map(kv_layer(*limits.kv, 0), limits.kv->blocks_total(), &*pool_map_);
        if (code != cudaSuccess) { return tl::unexpected(device::cuda_error(code, "describing the KV pool to TMA")); }
    }

    const std::size_t half = limits.rope->cosines.size() * sizeof(float);
    auto rope = device_->allocate(2 * half);
    if (!rope) { return base::pass_on(rope, "rotary tables"); }
    rope_ = std::move(*rope);
    const std::pair<std::byte*, const std::vector<float>*> tables[] = {{rope_.data(), &limits.rope->cosines},
                                                                       {rope_.data() + half, &limits.rope->sines}};
    for (const auto& [target, table] : tables) {
        auto copied =
            device_->copy_async(*stream_owner_, target, reinterpret_cast<const std::byte*>(table->data()), half);
        if (!copied) { return copied; }
    }
    cosines_ = reinterpret_cast<const float*>(rope_.data());
    sines_ = reinterpret_cast<const float*>(rope_.data() + half);

    auto buffers = cuda::StepBuffers::make(
        *device_, {.batch_tokens = limits.batch_tokens,
                   .batch_sequences = limits.batch_sequences,
                   .context_tokens = static_cast<std::uint32_t>(limits.rope->cosines.size() / (shape.head_dim / 2)),
                   .block_tokens = layout.block_tokens(),
                   .tile_tokens = static_cast<std::uint32_t>(
                       cuda::prefill_tile_tokens(narrow(shape.heads_q), narrow(shape.heads_kv))),
                   .blocks_total = limits.kv->blocks_total()});
    if (!buffers) { return base::pass_on(buffers); }
    buffers_.emplace(std::move(*buffers));
    if (limits.weight_format == WeightFormat::fp8) {
        if (auto prepared = prepare_fp8(limits); !prepared) { return prepared; }
    }
    if (auto allocated = allocate_scratch(limits); !allocated) { return allocated; }
    return stream_owner_->synchronize();
}

/// All that a step may need and whose size the limits tell: a step must not find the memory taken.
Result<void> CudaBackend::allocate_scratch(const ModelLimits& limits) {
    const base::ModelShape& shape = *limits.shape;
    const auto context_tokens = static_cast<std::uint32_t>(limits.rope->cosines.size() / (shape.head_dim / 2));
    const auto attention_bytes = [&](std::uint32_t rows) {
        return cuda::attention_decode_scratch_bytes(narrow(rows), narrow(shape.heads_q), narrow(shape.head_dim),
                                                    narrow(cuda::context_bucket(context_tokens)));
    };
    const std::size_t logits = std::size_t{limits.logit_rows} * shape.vocabulary * sizeof(float);
    const std::size_t widest_kept =
        std::max(shape.hidden * element_bytes(Activation::residual),
                 std::size_t{shape.heads_q} * shape.head_dim * element_bytes(Activation::q));
    struct Wish {
        device::Buffer* buffer;
        std::size_t bytes;
        bool on_host;
        const char* what;
    };
    const Wish wishes[] = {
        {&attention_scratch_,
         std::max(attention_bytes(1), std::min(attention_bytes(limits.batch_tokens), kAttentionScratchBytes)), false,
         "scratch memory of attention"},
        {&kept_rows_, limits.batch_tokens * widest_kept, false, "room for rows whose logits are wanted"},
        {&changed_logits_, logits, false, "logits that penalties change"},
        {&host_rows_, std::max(logits, limits.logit_rows * shape.hidden * element_bytes(Activation::normed)), true,
         "logits on the host"}};
    for (const Wish& wish : wishes) {
        auto buffer = wish.on_host ? device_->allocate_host(wish.bytes) : device_->allocate(wish.bytes);
        if (!buffer) { return base::pass_on(buffer, wish.what); }
        *wish.buffer = std::move(*buffer);
    }
    return {};
}

void CudaBackend::embed(const PackedMatrix& table, std::span<const base::TokenId> /*tokens*/, void* out) {
    if (has_failed()) { return; }
    note(cuda::embed(reinterpret_cast<const Bf16*>(table.data), narrow(table.outputs), narrow(table.inputs),
                     step_.tokens, step_.all.rows, static_cast<float*>(out), stream_),
         "embed");
}

void CudaBackend::rms_norm(const void* x, const float* weight, float eps, std::uint32_t rows, std::uint32_t width,
                           void* out) {
    if (has_failed()) { return; }
    note(cuda::rms_norm(static_cast<const float*>(x), weight, eps, narrow(rows), narrow(width), static_cast<Bf16*>(out),
                        stream_, quantized_rows(out)),
         "rms_norm");
}

void CudaBackend::add_rms_norm(void* residual, const void* delta, const float* weight, float eps, std::uint32_t rows,
                               std::uint32_t width, void* out) {
    if (has_failed()) { return; }
    note(cuda::add_rms_norm(static_cast<float*>(residual), static_cast<const float*>(delta), delta_bias_, weight, eps,
                            narrow(rows), narrow(width), static_cast<Bf16*>(out), stream_, quantized_rows(out)),
         "add_rms_norm");
}

void CudaBackend::linear(const PackedMatrix& w, const void* x, std::uint32_t rows, const float* bias, void* y,
                         Activation kind) {
    CHECK(bias == nullptr || kind == Activation::qkv || kind == Activation::delta);
    if (kind == Activation::qkv) { qkv_bias_ = bias; }
    if (kind == Activation::delta) { delta_bias_ = bias; }
    if (has_failed()) { return; }
    if (w.format == WeightFormat::fp8) {
        note(linear_fp8(w, x, rows, output_of(kind), y), "linear in FP8");
        return;
    }
    const cuda::DeviceMatrix matrix = device_matrix(w);
    const auto* from = static_cast<const Bf16*>(x);
    const cuda::LinearOutput output = output_of(kind);
    cudaError_t code = cudaErrorNotSupported;
    if (library_ != nullptr && narrow(rows) > cuda::kStreamingRows) {
        code = library_->linear(matrix, from, narrow(rows), output, y, stream_);
    }
    // The library has nothing for some small odd shapes.
    if (code == cudaErrorNotSupported) {
        code = cuda::linear_fixed_order(matrix, from, narrow(rows), output, y, stream_);
    }
    note(code, "linear");
}

void CudaBackend::swiglu(const void* gate_up, std::uint32_t rows, std::uint32_t width, void* out) {
    if (has_failed()) { return; }
    note(cuda::swiglu(static_cast<const Bf16*>(gate_up), narrow(rows), narrow(width), static_cast<Bf16*>(out), stream_,
                      quantized_rows(out)),
         "swiglu");
}

cuda::KvLayer CudaBackend::kv_layer(const kv_cache::KvStore& kv, std::uint32_t layer) const {
    const kv_cache::KvLayout& layout = kv.layout();
    return {// The kernels take one type for reading and writing.
            .base = const_cast<std::byte*>(kv.block(base::BlockId{0})),
            .block_bytes = layout.block_bytes(),
            .layer_offset = layout.tile_offset(layer, kv_cache::KvPart::k, 0),
            .tile_bytes = layout.tile_bytes(),
            .kv_heads = narrow(layout.kv_heads()),
            .head_dim = narrow(layout.head_dim()),
            .block_tokens = narrow(layout.block_tokens())};
}

void CudaBackend::rope_and_append(const base::ModelShape& shape, const AppendArgs& args) {
    if (has_failed()) { return; }
    CHECK(args.rope == limits_.rope && narrow(args.rows) == step_.all.rows);
    note(cuda::rope_and_append({.qkv = static_cast<const Bf16*>(args.qkv),
                                .qkv_bias = qkv_bias_,
                                .rows = step_.all.rows,
                                .heads_q = narrow(shape.heads_q),
                                .cosines = cosines_,
                                .sines = sines_,
                                .q_norm = args.q_norm,
                                .k_norm = args.k_norm,
                                .norm_eps = args.norm_eps,
                                .map = {.block_tables = step_.block_tables,
                                        .table_stride = step_.table_stride,
                                        .row_sequence = step_.all.row_sequence,
                                        .row_position = step_.all.row_position},
                                .kv = kv_layer(*args.kv, args.layer),
                                .q = static_cast<Bf16*>(args.q)},
                               stream_),
         "rope_and_append");
}

void CudaBackend::attention(const base::ModelShape& shape, const AttentionArgs& args) {
    if (has_failed()) { return; }
    const cuda::DeviceRows& rows = args.rows == RowSet::all ? step_.all : step_.wanted;
    const cuda::AttentionArguments arguments{.q = static_cast<const Bf16*>(args.q),
                                             .heads_q = narrow(shape.heads_q),
                                             .scale = args.scale,
                                             .block_tables = step_.block_tables,
                                             .table_stride = step_.table_stride,
                                             .kv = kv_layer(*args.kv, args.layer),
                                             .out = static_cast<Bf16*>(args.out)};
    if (rows.tile_count > 0) {
        note(pool_map_ ? cuda::attention_prefill_hopper(arguments, *pool_map_, rows.tiles, rows.tile_count, stream_)
                       : cuda::attention_prefill(arguments, rows.tiles, rows.tile_count, stream_),
             "attention_prefill");
    }
    if (rows.decode_count > 0 && !has_failed()) {
        note(cuda::attention_decode(arguments, rows.row_sequence, rows.row_position, rows.decode_rows,
                                    rows.decode_count, rows.context_tokens_max, attention_scratch_.data(),
                                    attention_scratch_.size(), stream_),
             "attention_decode");
    }
}

void CudaBackend::keep_wanted(const StepRows& step, Activation kind, void* rows, std::uint32_t width) {
    if (has_failed() || shape_.is_replayable || step.rows_wanted.size() == step.tokens.size()) { return; }
    const std::size_t row_bytes = width * element_bytes(kind);
    const std::size_t bytes = step.rows_wanted.size() * row_bytes;
    CHECK(bytes <= kept_rows_.size(), bytes << " bytes of " << kept_rows_.size());
    note(cuda::gather_rows(rows, row_bytes, step_.rows_wanted, narrow(step.rows_wanted.size()), kept_rows_.data(),
                           stream_),
         "gather_rows");
    if (has_failed()) { return; }
    note(device_->copy_async(*stream_owner_, static_cast<std::byte*>(rows), kept_rows_.data(), bytes));
    cuda::interrupt_dependent_launches();
}

}  // namespace engine
