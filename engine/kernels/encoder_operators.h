#pragma once

#include <cstdint>
#include <span>

#include "engine/kernels/step_types.h"

namespace engine {

/// x times the distribution function of the normal distribution, or the form with a tanh that stands in for it.
enum class Gelu : std::uint32_t { exact, tanh };

/// A layer norm: (x - mean) / sqrt(variance + eps) * weight + bias.
struct LayerNorm {
    const float* weight = nullptr;  // [width]
    const float* bias = nullptr;    // [width]
    float eps = 0;
};

/// Attention of texts that are wholly there, without a cache.
struct TextAttention {
    const float* qkv = nullptr;           // [rows, 3 * heads * head_dim]: q heads, then k heads, then v heads
    std::span<const SequenceRows> texts;  // of these row_begin and rows count
    std::uint32_t heads = 0;
    std::uint32_t head_dim = 0;
    float scale = 0;       // 1 / sqrt(head_dim)
    float* out = nullptr;  // [rows, heads * head_dim]
};

/// What the BERT family computes besides the operators it shares with decoders (Backend::embed, Backend::linear).
/// Buffers are floats on the host. Numbers of a row do not depend on what else is there, as in backend.h; the texts of
/// a call stand one behind the other, without padding.
class EncoderOperators {
public:
    virtual ~EncoderOperators() = default;

    /// x = layer_norm(x + delta), per row. Both [rows, width].
    virtual void add_layer_norm(float* x, const float* delta, const LayerNorm& norm, std::uint32_t rows,
                                std::uint32_t width) = 0;
    /// x = gelu(x). x: [rows, width].
    virtual void gelu(float* x, Gelu kind, std::uint32_t rows, std::uint32_t width) = 0;
    /// Each row sees all rows of its text.
    virtual void attend_within(const TextAttention& args) = 0;
};

}  // namespace engine
