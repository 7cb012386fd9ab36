#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/model_shape.h"
#include "device/buffer.h"
#include "engine/kernels/backend.h"
#include "engine/model/weights.h"
#include "kv_cache/kv_store.h"

namespace engine {

/// One batch as the graph sees it.
struct DecoderBatch {
    std::span<const base::TokenId> tokens;                          // [rows], sequence after sequence
    std::span<const SequenceRows> sequences;                        // cover the rows in order
    std::span<const std::uint32_t> rows_wanted;                     // rows whose logits are wanted, ascending
    std::uint32_t layer_group = 0;                                  // > 0
    std::function<void(std::uint32_t, std::uint32_t)> layers_done;  // (layer_begin, layer_end); may be empty
    /// Logits of rows_wanted[first ...]: [count, vocabulary], valid during the call. Called in ascending order.
    std::function<void(std::size_t first, std::size_t count, std::span<const float> logits)> take_logits;
};

/// The forward pass of the Llama family (Llama, Mistral, Qwen2, Qwen3), written once over the operators of a backend.
/// Scratch memory has a fixed place and the size of the largest batch. Not thread-safe: owned by the engine's
/// coordinator thread.
///
/// The last layer works on the wanted rows only, once the KV of all rows is stored: rows do not depend on each other.
class Decoder {
public:
    struct Limits {
        std::uint32_t batch_tokens = 0;  // > 0
        std::uint32_t logit_rows = 0;    // > 0; rows of logits that are made at a time
    };
    /// All references must outlive the decoder. `rope` covers the positions of every batch.
    /// Error: resource_exhausted.
    static base::Result<Decoder> make(const base::ModelShape& shape, const Weights& weights, const RopeTable& rope,
                                      Backend& backend, kv_cache::KvStore& kv, Limits limits);

    void run(const DecoderBatch& batch);

    /// Of the scratch memory.
    std::size_t scratch_bytes() const { return scratch_.size(); }

private:
    Decoder(const base::ModelShape& shape, const Weights& weights, const RopeTable& rope, Backend& backend,
            kv_cache::KvStore& kv, Limits limits)
        : shape_(&shape), weights_(&weights), rope_(&rope), backend_(&backend), kv_(&kv), limits_(limits) {}

    void append_layer(const DecoderBatch& batch, std::uint32_t layer);
    /// Attention to MLP of one layer, over `rows` rows of residual_ and q_; leaves its contribution in delta_.
    void finish_layer(std::uint32_t layer, std::span<const SequenceRows> sequences, std::uint32_t rows);
    /// Moves the wanted rows of residual_ and q_ to the front; the sequences they belong to are in sequences_wanted_.
    void keep_wanted(const DecoderBatch& batch);
    void run_head(const DecoderBatch& batch);

    const base::ModelShape* shape_;
    const Weights* weights_;
    const RopeTable* rope_;
    Backend* backend_;
    kv_cache::KvStore* kv_;
    Limits limits_;

    device::Buffer scratch_;
    float* residual_ = nullptr;   // [batch_tokens, hidden]
    float* normed_ = nullptr;     // [batch_tokens, hidden]
    float* delta_ = nullptr;      // [batch_tokens, hidden]: what the last sublayer adds to the residual
    float* qkv_ = nullptr;        // [batch_tokens, (heads_q + 2 * heads_kv) * head_dim]
    float* q_ = nullptr;          // [batch_tokens, heads_q * head_dim]
    float* attention_ = nullptr;  // [batch_tokens, heads_q * head_dim]
    float* gate_up_ = nullptr;    // [batch_tokens, 2 * intermediate]
    float* activated_ = nullptr;  // [batch_tokens, intermediate]
    float* logits_ = nullptr;     // [logit_rows, vocabulary]
    std::vector<SequenceRows> sequences_wanted_;
};

}  // namespace engine
