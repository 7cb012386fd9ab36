#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "device/buffer.h"
#include "engine/kernels/backend.h"
#include "engine/model/encoder_config.h"
#include "engine/model/encoder_weights.h"

namespace engine {

/// The forward pass of the BERT family, written once over the operators of a backend on the host: post-norm layers,
/// attention within each text. Scratch memory has a fixed place and the size of the largest batch. Not thread-safe:
/// owned by the engine's coordinator thread.
/// Source: Devlin et al., BERT (NAACL 2019); pooling: Reimers and Gurevych, Sentence-BERT (EMNLP 2019), section 3.
class Encoder {
public:
    /// All references must outlive the encoder; the backend must have encoder().
    /// Error: resource_exhausted.
    static base::Result<Encoder> make(const EncoderShape& shape, const EncoderWeights& weights, Backend& backend,
                                      std::uint32_t batch_tokens);

    /// States of all tokens after the last layer. tokens: [rows], text after text, which `texts` cover in order; of a
    /// text at most context_tokens. Returns [rows, hidden], valid until the next call.
    std::span<const float> run(std::span<const base::TokenId> tokens, std::span<const SequenceRows> texts);

    /// The vector of a text from the states of its tokens, [rows, hidden]: pooled, and divided by its length where the
    /// model says so. Sums in double, in the order of the tokens. `vector`: [hidden].
    void pool(std::span<const float> states, std::vector<float>& vector);

    /// What the scratch memory will take.
    static std::size_t scratch_bytes(const EncoderShape& shape, std::uint32_t batch_tokens);

private:
    Encoder(const EncoderShape& shape, const EncoderWeights& weights, Backend& backend, std::uint32_t batch_tokens)
        : shape_(&shape), weights_(&weights), backend_(&backend), batch_tokens_(batch_tokens) {}

    void fill_places();
    void embed(std::span<const base::TokenId> tokens, std::span<const SequenceRows> texts);
    void run_layer(const EncoderLayerWeights& layer, std::uint32_t rows, std::span<const SequenceRows> texts);
    LayerNorm norm_of(const NormWeights& norm) const {
        return {.weight = norm.weight, .bias = norm.bias, .eps = static_cast<float>(shape_->layer_norm_eps)};
    }

    const EncoderShape* shape_;
    const EncoderWeights* weights_;
    Backend* backend_;
    std::uint32_t batch_tokens_;

    device::Buffer scratch_;
    float* states_ = nullptr;         // [batch_tokens, hidden]
    float* delta_ = nullptr;          // [batch_tokens, hidden]: what the last sublayer adds to them
    float* qkv_ = nullptr;            // [batch_tokens, 3 * hidden]
    float* attended_ = nullptr;       // [batch_tokens, hidden]
    float* inner_ = nullptr;          // [batch_tokens, intermediate]
    std::vector<float> places_;       // [context_tokens, hidden]: of a position, and of the first token type
    std::vector<double> pooled_sum_;  // [hidden]
};

}  // namespace engine
