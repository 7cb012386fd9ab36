#include "bench/gpu/synthetic_step.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>

#include "engine/kernels/cuda/dependent_launch.h"

namespace gpu_bench {
namespace {

namespace cuda = engine::cuda;
using cuda::Bf16;
using cuda::LinearOutput;

constexpr std::size_t kRandomElements = std::size_t{1} << 24;
constexpr std::int32_t kBlockTokens = 16;

Bf16 bf16_of(float value) {
    std::uint32_t word = 0;
    std::memcpy(&word, &value, 4);
    return static_cast<Bf16>((word + 0x7fffu + ((word >> 16) & 1u)) >> 16);
}

#define STEP_TRY(call)                                        \
    do {                                                      \
        const cudaError_t step_error = (call);                \
        if (step_error != cudaSuccess) { return step_error; } \
    } while (false)

}  // namespace

DeviceMemory::~DeviceMemory() {
    for (void* piece : pieces_) {
        cudaFree(piece);
    }
}

void* DeviceMemory::allocate_bytes(std::size_t bytes) {
    void* piece = nullptr;
    note(cudaMalloc(&piece, std::max<std::size_t>(bytes, 16)));
    if (piece != nullptr) { pieces_.push_back(piece); }
    return piece;
}

Bf16* DeviceMemory::allocate_random(std::size_t count, float deviation) {
    std::vector<Bf16> block(std::min(count, kRandomElements));
    std::mt19937 random(static_cast<std::uint32_t>(pieces_.size()));
    if (random_ == nullptr || count < kRandomElements) {
        std::normal_distribution<float> normal(0, deviation);
        for (Bf16& value : block) {
            value = bf16_of(normal(random));
        }
    }
    Bf16* to = allocate<Bf16>(count);
    if (error_ != cudaSuccess) { return to; }
    if (count < kRandomElements) {
        note(cudaMemcpy(to, block.data(), count * sizeof(Bf16), cudaMemcpyHostToDevice));
        return to;
    }
    if (random_ == nullptr) {
        random_ = allocate<Bf16>(kRandomElements);
        if (error_ != cudaSuccess) { return to; }
        note(cudaMemcpy(random_, block.data(), kRandomElements * sizeof(Bf16), cudaMemcpyHostToDevice));
    }
    std::size_t shift = random() % (kRandomElements / 2);
    for (std::size_t done = 0; done < count;) {
        const std::size_t piece = std::min(count - done, kRandomElements - shift);
        note(cudaMemcpy(to + done, random_ + shift, piece * sizeof(Bf16), cudaMemcpyDeviceToDevice));
        done += piece;
        shift = random() % (kRandomElements / 2);
    }
    return to;
}

std::unique_ptr<SyntheticModel> SyntheticModel::make(const Options& options, cuda::MatmulLibrary& library,
                                                     cudaError_t* error) {
    std::unique_ptr<SyntheticModel> model(new SyntheticModel(options, library));
    model->allocate();
    *error = model->memory_.error();
    if (*error != cudaSuccess) { return nullptr; }
    return model;
}

cuda::DeviceMatrix SyntheticModel::random_matrix(std::int32_t outputs, std::int32_t inputs) {
    const std::size_t count = static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs);
    return {memory_.allocate_random(count, 0.02f), outputs, inputs};
}

void SyntheticModel::allocate_layers() {
    const StepShape& s = options_.shape;
    const std::vector<float> ones(static_cast<std::size_t>(s.hidden), 1.0f);
    // In FP8 every matrix is made of the same random numbers, each from elsewhere on.
    constexpr std::size_t kShifts = 4096;
    constexpr std::size_t kShift = 8;  // elements: 16 bytes
    DeviceMemory random;
    const Bf16* source = nullptr;
    if (options_.fp8) {
        const std::int32_t outputs = std::max({s.qkv_width(), s.hidden, 2 * s.intermediate});
        const std::int32_t inputs = std::max({s.hidden, s.q_width(), s.intermediate});
        const std::size_t most = std::max(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(s.hidden),
                                          static_cast<std::size_t>(s.hidden) * static_cast<std::size_t>(inputs));
        source = random.allocate_random(most + kShifts * kShift, 0.02f);
        memory_.note(random.error());
    }
    std::size_t made = 0;
    const auto matrix = [&](std::int32_t outputs, std::int32_t inputs) {
        Matrix w;
        if (!options_.fp8) {
            w.bf16 = random_matrix(outputs, inputs);
            return w;
        }
        auto* data =
            memory_.allocate<std::uint8_t>(static_cast<std::size_t>(outputs) * static_cast<std::size_t>(inputs));
        auto* scales = memory_.allocate<float>(static_cast<std::size_t>(outputs));
        if (memory_.error() == cudaSuccess) {
            memory_.note(
                cuda::quantize_rows_fp8(source + made++ % kShifts * kShift, outputs, inputs, data, scales, nullptr));
        }
        w.fp8 = {data, scales, outputs, inputs};
        return w;
    };
    for (std::int32_t i = 0; i < s.layers; ++i) {
        Layer layer;
        layer.norm = memory_.allocate_copy(ones);
        layer.qkv = matrix(s.qkv_width(), s.hidden);
        layer.output = matrix(s.hidden, s.q_width());
        layer.gate_up = matrix(2 * s.intermediate, s.hidden);
        layer.down = matrix(s.hidden, s.intermediate);
        layers_.push_back(layer);
    }
    if (options_.fp8) {
        const auto rows = static_cast<std::size_t>(options_.rows_max);
        const auto widest = static_cast<std::size_t>(std::max({s.hidden, s.q_width(), s.intermediate}));
        rounded_.data = memory_.allocate<std::uint8_t>(rows * widest);
        rounded_.scales = memory_.allocate<float>(rows);
        memory_.note(cudaDeviceSynchronize());  // before the random numbers go
    }
}

void SyntheticModel::allocate() {
    const StepShape& s = options_.shape;
    const auto rows = static_cast<std::size_t>(options_.rows_max);
    const auto hidden = static_cast<std::size_t>(s.hidden);
    const auto half = static_cast<std::size_t>(s.head_dim / 2);
    const auto context = static_cast<std::size_t>(options_.context_tokens_max);
    const std::vector<float> ones(hidden, 1.0f);
    allocate_layers();
    head_ = random_matrix(s.vocabulary, s.hidden);
    embedding_ = memory_.allocate_random(static_cast<std::size_t>(s.vocabulary) * hidden, 0.02f);
    final_norm_ = memory_.allocate_copy(ones);

    std::vector<float> cosines(context * half);
    std::vector<float> sines(context * half);
    for (std::size_t p = 0; p < context; ++p) {
        for (std::size_t i = 0; i < half; ++i) {
            const double angle =
                static_cast<double>(p) * std::pow(500000.0, -static_cast<double>(i) / static_cast<double>(half));
            cosines[p * half + i] = static_cast<float>(std::cos(angle));
            sines[p * half + i] = static_cast<float>(std::sin(angle));
        }
    }
    cosines_ = memory_.allocate_copy(cosines);
    sines_ = memory_.allocate_copy(sines);

    // Blocks in shuffled order: as after a while in service.
    table_stride_ = (options_.context_tokens_max + kBlockTokens - 1) / kBlockTokens;
    std::vector<std::int32_t> tables(static_cast<std::size_t>(table_stride_ * options_.sequences));
    const std::size_t block_bytes = kBlockTokens * s.kv_bytes_per_token();
    std::size_t blocks = tables.size();
    if (options_.pool_bytes_max > 0) { blocks = std::min(blocks, options_.pool_bytes_max / block_bytes); }
    for (std::size_t i = 0; i < tables.size(); ++i) {
        tables[i] = static_cast<std::int32_t>(i % blocks);
    }
    std::mt19937 random(1);
    std::shuffle(tables.begin(), tables.end(), random);
    block_tables_ = memory_.allocate_copy(tables);
    pool_ = reinterpret_cast<std::byte*>(memory_.allocate_random(blocks * block_bytes / sizeof(Bf16), 1.0f));
    cudaDeviceProp properties;
    const bool asked = cudaGetDeviceProperties(&properties, 0) == cudaSuccess;
    if (asked && properties.major == 9 && properties.minor == 0) {
        cuda::KvPoolMap map;
        if (cuda::make_kv_pool_map(kv_layer(0), static_cast<std::int64_t>(blocks), &map) == cudaSuccess) {
            pool_map_ = map;
        }
    }

    tokens_ = memory_.allocate<std::int32_t>(rows);
    row_sequence_ = memory_.allocate<std::int32_t>(rows);
    row_position_ = memory_.allocate<std::int32_t>(rows);
    last_row_ = memory_.allocate<std::int32_t>(1);
    tiles_ = memory_.allocate<cuda::PrefillTile>(rows);
    residual_ = memory_.allocate<float>(rows * hidden);
    last_residual_ = memory_.allocate<float>(hidden);
    normed_ = memory_.allocate<Bf16>(rows * hidden);
    qkv_ = memory_.allocate<Bf16>(rows * static_cast<std::size_t>(s.qkv_width()));
    q_ = memory_.allocate<Bf16>(rows * static_cast<std::size_t>(s.q_width()));
    attention_ = memory_.allocate<Bf16>(rows * static_cast<std::size_t>(s.q_width()));
    gate_up_ = memory_.allocate<Bf16>(rows * 2 * static_cast<std::size_t>(s.intermediate));
    activated_ = memory_.allocate<Bf16>(rows * static_cast<std::size_t>(s.intermediate));
    // Logits of a decode step: one row per sequence.
    const auto logit_rows = static_cast<std::size_t>(std::min(options_.rows_max, options_.sequences));
    logits_ = memory_.allocate<float>(logit_rows * static_cast<std::size_t>(s.vocabulary));
    sampled_ = memory_.allocate<cuda::SampledRow>(logit_rows);
    scratch_bytes_ = cuda::attention_decode_scratch_bytes(static_cast<std::int32_t>(logit_rows), s.heads_q, s.head_dim,
                                                          options_.context_tokens_max);
    scratch_ = memory_.allocate<std::byte>(scratch_bytes_);
}

cudaError_t SyntheticModel::set_rows(const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& sequence,
                                     const std::vector<std::int32_t>& position) {
    const std::size_t bytes = tokens.size() * sizeof(std::int32_t);
    const auto last = static_cast<std::int32_t>(tokens.size()) - 1;
    STEP_TRY(cudaMemcpy(tokens_, tokens.data(), bytes, cudaMemcpyHostToDevice));
    STEP_TRY(cudaMemcpy(row_sequence_, sequence.data(), bytes, cudaMemcpyHostToDevice));
    STEP_TRY(cudaMemcpy(row_position_, position.data(), bytes, cudaMemcpyHostToDevice));
    return cudaMemcpy(last_row_, &last, sizeof(last), cudaMemcpyHostToDevice);
}

cudaError_t SyntheticModel::set_tiles(const std::vector<cuda::PrefillTile>& tiles) {
    tile_count_ = static_cast<std::int32_t>(tiles.size());
    return cudaMemcpy(tiles_, tiles.data(), tiles.size() * sizeof(cuda::PrefillTile), cudaMemcpyHostToDevice);
}

cudaError_t SyntheticModel::linear(const cuda::DeviceMatrix& w, const Bf16* x, std::int32_t rows, LinearOutput output,
                                   void* y, cudaStream_t stream) {
    if (options_.products == Products::fixed_order || rows <= cuda::kStreamingRows) {
        return cuda::linear_fixed_order(w, x, rows, output, y, stream);
    }
    return library_->linear(w, x, rows, output, y, stream);
}

cudaError_t SyntheticModel::linear(const Matrix& w, const Bf16* x, bool is_rounded, std::int32_t rows,
                                   LinearOutput output, void* y, cudaStream_t stream) {
    if (!options_.fp8) { return linear(w.bf16, x, rows, output, y, stream); }
    if (!is_rounded) {
        STEP_TRY(cuda::quantize_rows_fp8(x, rows, w.fp8.inputs, rounded_.data, rounded_.scales, stream));
    }
    if (options_.products == Products::fastest && rows > cuda::kStreamingRows && library_->has_fp8()) {
        const cudaError_t error = library_->linear(w.fp8, rounded_.data, rounded_.scales, rows, output, y, stream);
        if (error != cudaErrorNotSupported) { return error; }
    }
    return cuda::linear_fixed_order(w.fp8, rounded_.data, rounded_.scales, rows, output, y, stream);
}

cuda::KvLayer SyntheticModel::kv_layer(std::int32_t index) const {
    const StepShape& s = options_.shape;
    cuda::KvLayer kv;
    kv.base = pool_;
    kv.tile_bytes = static_cast<std::size_t>(kBlockTokens * s.head_dim) * sizeof(Bf16);
    const std::size_t layer_bytes = 2 * static_cast<std::size_t>(s.heads_kv) * kv.tile_bytes;
    kv.block_bytes = static_cast<std::size_t>(s.layers) * layer_bytes;
    kv.layer_offset = static_cast<std::size_t>(index) * layer_bytes;
    kv.kv_heads = s.heads_kv;
    kv.head_dim = s.head_dim;
    kv.block_tokens = kBlockTokens;
    return kv;
}

cudaError_t SyntheticModel::run(Operator which, const Layer& layer, std::int32_t index, std::int32_t rows,
                                std::int32_t context_tokens_max, cudaStream_t stream) {
    const StepShape& s = options_.shape;
    constexpr float kEps = 1e-5f;
    cuda::AttentionArguments attention;
    attention.q = q_;
    attention.heads_q = s.heads_q;
    attention.scale = 1 / std::sqrt(static_cast<float>(s.head_dim));
    attention.block_tables = block_tables_;
    attention.table_stride = table_stride_;
    attention.kv = kv_layer(index);
    attention.out = attention_;
    switch (which) {
        case Operator::norm:
            return cuda::rms_norm(residual_, layer.norm, kEps, rows, s.hidden, normed_, stream, rounded_);
        case Operator::qkv:
            return linear(layer.qkv, normed_, true, rows, LinearOutput::bf16, qkv_, stream);
        case Operator::rope_append: {
            cuda::RopeAppendArguments append;
            append.qkv = qkv_;
            append.rows = rows;
            append.heads_q = s.heads_q;
            append.cosines = cosines_;
            append.sines = sines_;
            append.norm_eps = kEps;
            append.map = {block_tables_, table_stride_, row_sequence_, row_position_};
            append.kv = attention.kv;
            append.q = q_;
            return cuda::rope_and_append(append, stream);
        }
        case Operator::attention_decode:
            return cuda::attention_decode(attention, row_sequence_, row_position_, nullptr, rows, context_tokens_max,
                                          scratch_, scratch_bytes_, stream);
        case Operator::attention_prefill:
            return cuda::attention_prefill(attention, tiles_, tile_count_, stream);
        case Operator::attention_hopper:
            if (!pool_map_) { return cudaErrorNotSupported; }
            return cuda::attention_prefill_hopper(attention, *pool_map_, tiles_, tile_count_, stream);
        case Operator::output:
            return linear(layer.output, attention_, false, rows, LinearOutput::accumulate, residual_, stream);
        case Operator::gate_up:
            return linear(layer.gate_up, normed_, true, rows, LinearOutput::bf16, gate_up_, stream);
        case Operator::swiglu:
            return cuda::swiglu(gate_up_, rows, s.intermediate, activated_, stream, rounded_);
        case Operator::down:
            return linear(layer.down, activated_, true, rows, LinearOutput::accumulate, residual_, stream);
        case Operator::head:
            return linear(head_, normed_, rows, LinearOutput::f32, logits_, stream);
    }
    return cudaErrorInvalidValue;
}

cudaError_t SyntheticModel::run_in_all_layers(Operator which, std::int32_t rows, std::int32_t context_tokens_max,
                                              cudaStream_t stream) {
    const std::int32_t count = which == Operator::head ? 1 : options_.shape.layers;
    for (std::int32_t i = 0; i < count; ++i) {
        STEP_TRY(run(which, layers_[static_cast<std::size_t>(i)], i, rows, context_tokens_max, stream));
    }
    return cudaSuccess;
}

cudaError_t SyntheticModel::layers(Operator attention, std::int32_t rows, std::int32_t context_tokens_max,
                                   cudaStream_t stream) {
    const StepShape& s = options_.shape;
    cuda::interrupt_dependent_launches();  // copies came before
    STEP_TRY(cuda::embed(embedding_, s.vocabulary, s.hidden, tokens_, rows, residual_, stream));
    for (std::int32_t i = 0; i < s.layers; ++i) {
        const Layer& layer = layers_[static_cast<std::size_t>(i)];
        for (const Operator which : {Operator::norm, Operator::qkv, Operator::rope_append, attention, Operator::output,
                                     Operator::norm, Operator::gate_up, Operator::swiglu, Operator::down}) {
            STEP_TRY(run(which, layer, i, rows, context_tokens_max, stream));
        }
    }
    return cudaSuccess;
}

cudaError_t SyntheticModel::decode(std::int32_t rows, std::int32_t context_tokens_max, cudaStream_t stream) {
    const StepShape& s = options_.shape;
    STEP_TRY(layers(Operator::attention_decode, rows, context_tokens_max, stream));
    STEP_TRY(cuda::rms_norm(residual_, final_norm_, 1e-5f, rows, s.hidden, normed_, stream));
    STEP_TRY(linear(head_, normed_, rows, LinearOutput::f32, logits_, stream));
    return cuda::argmax_rows(logits_, s.vocabulary, rows, sampled_, nullptr, stream);
}

cudaError_t SyntheticModel::prefill(std::int32_t rows, Operator attention, cudaStream_t stream) {
    const StepShape& s = options_.shape;
    STEP_TRY(layers(attention, rows, 0, stream));
    STEP_TRY(cuda::gather_rows(residual_, static_cast<std::size_t>(s.hidden) * sizeof(float), last_row_, 1,
                               last_residual_, stream));
    STEP_TRY(cuda::rms_norm(last_residual_, final_norm_, 1e-5f, 1, s.hidden, normed_, stream));
    STEP_TRY(linear(head_, normed_, 1, LinearOutput::f32, logits_, stream));
    return cuda::argmax_rows(logits_, s.vocabulary, 1, sampled_, nullptr, stream);
}

}  // namespace gpu_bench
