#include "scheduler/planner/model.h"

#include <algorithm>
#include <cctype>
#include <cmath>

#include "scheduler/planner/json_read.h"

namespace scheduler::planner {
namespace {

double attention_parameters(const Model& model) {
    const base::ModelShape& shape = model.shape;
    return static_cast<double>(shape.hidden) * shape.head_dim * (2.0 * shape.heads_q + 2.0 * shape.heads_kv);
}

double mlp_parameters(const Model& model, double experts) {
    const double matrices = model.has_gated_mlp ? 3 : 2;
    if (!model.is_moe()) { return matrices * model.shape.hidden * model.shape.intermediate; }
    return experts * matrices * model.shape.hidden * model.expert_intermediate +
           static_cast<double>(model.shape.hidden) * model.experts;  // the router
}

double embedding_parameters(const Model& model) {
    return static_cast<double>(model.shape.hidden) * model.shape.vocabulary;
}

base::Result<std::uint32_t> count_at(const boost::json::value& json, std::string_view path,
                                     std::optional<double> fallback, double least = 1) {
    const auto number = number_at(json, path, fallback, least, 4e9, "config.json");
    if (!number) { return base::pass_on(number); }
    return static_cast<std::uint32_t>(*number);
}

}  // namespace

double Model::parameters() const {
    return shape.layers * (attention_parameters(*this) + mlp_parameters(*this, experts)) +
           embedding_parameters(*this) * (shape.tied_embeddings ? 1 : 2);
}

double Model::weight_bytes_per_gpu(const Split& split) const {
    const double layers = std::ceil(static_cast<double>(shape.layers) / split.pipeline);
    const double ends = embedding_parameters(*this) * (split.pipeline > 1 || shape.tied_embeddings ? 1 : 2);
    return (layers * (attention_parameters(*this) + mlp_parameters(*this, experts)) + ends) / split.tensor *
           weight_bits / 8;
}

double Model::kv_bytes_per_token_per_gpu(const Split& split) const {
    const double layers = std::ceil(static_cast<double>(shape.layers) / split.pipeline);
    const double heads = std::max(1.0, static_cast<double>(shape.heads_kv) / split.tensor);
    return 2 * layers * heads * shape.head_dim * kv_bits / 8;
}

double Model::experts_touched(double tokens) const {
    if (!is_moe() || tokens <= 0) { return 0; }
    const double missed = 1 - static_cast<double>(experts_per_token) / experts;
    return experts * (1 - std::pow(missed, tokens));
}

double Model::flops_per_token() const {
    const double mlp = is_moe() ? mlp_parameters(*this, experts_per_token) : mlp_parameters(*this, 0);
    return 2 * (shape.layers * (attention_parameters(*this) + mlp) + embedding_parameters(*this));
}

base::Result<Model> read_model(std::string_view config_json) {
    const auto json = parse_json(config_json, "config.json");
    if (!json) { return base::pass_on(json); }
    if (!json->is_object()) { return base::fail(base::ErrorCode::invalid_argument, "config.json is no JSON object"); }
    Model model;
    const boost::json::value* architectures = find_value(*json, "architectures");
    if (architectures != nullptr && architectures->is_array() && !architectures->get_array().empty() &&
        architectures->get_array()[0].is_string()) {
        model.name = architectures->get_array()[0].get_string();
    } else {
        model.name = text_at(*json, "model_type", "unnamed");
    }
    std::erase_if(model.name, [](unsigned char c) { return std::isalnum(c) == 0 && c != '_' && c != '-'; });
    model.shape.architecture = model.name;
    const auto is_opt = text_at(*json, "model_type", "") == "opt" || model.name.rfind("OPT", 0) == 0;
    model.has_gated_mlp = !is_opt;
    struct Field {
        std::uint32_t* into;
        const char* name;
        std::optional<double> fallback;
    };
    // Later fallbacks use earlier fields, so one after the other.
    const auto read = [&](const Field& field) -> base::Result<void> {
        const auto count = count_at(*json, field.name, field.fallback);
        if (!count) { return base::pass_on(count); }
        *field.into = *count;
        return {};
    };
    base::ModelShape& shape = model.shape;
    for (const Field& field :
         {Field{&shape.layers, "num_hidden_layers", {}}, Field{&shape.hidden, "hidden_size", {}},
          Field{&shape.heads_q, "num_attention_heads", {}}, Field{&shape.vocabulary, "vocab_size", {}},
          Field{&shape.context_tokens, "max_position_embeddings", 2048}}) {
        if (const auto done = read(field); !done) { return base::pass_on(done); }
    }
    for (const Field& field : {Field{&shape.heads_kv, "num_key_value_heads", shape.heads_q},
                               Field{&shape.head_dim, "head_dim", std::max(1u, shape.hidden / shape.heads_q)}}) {
        if (const auto done = read(field); !done) { return base::pass_on(done); }
    }
    for (const char* name : {"num_local_experts", "num_experts", "n_routed_experts"}) {
        if (find_value(*json, name) == nullptr) { continue; }
        const auto experts = count_at(*json, name, {}, 0);
        if (!experts) { return base::pass_on(experts); }
        model.experts = *experts;
        break;
    }
    const char* const width = is_opt ? "ffn_dim" : "intermediate_size";
    const auto done =
        read({&shape.intermediate, width, model.is_moe() ? std::optional<double>(4.0 * shape.hidden) : std::nullopt});
    if (!done) { return base::pass_on(done); }
    if (model.is_moe()) {
        auto more = read({&model.experts_per_token, "num_experts_per_tok", {}});
        if (more) { more = read({&model.expert_intermediate, "moe_intermediate_size", shape.intermediate}); }
        if (!more) { return base::pass_on(more); }
        if (model.experts_per_token > model.experts) {
            return base::fail(base::ErrorCode::invalid_argument,
                              "config.json: num_experts_per_tok is more than there are experts");
        }
    }
    const boost::json::value* tied = find_value(*json, "tie_word_embeddings");
    shape.tied_embeddings = tied != nullptr && tied->is_bool() ? tied->get_bool() : is_opt;
    const std::string dtype = text_at(*json, "torch_dtype", text_at(*json, "dtype", "bfloat16"));
    model.weight_bits = dtype == "float32" ? 32 : 16;
    if (text_at(*json, "quantization_config.quant_method", "").find("fp8") != std::string::npos) {
        model.weight_bits = 8;
    }
    model.kv_bits = dtype == "float32" ? 32 : 16;
    if (shape.heads_q % shape.heads_kv != 0) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "config.json: num_key_value_heads does not divide num_attention_heads");
    }
    return model;
}

base::Result<void> check_split(const Model& model, const Split& split) {
    const auto refuse = [&](const std::string& what, std::uint32_t count, std::uint32_t by) -> base::Result<void> {
        return base::fail(base::ErrorCode::invalid_argument,
                          std::to_string(count) + " " + what + " cannot be divided by " + std::to_string(by));
    };
    if (split.tensor == 0 || split.pipeline == 0) { return refuse("layers", model.shape.layers, 0); }
    if (model.shape.heads_q % split.tensor != 0) { return refuse("heads", model.shape.heads_q, split.tensor); }
    const std::uint32_t heads_kv = model.shape.heads_kv;
    if (heads_kv % split.tensor != 0 && split.tensor % heads_kv != 0) {
        return refuse("KV heads", heads_kv, split.tensor);
    }
    const std::uint32_t width = model.is_moe() ? model.expert_intermediate : model.shape.intermediate;
    if (width % split.tensor != 0) { return refuse("MLP columns", width, split.tensor); }
    if (split.pipeline > model.shape.layers) { return refuse("layers", model.shape.layers, split.pipeline); }
    return {};
}

}  // namespace scheduler::planner
