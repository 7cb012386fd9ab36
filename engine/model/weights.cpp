#include "engine/model/weights.h"

#include <algorithm>
#include <span>
#include <string>
#include <utility>

#include "base/check.h"
#include "engine/model/plan_builder.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::ModelShape;

void plan_layer(PlanBuilder& builder, const ModelShape& shape, std::uint32_t layer) {
    const std::uint32_t q = shape.heads_q * shape.head_dim;
    const std::uint32_t kv = shape.heads_kv * shape.head_dim;
    const std::string from = "model.layers." + std::to_string(layer) + ".";
    const std::string to = "layers." + std::to_string(layer) + ".";
    const std::string attention = from + "self_attn.";
    builder.vector(to + "attention_norm", {{from + "input_layernorm.weight", shape.hidden}});
    builder.matrix(
        to + "qkv", shape.hidden,
        {{attention + "q_proj.weight", q}, {attention + "k_proj.weight", kv}, {attention + "v_proj.weight", kv}});
    if (shape.qkv_bias) {
        builder.vector(
            to + "qkv_bias",
            {{attention + "q_proj.bias", q}, {attention + "k_proj.bias", kv}, {attention + "v_proj.bias", kv}});
    }
    if (shape.qk_norm) {
        builder.vector(to + "q_norm", {{attention + "q_norm.weight", shape.head_dim}});
        builder.vector(to + "k_norm", {{attention + "k_norm.weight", shape.head_dim}});
    }
    builder.matrix(to + "output", q, {{attention + "o_proj.weight", shape.hidden}});
    if (shape.output_bias) { builder.vector(to + "output_bias", {{attention + "o_proj.bias", shape.hidden}}); }
    builder.vector(to + "mlp_norm", {{from + "post_attention_layernorm.weight", shape.hidden}});
    builder.matrix(
        to + "gate_up", shape.hidden,
        {{from + "mlp.gate_proj.weight", shape.intermediate}, {from + "mlp.up_proj.weight", shape.intermediate}});
    builder.matrix(to + "down", shape.intermediate, {{from + "mlp.down_proj.weight", shape.hidden}});
}

}  // namespace

PackingPlan plan_packing(const ModelShape& shape, WeightFormat format, WeightOrder order, ScaleShape scale_shape) {
    PlanBuilder builder(format, order, scale_shape);
    builder.outer_matrix("embedding", shape.hidden, {{"model.embed_tokens.weight", shape.vocabulary}});
    for (std::uint32_t layer = 0; layer < shape.layers; ++layer) {
        plan_layer(builder, shape, layer);
    }
    builder.vector("final_norm", {{"model.norm.weight", shape.hidden}});
    if (!shape.tied_embeddings) { builder.outer_matrix("head", shape.hidden, {{"lm_head.weight", shape.vocabulary}}); }
    return builder.take();
}

base::Result<void> check_fp8_widths(const PackingPlan& plan) {
    for (const PackedItem& item : plan.items) {
        const std::uint32_t unit = std::max(16u, item.scale_shape.group_inputs);
        if (item.format == WeightFormat::fp8 && item.inputs % unit != 0) {
            return base::fail(ErrorCode::unimplemented,
                              "weight_format is 'fp8', but " + item.name + " has " + std::to_string(item.inputs) +
                                  " inputs, must be a multiple of " + std::to_string(unit) + ": set it to auto");
        }
    }
    return {};
}

base::BlockHash PackingPlan::fingerprint() const {
    std::string text = std::to_string(static_cast<unsigned>(format)) + "\n";
    for (const PackedItem& item : items) {
        text += item.name;
        for (const std::uint64_t number :
             {std::uint64_t{item.outputs}, std::uint64_t{item.inputs}, item.offset, item.bytes}) {
            text += " " + std::to_string(number);
        }
        text += "\n";
    }
    return base::keyed_hash({}, std::as_bytes(std::span(text)));
}

const Tensor* find_scales(const Checkpoint& checkpoint, const std::string& tensor) {
    return checkpoint.find(tensor + "_scale");
}

namespace {

bool is_plain(const Tensor& tensor) {
    return tensor.dtype == "F32" || tensor.dtype == "F16" || tensor.dtype == "BF16";
}

base::Result<void> check_scales(const Checkpoint& checkpoint, const PackedItem::Source& source, std::uint32_t inputs) {
    const Tensor* scales = find_scales(checkpoint, source.tensor);
    if (scales == nullptr) {
        return base::fail(
            ErrorCode::data_loss,
            "tensor " + source.tensor + " is stored as F8_E4M3, but the checkpoint lacks " + source.tensor + "_scale");
    }
    const std::vector<std::uint64_t>& lengths = scales->shape;
    const bool is_one = std::all_of(lengths.begin(), lengths.end(), [](std::uint64_t length) { return length == 1; });
    const bool is_per_output = lengths.size() == 1 && lengths[0] == source.outputs;
    const bool is_per_group = lengths.size() == 2 && lengths[0] == source.outputs && lengths[1] > 0 &&
                              inputs % lengths[1] == 0 && (lengths[1] == 1 || inputs / lengths[1] % 16 == 0);
    if (!is_plain(*scales) || (!is_one && !is_per_output && !is_per_group)) {
        return base::fail(ErrorCode::unimplemented,
                          "tensor " + source.tensor + "_scale is " + scales->dtype + " " + format_shape(lengths) +
                              ", only one number, one for each of the " + std::to_string(source.outputs) +
                              " outputs, or one for each group of inputs (a multiple of 16) of each, is supported");
    }
    return {};
}

}  // namespace

base::Result<void> check_tensors(const Checkpoint& checkpoint, const PackingPlan& plan) {
    for (const PackedItem& item : plan.items) {
        for (const auto& source : item.sources) {
            std::vector<std::uint64_t> shape{source.outputs};
            if (item.inputs > 0) { shape.push_back(item.inputs); }
            const Tensor* tensor = checkpoint.find(source.tensor);
            if (tensor == nullptr) {
                return base::fail(ErrorCode::data_loss, "the checkpoint lacks tensor " + source.tensor + " " +
                                                            format_shape(shape) + ", which " +
                                                            std::string(checkpoint.shape_source()) + " asks for");
            }
            if (tensor->shape != shape) {
                return base::fail(ErrorCode::data_loss,
                                  "tensor " + source.tensor + " has shape " + format_shape(tensor->shape) + ", " +
                                      std::string(checkpoint.shape_source()) + " asks for " + format_shape(shape));
            }
            if (tensor->dtype == "F8_E4M3" && item.inputs > 0) {
                if (auto checked = check_scales(checkpoint, source, item.inputs); !checked) { return checked; }
            } else if (!is_plain(*tensor) && !(tensor->blocks != nullptr && item.inputs > 0)) {
                return base::fail(ErrorCode::unimplemented, "tensor " + source.tensor + " is stored as " +
                                                                tensor->dtype +
                                                                ", only F32, F16, BF16 and (matrices) F8_E4M3 and "
                                                                "GGUF's blocks are supported");
            }
        }
    }
    return {};
}

WeightFormat stored_format(const Checkpoint& checkpoint, const PackingPlan& plan) {
    WeightFormat format = WeightFormat::bf16;
    for (const PackedItem& item : plan.items) {
        if (item.inputs == 0) { continue; }
        for (const auto& source : item.sources) {
            const Tensor* tensor = checkpoint.find(source.tensor);
            CHECK(tensor != nullptr, source.tensor);
            if (tensor->blocks != nullptr) { return WeightFormat::bf16; }
            if (tensor->dtype != "BF16" && tensor->dtype != "F8_E4M3") { format = WeightFormat::f32; }
        }
    }
    return format;
}

Weights bind_weights(const ModelShape& shape, const PackingPlan& plan, const std::byte* file) {
    PlanReader next(plan, file);
    Weights weights;  // in the order of plan_packing()
    weights.embedding = next.matrix();
    for (std::uint32_t i = 0; i < shape.layers; ++i) {
        LayerWeights& layer = weights.layers.emplace_back();
        layer.attention_norm = next.vector();
        layer.qkv = next.matrix();
        if (shape.qkv_bias) { layer.qkv_bias = next.vector(); }
        if (shape.qk_norm) {
            layer.q_norm = next.vector();
            layer.k_norm = next.vector();
        }
        layer.output = next.matrix();
        if (shape.output_bias) { layer.output_bias = next.vector(); }
        layer.mlp_norm = next.vector();
        layer.gate_up = next.matrix();
        layer.down = next.matrix();
    }
    weights.final_norm = next.vector();
    weights.head = shape.tied_embeddings ? weights.embedding : next.matrix();
    CHECK(next.is_at_end());
    return weights;
}

}  // namespace engine
