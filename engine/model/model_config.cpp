#include "engine/model/model_config.h"

#include <boost/json.hpp>
#include <cstdint>
#include <filesystem>
#include <initializer_list>
#include <limits>
#include <optional>
#include <string>
#include <utility>

#include "base/gguf_model.h"
#include "engine/model/config_fields.h"
#include "engine/model/encoder_config.h"
#include "engine/model/gguf_checkpoint.h"
#include "engine/model/json_text.h"
#include "engine/model/read_file.h"
#include "engine/model/shape_bounds.h"

namespace engine {
namespace {

namespace json = boost::json;
using base::ErrorCode;
using base::ModelShape;
using base::Result;

constexpr std::size_t kConfigBytesMax = 4u << 20;  // real ones have a few kB; those with label tables some hundred

/// `rope_scaling` of transformers 4 (kind in `rope_type` or, older, `type`) or `rope_parameters` of transformers 5
/// (which holds rope_theta, too).
void read_rope(Fields& fields, std::string_view text, ModelShape& shape) {
    shape.rope_theta = fields.number("rope_theta", kRopeTheta, 10000.0);
    const std::string_view name = fields.find("rope_parameters") != nullptr ? "rope_parameters" : "rope_scaling";
    const json::value* value = fields.find(name);
    if (value == nullptr) { return; }
    if (!value->is_object()) {
        return fields.wrong(ErrorCode::invalid_argument,
                            std::string(name) + " is " + shown(*value) + ", must be an object");
    }
    Fields rope(value->get_object(), std::string(name) + ".", text);
    shape.rope_theta = rope.number("rope_theta", kRopeTheta, shape.rope_theta);
    rope.only("partial_rotary_factor", 1.0);
    const json::value* kind = rope.find("rope_type");
    if (kind == nullptr) { kind = rope.find("type"); }
    base::RopeScaling& scaling = shape.rope_scaling;
    if (kind == nullptr || *kind == "default") {
        scaling.kind = base::RopeScaling::Kind::none;
    } else if (*kind == "linear") {
        scaling.kind = base::RopeScaling::Kind::linear;
        scaling.factor = rope.number("factor", kRopeFactor, {});
    } else if (*kind == "llama3") {
        scaling.kind = base::RopeScaling::Kind::llama3;
        scaling.factor = rope.number("factor", kRopeFactor, {});
        scaling.low_freq_factor = rope.number("low_freq_factor", kRopeFactor, {});
        scaling.high_freq_factor = rope.number("high_freq_factor", kRopeFactor, {});
        scaling.original_max_position_tokens = rope.integer("original_max_position_embeddings", 1, 1u << 24);
        if (!rope.error() && scaling.high_freq_factor <= scaling.low_freq_factor) {
            rope.wrong(ErrorCode::invalid_argument, "high_freq_factor must be above low_freq_factor");
        }
    } else {
        rope.wrong(ErrorCode::unimplemented,
                   "rope_type is " + shown(*kind) + ", only \"default\", \"linear\" and \"llama3\" are supported");
    }
    fields.adopt(rope);
}

/// Attention to fewer tokens than the context has is not built yet; a window that never bites is fine.
void read_window(Fields& fields, bool in_use, std::uint32_t context_tokens) {
    if (!in_use || fields.find("sliding_window") == nullptr) { return; }
    const std::uint32_t window = fields.integer("sliding_window", 1, std::numeric_limits<std::int32_t>::max());
    if (!fields.error() && window < context_tokens) {
        fields.wrong(ErrorCode::unimplemented, "sliding_window is " + std::to_string(window) +
                                                   ", only null or at least max_position_embeddings (" +
                                                   std::to_string(context_tokens) + ") is supported");
    }
}

void read_layer_types(Fields& fields) {
    const json::value* types = fields.find("layer_types");
    if (types == nullptr) { return; }
    if (!types->is_array()) {
        return fields.wrong(ErrorCode::invalid_argument, "layer_types is " + shown(*types) + ", must be a list");
    }
    for (const json::value& type : types->get_array()) {
        if (type != "full_attention") {
            return fields.wrong(ErrorCode::unimplemented,
                                "layer_types contains " + shown(type) + ", only \"full_attention\" is supported");
        }
    }
}

void read_family(Fields& fields, ModelShape& shape) {
    if (shape.architecture == "LlamaForCausalLM") {
        const bool bias = fields.boolean("attention_bias", false);
        shape.qkv_bias = bias;
        shape.output_bias = bias;
        fields.only("mlp_bias", false);
        read_window(fields, true, shape.context_tokens);  // Llama has no such field; whoever sets it means it
    } else if (shape.architecture == "MistralForCausalLM") {
        read_window(fields, true, shape.context_tokens);
    } else if (shape.architecture == "Qwen2ForCausalLM") {
        shape.qkv_bias = true;
        read_window(fields, fields.boolean("use_sliding_window", false), shape.context_tokens);
        read_layer_types(fields);
    } else if (shape.architecture == "Qwen3ForCausalLM") {
        const bool bias = fields.boolean("attention_bias", false);
        shape.qkv_bias = bias;
        shape.output_bias = bias;
        shape.qk_norm = true;
        read_window(fields, fields.boolean("use_sliding_window", false), shape.context_tokens);
        read_layer_types(fields);
    } else if (is_encoder(shape.architecture)) {
        fields.wrong(ErrorCode::unimplemented, shape.architecture +
                                                   " is a sentence encoder, which gives vectors and no text: "
                                                   "'sluice serve --encoder' and 'sluice encode' run it");
    } else {
        fields.wrong(ErrorCode::unimplemented, "architectures is [\"" + shape.architecture +
                                                   "\"], only LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM "
                                                   "and Qwen3ForCausalLM are supported");
    }
}

/// Of a group of compressed-tensors' "float-quantized": how its weights are stored.
bool is_known_fp8(const json::value& group) {
    const json::value* weights = group.is_object() ? group.get_object().if_contains("weights") : nullptr;
    if (weights == nullptr || !weights->is_object()) { return false; }
    const auto field = [&](const char* name) {
        const json::value* value = weights->get_object().if_contains(name);
        return value == nullptr ? json::value() : *value;
    };
    return field("num_bits") == 8 && field("type") == "float" && field("symmetric") != false &&
           (field("strategy") == "channel" || field("strategy") == "tensor");
}

/// compressed-tensors writes how sparse a model is even where that changes nothing.
bool is_dense(const json::value& sparsity) {
    const json::value* format = sparsity.is_object() ? sparsity.get_object().if_contains("format") : nullptr;
    return format != nullptr && *format == "dense";
}

/// FP8 with one scale per output or per tensor is read, as compressed-tensors and the older "fp8" method store it;
/// which tensors are stored so, the tensors say. What is asked of activations is not heeded: they are computed as
/// exactly as the backend's format allows, with scales per row where they are rounded at all.
void read_quantization(Fields& fields) {
    const json::value* value = fields.find("quantization_config");
    if (value == nullptr) { return; }
    bool is_known = false;
    if (value->is_object()) {
        const Fields config(value->get_object(), "", "");
        const auto is = [&](const char* name, std::string_view expected) {
            const json::value* found = config.find(name);
            return found != nullptr && found->is_string() && found->get_string() == expected;
        };
        const auto is_empty = [&](const char* name) {
            const json::value* found = config.find(name);
            return found == nullptr || (found->is_object() && found->get_object().empty());
        };
        if (is("quant_method", "fp8")) {
            is_known =
                config.find("weight_block_size") == nullptr && (config.find("fmt") == nullptr || is("fmt", "e4m3"));
        } else if (is("quant_method", "compressed-tensors") && is("format", "float-quantized")) {
            const json::value* groups = config.find("config_groups");
            is_known = (is_empty("sparsity_config") || is_dense(*config.find("sparsity_config"))) &&
                       is_empty("transform_config") && groups != nullptr && groups->is_object();
            if (is_known) {
                for (const auto& group : groups->get_object()) {
                    is_known = is_known && is_known_fp8(group.value());
                }
            }
        }
    }
    if (!is_known) {
        fields.none("quantization_config",
                    "of quantised checkpoints only FP8 is supported, with a scale per output or per tensor");
    }
}

void check_heads(Fields& fields, const ModelShape& shape) {
    if (shape.heads_q % shape.heads_kv != 0) {
        fields.wrong(ErrorCode::invalid_argument, "num_key_value_heads is " + std::to_string(shape.heads_kv) +
                                                      ", must divide num_attention_heads (" +
                                                      std::to_string(shape.heads_q) + ")");
    }
    if (fields.find("head_dim") == nullptr && shape.hidden % shape.heads_q != 0) {
        fields.wrong(ErrorCode::invalid_argument, "hidden_size is " + std::to_string(shape.hidden) +
                                                      ", must be a multiple of num_attention_heads (" +
                                                      std::to_string(shape.heads_q) + ") where head_dim is not given");
    }
    if (shape.head_dim < 2 || shape.head_dim % 2 != 0) {
        fields.wrong(ErrorCode::unimplemented,
                     "head_dim is " + std::to_string(shape.head_dim) + ", only even numbers are supported");
    }
}

}  // namespace

Result<ModelShape> parse_model_config(std::string_view text) {
    const auto object = parse_json_object(text, "config.json", ErrorCode::invalid_argument);
    if (!object) { return base::pass_on(object); }
    const auto architecture = architecture_in(*object);
    if (!architecture) { return base::pass_on(architecture); }

    Fields fields(*object, "", text);
    ModelShape shape;
    shape.architecture = *architecture;
    read_family(fields, shape);  // first, so that a foreign model is told as such and not by some field it lacks
    if (fields.error()) { return tl::unexpected(*fields.error()); }

    shape.layers = fields.integer("num_hidden_layers", 1, kLayersMax);
    shape.hidden = fields.integer("hidden_size", 1, kHiddenMax);
    shape.intermediate = fields.integer("intermediate_size", 1, kIntermediateMax);
    shape.heads_q = fields.integer("num_attention_heads", 1, kHeadsMax);
    shape.heads_kv = fields.integer("num_key_value_heads", 1, kHeadsMax, shape.heads_q);
    shape.vocabulary = fields.integer("vocab_size", 1, kVocabularyMax);
    shape.context_tokens = fields.integer("max_position_embeddings", 1, kContextMax);
    shape.head_dim = fields.integer("head_dim", 2, kHeadDimMax, shape.hidden / shape.heads_q);
    shape.rms_norm_eps = fields.number("rms_norm_eps", kEpsilon, 1e-6);
    shape.tied_embeddings = fields.boolean("tie_word_embeddings", false);
    read_family(fields, shape);  // again: windows are compared with the context
    read_rope(fields, text, shape);
    fields.only("hidden_act", "silu");
    fields.only("partial_rotary_factor", 1.0);
    read_quantization(fields);
    fields.none("compression_config", "compressed checkpoints are not supported, only F32, F16 and BF16");
    if (fields.error()) { return tl::unexpected(*fields.error()); }

    check_heads(fields, shape);
    if (fields.error()) { return tl::unexpected(*fields.error()); }
    return shape;
}

std::vector<std::string> model_config_warnings(std::string_view text) {
    constexpr std::int64_t kWindow = 4096;  // transformers' MistralConfig
    const auto config = parse_json_object(text, "config.json", ErrorCode::invalid_argument);
    const auto architecture = !config ? Result<std::string>(std::string()) : architecture_in(*config);
    if (!architecture || *architecture != "MistralForCausalLM" || config->contains("sliding_window")) { return {}; }
    const json::value* context = config->if_contains("max_position_embeddings");
    if (context == nullptr || !context->is_int64() || context->get_int64() <= kWindow) { return {}; }
    return {
        "config.json does not say sliding_window, which to transformers means 4096 for this architecture; here every "
        "token attends to all before it (\"sliding_window\": null says so)"};
}

Result<ModelShape> read_model_config(const std::string& model_dir) {
    if (base::is_gguf(model_dir)) {
        const auto model = base::GgufModel::open(model_dir);
        if (!model) { return base::pass_on(model); }
        return gguf_model_shape(*model);
    }
    const auto text = read_file(std::filesystem::path(model_dir) / "config.json", kConfigBytesMax);
    if (!text) { return base::pass_on(text); }
    auto shape = parse_model_config(*text);
    if (!shape) { return base::pass_on(shape, model_dir); }
    return shape;
}

std::string format_model_config(const ModelShape& shape, std::string_view dtype) {
    json::object config;
    config["architectures"] = json::array{json::value(shape.architecture)};
    std::string type = shape.architecture.substr(0, shape.architecture.find("ForCausalLM"));
    for (char& letter : type) {
        letter = static_cast<char>(letter >= 'A' && letter <= 'Z' ? letter + 32 : letter);
    }
    config["model_type"] = type;
    config["hidden_size"] = shape.hidden;
    config["intermediate_size"] = shape.intermediate;
    config["num_hidden_layers"] = shape.layers;
    config["num_attention_heads"] = shape.heads_q;
    config["num_key_value_heads"] = shape.heads_kv;
    config["head_dim"] = shape.head_dim;
    config["vocab_size"] = shape.vocabulary;
    config["max_position_embeddings"] = shape.context_tokens;
    config["rms_norm_eps"] = shape.rms_norm_eps;
    config["rope_theta"] = shape.rope_theta;
    config["hidden_act"] = "silu";
    config["tie_word_embeddings"] = shape.tied_embeddings;
    if (shape.architecture != "Qwen2ForCausalLM") { config["attention_bias"] = shape.output_bias; }
    const base::RopeScaling& scaling = shape.rope_scaling;
    if (scaling.kind == base::RopeScaling::Kind::linear) {
        config["rope_scaling"] = {{"rope_type", "linear"}, {"factor", scaling.factor}};
    } else if (scaling.kind == base::RopeScaling::Kind::llama3) {
        config["rope_scaling"] = {{"rope_type", "llama3"},
                                  {"factor", scaling.factor},
                                  {"low_freq_factor", scaling.low_freq_factor},
                                  {"high_freq_factor", scaling.high_freq_factor},
                                  {"original_max_position_embeddings", scaling.original_max_position_tokens}};
    }
    config["torch_dtype"] = dtype;
    return json::serialize(config) + "\n";
}

}  // namespace engine
