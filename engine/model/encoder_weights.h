#pragma once

#include <cstddef>
#include <vector>

#include "engine/kernels/packing.h"
#include "engine/model/encoder_config.h"
#include "engine/model/weights.h"

namespace engine {

/// Weight and bias of a layer norm, [hidden] each.
struct NormWeights {
    const float* weight = nullptr;
    const float* bias = nullptr;
};

/// Weights of one layer of an encoder; vectors are float.
struct EncoderLayerWeights {
    PackedMatrix qkv;                    // [3 * hidden, hidden]
    const float* qkv_bias = nullptr;     // [3 * hidden]
    PackedMatrix output;                 // [hidden, hidden]
    const float* output_bias = nullptr;  // [hidden]
    NormWeights attention_norm;          // after attention
    PackedMatrix inner;                  // [intermediate, hidden]
    const float* inner_bias = nullptr;   // [intermediate]
    PackedMatrix outer;                  // [hidden, intermediate]
    const float* outer_bias = nullptr;   // [hidden]
    NormWeights norm;                    // after the layer
};

/// All weights of an encoder; borrowed from a mapped file.
struct EncoderWeights {
    PackedMatrix words;      // [vocabulary, hidden]
    PackedMatrix positions;  // [positions, hidden]
    PackedMatrix types;      // [token_types, hidden]
    NormWeights norm;
    std::vector<EncoderLayerWeights> layers;
};

/// What a packed file of an encoder holds, in panels (plan_packing() for this family). `format`: f32 or bf16.
PackingPlan plan_encoder_packing(const EncoderShape& shape, WeightFormat format);

/// Points into the bytes of a packed file, which must have the plan's size and live longer.
EncoderWeights bind_encoder_weights(const EncoderShape& shape, const PackingPlan& plan, const std::byte* file);

}  // namespace engine
