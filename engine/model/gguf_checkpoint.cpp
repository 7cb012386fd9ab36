#include "engine/model/gguf_checkpoint.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <limits>
#include <numbers>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <utility>

#include "engine/model/gguf_blocks.h"
#include "engine/model/shape_bounds.h"
#include "engine/model/weights.h"

namespace engine {
namespace {

using base::ErrorCode;
using base::GgufModel;
using base::GgufTensor;
using base::GgufValue;
using base::ModelShape;
using base::Result;

/// The double that people wrote and a float keeps: 1e-5, not 9.99999974737875e-06. So a model has the same shape here
/// as from its config.json.
double as_written(double value) {
    std::array<char, 32> text{};
    const auto written = std::to_chars(text.data(), text.data() + text.size(), static_cast<float>(value));
    double read = value;
    std::from_chars(text.data(), written.ptr, read);
    return read;
}

/// The keys of one architecture ("llama.*"); remembers the first thing that is wrong, and which keys are known.
class Keys {
public:
    Keys(const GgufModel& model, std::string_view architecture)
        : model_(model), prefix_(std::string(architecture) + ".") {}

    const GgufValue* find(std::string_view name) {
        const std::string key = prefix_ + std::string(name);
        known_.insert(key);
        return model_.find(key);
    }

    /// Also of a list with one number for each layer, where all are equal.
    std::uint32_t integer(std::string_view name, std::uint32_t least, std::uint32_t most,
                          std::optional<std::uint32_t> missing = {}) {
        const GgufValue* value = find(name);
        if (value == nullptr) {
            if (!missing) { wrong(ErrorCode::data_loss, name, "is missing"); }
            return missing.value_or(least);
        }
        std::optional<std::int64_t> number = value->integer();
        if (const auto list = value->integers(); list && !list->empty()) {
            if (std::any_of(list->begin(), list->end(), [&](std::int64_t item) { return item != list->front(); })) {
                wrong(ErrorCode::unimplemented, name, "differs from layer to layer: all must be equal");
                return least;
            }
            number = list->front();
        }
        if (!number || *number < least || *number > most) {
            wrong(ErrorCode::data_loss, name,
                  "is " + value->shown() + ", must be an integer in [" + std::to_string(least) + ", " +
                      std::to_string(most) + "]");
            return least;
        }
        return static_cast<std::uint32_t>(*number);
    }

    double number(std::string_view name, const NumberRange& range, std::optional<double> missing) {
        const GgufValue* value = find(name);
        if (value == nullptr) {
            if (!missing) { wrong(ErrorCode::data_loss, name, "is missing"); }
            return missing.value_or(range.least);
        }
        const auto number = value->number();
        if (!number || !range.holds(*number)) {
            wrong(ErrorCode::data_loss, name,
                  "is " + value->shown() + ", must be a number in " + std::string(range.shown));
            return range.least;
        }
        return as_written(*number);
    }

    /// The key must be missing or equal to `only`, which changes nothing.
    void only(std::string_view name, double only) {
        const GgufValue* value = find(name);
        if (value == nullptr) { return; }
        const std::optional<double> number =
            value->boolean() ? std::optional(*value->boolean() ? 1.0 : 0.0) : value->number();
        if (number != only) {
            std::string allowed = std::to_string(static_cast<int>(only));
            if (value->boolean()) { allowed = only != 0 ? "true" : "false"; }
            wrong(ErrorCode::unimplemented, name, "is " + value->shown() + ", only " + allowed + " is supported");
        }
    }

    void wrong(ErrorCode code, std::string_view name, const std::string& what) {
        if (!error_) { error_ = base::Error{code, prefix_ + std::string(name) + " " + what}; }
    }

    /// A field that nobody has asked for might change the numbers.
    void refuse_unknown() {
        for (const auto& [key, value] : model_.values()) {
            if (key.starts_with(prefix_) && !known_.contains(key)) {
                return wrong(ErrorCode::unimplemented, base::gguf_printable(key.substr(prefix_.size())),
                             "is " + value.shown() + ": this field is not known");
            }
        }
    }
    const std::optional<base::Error>& error() const { return error_; }

private:
    const GgufModel& model_;
    std::string prefix_;
    std::set<std::string, std::less<>> known_;
    std::optional<base::Error> error_;
};

struct Family {
    std::string_view name;          // general.architecture
    std::string_view architecture;  // of ModelShape
    bool has_qkv_bias;              // always; else where the file has the tensors
    bool has_qk_norm;
    bool has_pairs;  // the rows of a head of q and k come as pairs (0, half), (1, half + 1), ...: undone while reading
};

constexpr std::array kFamilies = {
    Family{"llama", "LlamaForCausalLM", false, false, true},
    Family{"qwen2", "Qwen2ForCausalLM", true, false, false},
    Family{"qwen3", "Qwen3ForCausalLM", false, true, false},
};

Result<const Family*> family_of(const GgufModel& model) {
    if (const GgufValue* type = model.find("general.type"); type != nullptr && type->string() != "model") {
        return base::fail(ErrorCode::unimplemented,
                          "general.type is " + type->shown() + ", only \"model\" is supported");
    }
    const GgufValue* value = model.find("general.architecture");
    if (value == nullptr) { return base::fail(ErrorCode::data_loss, "general.architecture is missing"); }
    std::string names;
    for (const Family& family : kFamilies) {
        if (value->string() == family.name) { return &family; }
        names += (names.empty() ? "\"" : ", \"") + std::string(family.name) + "\"";
    }
    return base::fail(ErrorCode::unimplemented,
                      "general.architecture is " + value->shown() + ", only " + names + " are supported");
}

const GgufTensor* find_tensor(const GgufModel& model, std::string_view name) {
    const auto found = model.tensors().find(name);
    return found == model.tensors().end() ? nullptr : &found->second;
}

/// What the converters write as factors of the rotary wavelengths for Llama 3.1's rule.
/// Source: the rule itself (rope.cpp), and convert_hf_to_gguf's inverse of it.
float llama3_factor(double frequency, const base::RopeScaling& scaling) {
    const double original = scaling.original_max_position_tokens;
    const double wavelength = 2.0 * std::numbers::pi / frequency;
    if (wavelength < original / scaling.high_freq_factor) { return 1.0f; }
    if (wavelength > original / scaling.low_freq_factor) { return static_cast<float>(scaling.factor); }
    const double smooth =
        (original / wavelength - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor);
    return static_cast<float>(1.0 / ((1.0 - smooth) / scaling.factor + smooth));
}

/// `rope_freqs.weight` holds a factor for each wavelength. Those of Llama 3.x come from a rule whose parameters the
/// file does not keep; all such models have the same but for the factor, which is the largest one.
Result<void> read_rope_factors(const GgufModel& model, ModelShape& shape) {
    const GgufTensor* tensor = find_tensor(model, "rope_freqs.weight");
    if (tensor == nullptr) { return {}; }
    const std::size_t pairs = shape.head_dim / 2;
    if (tensor->type->name != "F32" || tensor->shape != std::vector<std::uint64_t>{pairs}) {
        return base::fail(ErrorCode::data_loss, "tensor rope_freqs.weight is " + std::string(tensor->type->name) + " " +
                                                    format_shape(tensor->shape) + ", must be F32 [" +
                                                    std::to_string(pairs) + "]");
    }
    std::vector<float> factors(pairs);
    dequantize_row(*tensor->type, tensor->bytes, factors);
    if (std::all_of(factors.begin(), factors.end(), [](float factor) { return factor == 1.0f; })) { return {}; }
    const float largest = *std::max_element(factors.begin(), factors.end());
    const base::RopeScaling scaling{.kind = base::RopeScaling::Kind::llama3,
                                    .factor = as_written(static_cast<double>(largest)),
                                    .low_freq_factor = 1.0,
                                    .high_freq_factor = 4.0,
                                    .original_max_position_tokens = 8192};
    for (std::size_t i = 0; i < pairs; ++i) {
        const double exponent = 2.0 * static_cast<double>(i) / shape.head_dim;
        const float expected = llama3_factor(std::pow(shape.rope_theta, -exponent), scaling);
        if (!(std::abs(factors[i] - expected) <= 1e-4f * expected)) {
            return base::fail(ErrorCode::unimplemented, "tensor rope_freqs.weight has " + std::to_string(factors[i]) +
                                                            " at " + std::to_string(i) +
                                                            " where Llama 3's rule (factor " + std::to_string(largest) +
                                                            ", low 1, high 4, original context 8192) gives " +
                                                            std::to_string(expected) + ": only that rule is supported");
        }
    }
    if (shape.rope_scaling.kind != base::RopeScaling::Kind::none) {
        return base::fail(ErrorCode::unimplemented, "rope_freqs.weight and rope.scaling together are not supported");
    }
    shape.rope_scaling = scaling;
    return {};
}

void read_rope(Keys& keys, ModelShape& shape) {
    shape.rope_theta = keys.number("rope.freq_base", kRopeTheta, 10000.0);
    const std::uint32_t rotated = keys.integer("rope.dimension_count", 1, 1u << 17, shape.head_dim);
    if (rotated != shape.head_dim) {
        keys.wrong(ErrorCode::unimplemented, "rope.dimension_count",
                   "is " + std::to_string(rotated) + ", only the size of a head (" + std::to_string(shape.head_dim) +
                       ") is supported");
    }
    keys.only("rope.scaling.attn_factor", 1);
    keys.find("rope.scaling.original_context_length");  // of kinds of scaling that are refused
    keys.find("rope.scaling.finetuned");                // says how the model was made
    // The older key first; without a kind a factor is a linear one, as readers of the format take it.
    double factor = 1.0;
    for (const char* name : {"rope.scale_linear", "rope.scaling.factor"}) {
        const GgufValue* value = keys.find(name);
        if (value == nullptr || value->number() == 0.0) { continue; }  // 0: none
        factor = keys.number(name, kRopeFactor, 1.0);
    }
    const GgufValue* kind = keys.find("rope.scaling.type");
    if (kind != nullptr && kind->string() != "none" && kind->string() != "linear") {
        keys.wrong(ErrorCode::unimplemented, "rope.scaling.type",
                   "is " + kind->shown() + ", only \"none\" and \"linear\" are supported");
    }
    if (factor != 1.0 && !(kind != nullptr && kind->string() == "none")) {
        shape.rope_scaling.kind = base::RopeScaling::Kind::linear;
        shape.rope_scaling.factor = factor;
    }
}

/// Fields that would change the numbers, with the value at which they do not.
void check_neutral(Keys& keys, const ModelShape& shape) {
    keys.only("attention.causal", 1);
    for (const char* name :
         {"expert_count", "expert_used_count", "pooling_type", "attention.clamp_kqv", "attention.max_alibi_bias",
          "attn_logit_softcapping", "final_logit_softcapping", "use_parallel_residual"}) {
        keys.only(name, 0);
    }
    for (const char* name : {"logit_scale", "residual_scale", "embedding_scale"}) {
        keys.only(name, 1);
    }
    const std::uint32_t window = keys.integer("attention.sliding_window", 0, 1u << 31, 0);
    if (window > 0 && window < shape.context_tokens) {
        keys.wrong(ErrorCode::unimplemented, "attention.sliding_window",
                   "is " + std::to_string(window) + ", only 0 or at least context_length (" +
                       std::to_string(shape.context_tokens) + ") is supported");
    }
    const GgufValue* layout = keys.find("tensor_data_layout");  // of early converters; says what we do for `llama`
    if (layout != nullptr && layout->string() != "Meta AI original pth" && layout->string() != "reference") {
        keys.wrong(ErrorCode::unimplemented, "tensor_data_layout", "is " + layout->shown());
    }
}

struct TensorName {
    std::string_view gguf;
    std::string_view hugging_face;
};

constexpr std::array kOuterNames = {TensorName{"token_embd.weight", "model.embed_tokens.weight"},
                                    TensorName{"output_norm.weight", "model.norm.weight"},
                                    TensorName{"output.weight", "lm_head.weight"}};

/// After "blk.N." and "model.layers.N.".
constexpr std::array kLayerNames = {TensorName{"attn_norm.weight", "input_layernorm.weight"},
                                    TensorName{"attn_q.weight", "self_attn.q_proj.weight"},
                                    TensorName{"attn_k.weight", "self_attn.k_proj.weight"},
                                    TensorName{"attn_v.weight", "self_attn.v_proj.weight"},
                                    TensorName{"attn_q.bias", "self_attn.q_proj.bias"},
                                    TensorName{"attn_k.bias", "self_attn.k_proj.bias"},
                                    TensorName{"attn_v.bias", "self_attn.v_proj.bias"},
                                    TensorName{"attn_output.weight", "self_attn.o_proj.weight"},
                                    TensorName{"attn_output.bias", "self_attn.o_proj.bias"},
                                    TensorName{"attn_q_norm.weight", "self_attn.q_norm.weight"},
                                    TensorName{"attn_k_norm.weight", "self_attn.k_norm.weight"},
                                    TensorName{"ffn_norm.weight", "post_attention_layernorm.weight"},
                                    TensorName{"ffn_gate.weight", "mlp.gate_proj.weight"},
                                    TensorName{"ffn_up.weight", "mlp.up_proj.weight"},
                                    TensorName{"ffn_down.weight", "mlp.down_proj.weight"}};

/// Empty where there is no such tensor in a Hugging Face checkpoint.
std::string hugging_face_name(std::string_view name) {
    for (const TensorName& outer : kOuterNames) {
        if (name == outer.gguf) { return std::string(outer.hugging_face); }
    }
    constexpr std::string_view kPrefix = "blk.";
    if (!name.starts_with(kPrefix)) { return {}; }
    const std::size_t dot = name.find('.', kPrefix.size());
    if (dot == std::string_view::npos) { return {}; }
    for (const TensorName& layer : kLayerNames) {
        if (name.substr(dot + 1) == layer.gguf) {
            return "model.layers." + std::string(name.substr(kPrefix.size(), dot - kPrefix.size())) + "." +
                   std::string(layer.hugging_face);
        }
    }
    return {};
}

/// Heads whose rows are stored as pairs, 0 where they are not.
std::uint32_t pair_heads(const Family& family, const ModelShape& shape, std::string_view name) {
    if (!family.has_pairs) { return 0; }
    if (name.find(".attn_q.") != std::string_view::npos) { return shape.heads_q; }
    return name.find(".attn_k.") != std::string_view::npos ? shape.heads_kv : 0;
}

Result<ModelShape> read_shape(const GgufModel& model) {
    const auto family = family_of(model);
    if (!family) { return base::pass_on(family); }
    Keys keys(model, (*family)->name);
    ModelShape shape;
    shape.architecture = (*family)->architecture;
    shape.layers = keys.integer("block_count", 1, kLayersMax);
    shape.hidden = keys.integer("embedding_length", 1, kHiddenMax);
    shape.intermediate = keys.integer("feed_forward_length", 1, kIntermediateMax);
    shape.heads_q = keys.integer("attention.head_count", 1, kHeadsMax);
    shape.heads_kv = keys.integer("attention.head_count_kv", 1, kHeadsMax, shape.heads_q);
    shape.context_tokens = keys.integer("context_length", 1, kContextMax);
    shape.head_dim = keys.integer("attention.key_length", 2, kHeadDimMax, shape.hidden / shape.heads_q);
    const std::uint32_t value_length = keys.integer("attention.value_length", 2, kHeadDimMax, shape.head_dim);
    shape.rms_norm_eps = keys.number("attention.layer_norm_rms_epsilon", kEpsilon, {});
    if (value_length != shape.head_dim) {
        keys.wrong(ErrorCode::unimplemented, "attention.value_length",
                   "is " + std::to_string(value_length) + ", only attention.key_length (" +
                       std::to_string(shape.head_dim) + ") is supported");
    }
    if (shape.heads_q % shape.heads_kv != 0) {
        keys.wrong(ErrorCode::data_loss, "attention.head_count_kv",
                   "is " + std::to_string(shape.heads_kv) + ", must divide attention.head_count (" +
                       std::to_string(shape.heads_q) + ")");
    }
    if (shape.head_dim < 2 || shape.head_dim % 2 != 0) {
        keys.wrong(ErrorCode::unimplemented, "attention.key_length",
                   "(or embedding_length / attention.head_count) is " + std::to_string(shape.head_dim) +
                       ", only even numbers are supported");
    }
    read_rope(keys, shape);
    check_neutral(keys, shape);

    const GgufTensor* embedding = find_tensor(model, "token_embd.weight");
    if (embedding == nullptr || embedding->shape.size() != 2 || embedding->shape[1] > kVocabularyMax) {
        return base::fail(ErrorCode::data_loss, "tensor token_embd.weight is missing or no matrix of at most " +
                                                    std::to_string(kVocabularyMax) + " rows");
    }
    shape.vocabulary = static_cast<std::uint32_t>(embedding->shape[1]);
    const std::uint32_t vocab_size = keys.integer("vocab_size", 1, kVocabularyMax, shape.vocabulary);
    if (vocab_size != shape.vocabulary) {
        keys.wrong(ErrorCode::data_loss, "vocab_size",
                   "is " + std::to_string(vocab_size) + ", token_embd.weight has " + std::to_string(shape.vocabulary) +
                       " rows");
    }
    keys.refuse_unknown();
    if (keys.error()) { return tl::unexpected(*keys.error()); }

    shape.tied_embeddings = find_tensor(model, "output.weight") == nullptr;
    shape.qkv_bias = (*family)->has_qkv_bias || find_tensor(model, "blk.0.attn_q.bias") != nullptr;
    shape.output_bias = find_tensor(model, "blk.0.attn_output.bias") != nullptr;
    shape.qk_norm = (*family)->has_qk_norm;
    if ((*family)->has_pairs) {
        if (auto read = read_rope_factors(model, shape); !read) { return base::pass_on(read); }
    }
    return shape;
}

std::string path_of(const GgufModel& model) {
    return model.files().front().path.string();
}

}  // namespace

Result<ModelShape> gguf_model_shape(const GgufModel& model) {
    auto shape = read_shape(model);
    if (!shape) { return base::pass_on(shape, path_of(model)); }
    return shape;
}

Result<Tensors> gguf_tensors(const GgufModel& model, const ModelShape& shape) {
    const auto family = family_of(model);
    if (!family) { return base::pass_on(family, path_of(model)); }
    std::set<std::string> wanted;
    for (const PackedItem& item : plan_packing(shape, WeightFormat::f32).items) {
        for (const auto& source : item.sources) {
            wanted.insert(source.tensor);
        }
    }
    Tensors tensors;
    for (const auto& [name, stored] : model.tensors()) {
        if (name == "rope_freqs.weight" && (*family)->has_pairs) { continue; }  // read_rope_factors()
        const std::string told = path_of(model) + ": tensor " + base::gguf_printable(name);
        const std::string target = hugging_face_name(name);
        if (!wanted.contains(target)) {
            return base::fail(ErrorCode::unimplemented, told + " is no part of a " + std::string((*family)->name) +
                                                            " model of " + std::to_string(shape.layers) +
                                                            " layers as it is supported");
        }
        if (!can_dequantize(*stored.type)) {
            return base::fail(ErrorCode::unimplemented,
                              told + " is stored as " + std::string(stored.type->name) +
                                  ", only F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q2_K to Q6_K, IQ4_NL and "
                                  "IQ4_XS are supported");
        }
        Tensor tensor;
        tensor.dtype = std::string(stored.type->name);
        tensor.shape.assign(stored.shape.rbegin(), stored.shape.rend());
        tensor.bytes = stored.bytes;
        tensor.pair_heads = pair_heads(**family, shape, name);
        if (stored.type->block_elements > 1) { tensor.blocks = stored.type; }
        tensors.emplace(target, std::move(tensor));
    }
    return tensors;
}

}  // namespace engine
