#include "engine/model/encoder_weights.h"

#include <string>

#include "base/check.h"
#include "engine/model/plan_builder.h"

namespace engine {
namespace {

void plan_norm(PlanBuilder& builder, const std::string& to, const std::string& from, std::uint32_t width) {
    builder.vector(to + "_weight", {{from + ".weight", width}});
    builder.vector(to + "_bias", {{from + ".bias", width}});
}

/// A matrix and its bias.
void plan_linear(PlanBuilder& builder, const std::string& to, const std::string& from, std::uint32_t inputs,
                 std::uint32_t outputs) {
    builder.matrix(to, inputs, {{from + ".weight", outputs}});
    builder.vector(to + "_bias", {{from + ".bias", outputs}});
}

void plan_layer(PlanBuilder& builder, const base::ModelShape& shape, std::uint32_t layer) {
    const std::uint32_t width = shape.hidden;
    const std::string from = "encoder.layer." + std::to_string(layer) + ".";
    const std::string to = "layers." + std::to_string(layer) + ".";
    const std::string self = from + "attention.self.";
    builder.matrix(to + "qkv", width,
                   {{self + "query.weight", width}, {self + "key.weight", width}, {self + "value.weight", width}});
    builder.vector(to + "qkv_bias",
                   {{self + "query.bias", width}, {self + "key.bias", width}, {self + "value.bias", width}});
    plan_linear(builder, to + "output", from + "attention.output.dense", width, width);
    plan_norm(builder, to + "attention_norm", from + "attention.output.LayerNorm", width);
    plan_linear(builder, to + "inner", from + "intermediate.dense", width, shape.intermediate);
    plan_linear(builder, to + "outer", from + "output.dense", shape.intermediate, width);
    plan_norm(builder, to + "norm", from + "output.LayerNorm", width);
}

NormWeights take_norm(PlanReader& next) {
    NormWeights norm;
    norm.weight = next.vector();
    norm.bias = next.vector();
    return norm;
}

}  // namespace

PackingPlan plan_encoder_packing(const EncoderShape& shape, WeightFormat format) {
    CHECK(format != WeightFormat::fp8);
    const base::ModelShape& inner = shape.transformer;
    PlanBuilder builder(format, WeightOrder::panels, {});
    const std::string from = "embeddings.";
    builder.matrix("words", inner.hidden, {{from + "word_embeddings.weight", inner.vocabulary}});
    builder.matrix("positions", inner.hidden, {{from + "position_embeddings.weight", shape.positions}});
    builder.matrix("types", inner.hidden, {{from + "token_type_embeddings.weight", shape.token_types}});
    plan_norm(builder, "norm", from + "LayerNorm", inner.hidden);
    for (std::uint32_t layer = 0; layer < inner.layers; ++layer) {
        plan_layer(builder, inner, layer);
    }
    return builder.take();
}

EncoderWeights bind_encoder_weights(const EncoderShape& shape, const PackingPlan& plan, const std::byte* file) {
    PlanReader next(plan, file);
    EncoderWeights weights;  // in the order of plan_encoder_packing()
    weights.words = next.matrix();
    weights.positions = next.matrix();
    weights.types = next.matrix();
    weights.norm = take_norm(next);
    for (std::uint32_t i = 0; i < shape.transformer.layers; ++i) {
        EncoderLayerWeights& layer = weights.layers.emplace_back();
        layer.qkv = next.matrix();
        layer.qkv_bias = next.vector();
        layer.output = next.matrix();
        layer.output_bias = next.vector();
        layer.attention_norm = take_norm(next);
        layer.inner = next.matrix();
        layer.inner_bias = next.vector();
        layer.outer = next.matrix();
        layer.outer_bias = next.vector();
        layer.norm = take_norm(next);
    }
    CHECK(next.is_at_end());
    return weights;
}

}  // namespace engine
