#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "engine/kernels/cuda/kv_pool_map.h"
#include "engine/kernels/cuda/launch.h"
#include "engine/kernels/cuda/linear.h"
#include "engine/kernels/cuda/sampling.h"

/// Whole steps of a decoder made of the CUDA operators, with random weights: for gpu_bench, and for the checks that
/// need operators in a row. Not the engine: no scheduler, no checkpoint.
namespace gpu_bench {

struct StepShape {
    std::int32_t layers = 32;
    std::int32_t hidden = 4096;
    std::int32_t intermediate = 14336;
    std::int32_t heads_q = 32;
    std::int32_t heads_kv = 8;
    std::int32_t head_dim = 128;
    std::int32_t vocabulary = 128256;

    std::int32_t qkv_width() const { return (heads_q + 2 * heads_kv) * head_dim; }
    std::int32_t q_width() const { return heads_q * head_dim; }
    /// Weights of all matrices that a step reads, the embedding left out.
    std::size_t weights() const {
        const auto h = static_cast<std::size_t>(hidden);
        const std::size_t layer = h * static_cast<std::size_t>(qkv_width()) + h * static_cast<std::size_t>(q_width()) +
                                  3 * h * static_cast<std::size_t>(intermediate);
        return layer * static_cast<std::size_t>(layers) + h * static_cast<std::size_t>(vocabulary);
    }
    /// Bytes of K and V of one token over all layers.
    std::size_t kv_bytes_per_token() const {
        return std::size_t{4} * static_cast<std::size_t>(layers * heads_kv * head_dim);
    }
};

/// Which matrix products a step uses.
enum class Products {
    fixed_order,  // own kernels alone: the deterministic mode
    fastest,      // own kernels up to kStreamingRows, the library above
};

/// One operator of a step, as gpu_bench times them.
enum class Operator {
    norm,
    qkv,
    rope_append,
    attention_decode,
    attention_prefill,
    attention_hopper,  // attention_prefill by wgmma
    output,
    gate_up,
    swiglu,
    down,
    head
};

/// Frees what it allocated on the device. Errors are kept: the first one is in error().
class DeviceMemory {
public:
    DeviceMemory() = default;
    DeviceMemory(const DeviceMemory&) = delete;
    DeviceMemory& operator=(const DeviceMemory&) = delete;
    ~DeviceMemory();

    template <class T>
    T* allocate(std::size_t count) {
        return static_cast<T*>(allocate_bytes(count * sizeof(T)));
    }
    /// Random bf16 of the given deviation; a large array repeats one block of random numbers with shifts, in the
    /// deviation of the first large one.
    engine::cuda::Bf16* allocate_random(std::size_t count, float deviation);
    template <class T>
    T* allocate_copy(const std::vector<T>& values) {
        T* to = allocate<T>(values.size());
        if (error_ == cudaSuccess) {
            note(cudaMemcpy(to, values.data(), values.size() * sizeof(T), cudaMemcpyHostToDevice));
        }
        return to;
    }
    cudaError_t error() const { return error_; }
    void note(cudaError_t error) {
        if (error_ == cudaSuccess) { error_ = error; }
    }

private:
    void* allocate_bytes(std::size_t bytes);

    std::vector<void*> pieces_;
    engine::cuda::Bf16* random_ = nullptr;  // [kRandomElements]
    cudaError_t error_ = cudaSuccess;
};

/// A model with random weights, a KV pool, and the buffers of a step of up to `rows_max` rows.
class SyntheticModel {
public:
    struct Options {
        StepShape shape;
        std::int32_t rows_max = 1;
        std::int32_t sequences = 1;
        std::int32_t context_tokens_max = 1024;  // per sequence
        std::size_t pool_bytes_max = 0;          // 0: no bound; else sequences share blocks where there is no room
        Products products = Products::fastest;
        bool fp8 = false;  // weights of the layers, and what is multiplied with them; the head stays bf16
    };
    /// `library` must outlive the model. Null on an error, which is in *error.
    static std::unique_ptr<SyntheticModel> make(const Options& options, engine::cuda::MatmulLibrary& library,
                                                cudaError_t* error);

    /// What the next step works on: row r is token tokens[r] of sequence sequence[r] at position[r]. Waits for the
    /// copy.
    cudaError_t set_rows(const std::vector<std::int32_t>& tokens, const std::vector<std::int32_t>& sequence,
                         const std::vector<std::int32_t>& position);
    /// Tiles for the rows of set_rows(), whose tokens must be chunks of consecutive positions.
    cudaError_t set_tiles(const std::vector<engine::cuda::PrefillTile>& tiles);

    /// One decode step of `rows` rows with all logits and the best token of each; contexts up to `context_tokens_max`.
    /// Asynchronous, can be captured once the library's algorithms are known (run it once before).
    cudaError_t decode(std::int32_t rows, std::int32_t context_tokens_max, cudaStream_t stream);
    /// One prefill step of `rows` rows, the logits of the last row only. `attention`: attention_prefill or
    /// attention_hopper.
    cudaError_t prefill(std::int32_t rows, Operator attention, cudaStream_t stream);

    /// One operator, once in every layer (once for the head): each time with other weights, so that no cache helps.
    cudaError_t run_in_all_layers(Operator which, std::int32_t rows, std::int32_t context_tokens_max,
                                  cudaStream_t stream);

    const float* logits() const { return logits_; }                       // [rows, vocabulary]
    const engine::cuda::SampledRow* sampled() const { return sampled_; }  // [rows]
    const StepShape& shape() const { return options_.shape; }
    /// Whether attention_hopper can be had here: compute capability 9.0, and a driver that describes tensors.
    bool has_hopper_attention() const { return pool_map_.has_value(); }
    bool is_fp8() const { return options_.fp8; }
    void set_products(Products products) { options_.products = products; }

private:
    struct Matrix {  // one of the two
        engine::cuda::DeviceMatrix bf16;
        engine::cuda::DeviceMatrixFp8 fp8;
    };
    struct Layer {
        float* norm = nullptr;  // before attention and before the MLP
        Matrix qkv;
        Matrix output;
        Matrix gate_up;
        Matrix down;
    };

    SyntheticModel(const Options& options, engine::cuda::MatmulLibrary& library)
        : options_(options), library_(&library) {}
    void allocate();
    void allocate_layers();
    engine::cuda::DeviceMatrix random_matrix(std::int32_t outputs, std::int32_t inputs);
    cudaError_t linear(const engine::cuda::DeviceMatrix& w, const engine::cuda::Bf16* x, std::int32_t rows,
                       engine::cuda::LinearOutput output, void* y, cudaStream_t stream);
    /// `is_rounded`: the operator that made x has left it in rounded_ too.
    cudaError_t linear(const Matrix& w, const engine::cuda::Bf16* x, bool is_rounded, std::int32_t rows,
                       engine::cuda::LinearOutput output, void* y, cudaStream_t stream);
    cudaError_t run(Operator which, const Layer& layer, std::int32_t index, std::int32_t rows,
                    std::int32_t context_tokens_max, cudaStream_t stream);
    cudaError_t layers(Operator attention, std::int32_t rows, std::int32_t context_tokens_max, cudaStream_t stream);
    engine::cuda::KvLayer kv_layer(std::int32_t index) const;

    Options options_;
    engine::cuda::MatmulLibrary* library_;
    DeviceMemory memory_;
    std::vector<Layer> layers_;
    engine::cuda::DeviceMatrix head_;
    engine::cuda::Bf16* embedding_ = nullptr;
    float* final_norm_ = nullptr;
    float* cosines_ = nullptr;
    float* sines_ = nullptr;
    std::byte* pool_ = nullptr;
    std::optional<engine::cuda::KvPoolMap> pool_map_;
    std::int32_t* block_tables_ = nullptr;
    std::int32_t table_stride_ = 0;
    std::int32_t* tokens_ = nullptr;
    std::int32_t* row_sequence_ = nullptr;
    std::int32_t* row_position_ = nullptr;
    std::int32_t* last_row_ = nullptr;  // [1]
    engine::cuda::PrefillTile* tiles_ = nullptr;
    std::int32_t tile_count_ = 0;
    float* residual_ = nullptr;             // [rows_max, hidden]
    float* last_residual_ = nullptr;        // [1, hidden]
    engine::cuda::Bf16* normed_ = nullptr;  // [rows_max, hidden]
    engine::cuda::Bf16* qkv_ = nullptr;     // [rows_max, qkv_width]
    engine::cuda::Bf16* q_ = nullptr;       // [rows_max, q_width]
    engine::cuda::Bf16* attention_ = nullptr;
    engine::cuda::Bf16* gate_up_ = nullptr;  // [rows_max, 2 * intermediate]
    engine::cuda::Bf16* activated_ = nullptr;
    engine::cuda::QuantizedRows rounded_;  // of the next product; null without FP8
    float* logits_ = nullptr;
    engine::cuda::SampledRow* sampled_ = nullptr;
    void* scratch_ = nullptr;  // of attention_decode
    std::size_t scratch_bytes_ = 0;
};

}  // namespace gpu_bench
