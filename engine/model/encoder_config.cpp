#include "engine/model/encoder_config.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <filesystem>
#include <system_error>
#include <utility>
#include <vector>

#include "base/gguf_model.h"
#include "engine/model/config_fields.h"
#include "engine/model/json_text.h"
#include "engine/model/read_file.h"
#include "engine/model/shape_bounds.h"

namespace engine {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;
using base::ErrorCode;
using base::Result;

constexpr std::size_t kConfigBytesMax = 4u << 20;
constexpr std::uint32_t kTokenTypesMax = 1024;
constexpr std::uint32_t kEncoderHeadDimMax = 256;
constexpr std::size_t kModulesMax = 16;

Result<json::object> parse_object(std::string_view text, const std::string& file) {
    return parse_json_object(text, file, ErrorCode::invalid_argument);
}

/// One step of modules.json.
struct Step {
    std::string kind;  // "Pooling": the last part of its type
    std::string path;
};

Result<std::vector<Step>> read_steps(std::string_view text) {
    const auto document = parse_json(text, "modules.json", ErrorCode::invalid_argument);
    if (!document) { return base::pass_on(document); }
    const auto wrong = [](const std::string& what) {
        return base::fail(ErrorCode::invalid_argument, "modules.json: " + what);
    };
    if (!document->is_array() || document->get_array().size() > kModulesMax) {
        return wrong("must be a list of at most " + std::to_string(kModulesMax) + " steps");
    }
    std::vector<Step> steps;
    for (const json::value& entry : document->get_array()) {
        const json::object* fields = entry.if_object();
        const json::value* type = fields == nullptr ? nullptr : fields->if_contains("type");
        const json::value* path = fields == nullptr ? nullptr : fields->if_contains("path");
        if (type == nullptr || !type->is_string() || path == nullptr || !path->is_string()) {
            return wrong("a step needs the strings 'type' and 'path', got " + shown(entry));
        }
        const std::string name(type->get_string());
        steps.push_back({name.substr(name.rfind('.') + 1), std::string(path->get_string())});
    }
    return steps;
}

void read_transformer(Fields& fields, EncoderShape& shape) {
    base::ModelShape& inner = shape.transformer;
    inner.layers = fields.integer("num_hidden_layers", 1, kLayersMax);
    inner.hidden = fields.integer("hidden_size", 1, kHiddenMax);
    inner.intermediate = fields.integer("intermediate_size", 1, kIntermediateMax);
    inner.heads_q = fields.integer("num_attention_heads", 1, kHeadsMax);
    inner.heads_kv = inner.heads_q;
    inner.vocabulary = fields.integer("vocab_size", 1, kVocabularyMax);
    shape.positions = fields.integer("max_position_embeddings", 1, kContextMax);
    inner.context_tokens = shape.positions;
    shape.token_types = fields.integer("type_vocab_size", 1, kTokenTypesMax, 2);
    shape.layer_norm_eps = fields.number("layer_norm_eps", kEpsilon, 1e-12);
    inner.qkv_bias = true;
    inner.output_bias = true;
    const json::value* activation = fields.find("hidden_act");
    if (activation == nullptr || *activation == "gelu") {
        shape.gelu = Gelu::exact;
    } else if (*activation == "gelu_new" || *activation == "gelu_pytorch_tanh") {
        shape.gelu = Gelu::tanh;
    } else {
        fields.wrong(ErrorCode::unimplemented, "hidden_act is " + shown(*activation) +
                                                   ", only \"gelu\", \"gelu_new\" and \"gelu_pytorch_tanh\" are "
                                                   "supported");
    }
    fields.only("position_embedding_type", "absolute");
    fields.only("is_decoder", false);
    fields.only("add_cross_attention", false);
    fields.none("quantization_config", "quantised encoders are not supported, only F32, F16 and BF16");
    if (fields.error()) { return; }
    if (inner.hidden % inner.heads_q != 0) {
        return fields.wrong(ErrorCode::invalid_argument, "hidden_size is " + std::to_string(inner.hidden) +
                                                             ", must be a multiple of num_attention_heads (" +
                                                             std::to_string(inner.heads_q) + ")");
    }
    inner.head_dim = inner.hidden / inner.heads_q;
    if (inner.head_dim > kEncoderHeadDimMax || inner.head_dim % 2 != 0) {
        fields.wrong(ErrorCode::unimplemented, "hidden_size and num_attention_heads make heads of " +
                                                   std::to_string(inner.head_dim) + ", only even sizes up to " +
                                                   std::to_string(kEncoderHeadDimMax) + " are supported");
    }
}

/// What of the states becomes the vector: exactly one of the modes that we have.
Result<void> read_pooling(const std::string& text, EncoderShape& shape) {
    const auto object = parse_object(text, "the pooling's config.json");
    if (!object) { return base::pass_on(object); }
    Fields fields(*object, "", text, "the pooling's config.json");
    const std::uint32_t width = fields.integer("word_embedding_dimension", 1, kHiddenMax, shape.transformer.hidden);
    const bool first = fields.boolean("pooling_mode_cls_token", false);
    const bool mean = fields.boolean("pooling_mode_mean_tokens", false);
    for (const auto& field : *object) {
        const std::string_view name = field.key();
        if (!name.starts_with("pooling_mode_") || name == "pooling_mode_cls_token" ||
            name == "pooling_mode_mean_tokens") {
            continue;
        }
        if (fields.boolean(name, false)) {
            fields.wrong(ErrorCode::unimplemented, std::string(name) +
                                                       " is true, only pooling_mode_cls_token and "
                                                       "pooling_mode_mean_tokens are supported");
        }
    }
    if (fields.error()) { return tl::unexpected(*fields.error()); }
    if (width != shape.transformer.hidden) {
        return base::fail(ErrorCode::invalid_argument, "the pooling's config.json: word_embedding_dimension is " +
                                                           std::to_string(width) + ", config.json's hidden_size is " +
                                                           std::to_string(shape.transformer.hidden));
    }
    if (first == mean) {
        return base::fail(first ? ErrorCode::unimplemented : ErrorCode::invalid_argument,
                          std::string("the pooling's config.json: ") + (first ? "both" : "none") +
                              " of pooling_mode_cls_token and pooling_mode_mean_tokens is true, must be one");
    }
    shape.pooling = first ? SentencePooling::first : SentencePooling::mean;
    return {};
}

/// modules.json: the transformer, one pooling, perhaps the division by the length; in this order.
Result<void> read_modules(const EncoderFiles& files, EncoderShape& shape) {
    const auto steps = read_steps(*files.modules);
    if (!steps) { return base::pass_on(steps); }
    static constexpr std::array<std::string_view, 3> kSteps = {"Transformer", "Pooling", "Normalize"};
    const auto is_known = [&](const Step& step, std::size_t at) {
        return at < kSteps.size() && step.kind == kSteps[at];
    };
    for (std::size_t i = 0; i < steps->size(); ++i) {
        if (!is_known((*steps)[i], i)) {
            return base::fail(ErrorCode::unimplemented, "modules.json: step " + std::to_string(i) + " is a '" +
                                                            (*steps)[i].kind +
                                                            "', only Transformer, Pooling and, last, Normalize are "
                                                            "supported, in this order");
        }
    }
    if (steps->size() < 2) {
        return base::fail(ErrorCode::unimplemented,
                          "modules.json: there is no Pooling, without which a text has as "
                          "many vectors as tokens");
    }
    if (!steps->front().path.empty()) {
        return base::fail(ErrorCode::unimplemented, "modules.json: the Transformer is in the folder '" +
                                                        steps->front().path + "', only the model's own is supported");
    }
    shape.normalize = steps->size() > 2;
    if (!files.pooling) {
        return base::fail(ErrorCode::not_found, "there is no " + (*steps)[1].path +
                                                    "/config.json, which modules.json "
                                                    "names");
    }
    return read_pooling(*files.pooling, shape);
}

Result<void> read_longest(const std::string& text, EncoderShape& shape) {
    const auto object = parse_object(text, "sentence_bert_config.json");
    if (!object) { return base::pass_on(object); }
    Fields fields(*object, "", text, "sentence_bert_config.json");
    std::uint32_t& longest = shape.transformer.context_tokens;
    longest = std::min(longest, fields.integer("max_seq_length", 1, kContextMax, longest));
    fields.only("do_lower_case", false);
    if (fields.error()) { return tl::unexpected(*fields.error()); }
    return {};
}

Result<void> check_prompts(const std::string& text) {
    const auto object = parse_object(text, "config_sentence_transformers.json");
    if (!object) { return base::pass_on(object); }
    Fields fields(*object, "", text, "config_sentence_transformers.json");
    fields.none("default_prompt_name", "a prompt in front of every text is not supported");
    if (fields.error()) { return tl::unexpected(*fields.error()); }
    return {};
}

/// Empty when there is no such file.
Result<std::optional<std::string>> read_optional(const fs::path& path) {
    std::error_code ignored;
    if (!fs::exists(path, ignored)) { return std::optional<std::string>(); }
    auto text = read_file(path, kConfigBytesMax);
    if (!text) { return base::pass_on(text); }
    return std::optional<std::string>(std::move(*text));
}

}  // namespace

bool is_encoder(std::string_view architecture) {
    return architecture == "BertModel";
}

Result<std::string> read_architecture(const std::string& model_dir) {
    if (base::is_gguf(model_dir)) { return std::string(); }
    const auto text = read_file(fs::path(model_dir) / "config.json", kConfigBytesMax);
    if (!text) { return base::pass_on(text); }
    const auto object = parse_object(*text, "config.json");
    if (!object) { return base::pass_on(object, model_dir); }
    auto architecture = architecture_in(*object);
    if (!architecture) { return base::pass_on(architecture, model_dir); }
    return architecture;
}

Result<std::string> pooling_folder(std::string_view modules) {
    const auto steps = read_steps(modules);
    if (!steps) { return base::pass_on(steps); }
    const auto step = std::find_if(steps->begin(), steps->end(), [](const Step& one) { return one.kind == "Pooling"; });
    if (step == steps->end()) { return std::string(); }
    const fs::path path(step->path);
    const bool leads_out = path.is_absolute() || step->path.find('\0') != std::string::npos ||
                           std::any_of(path.begin(), path.end(), [](const fs::path& part) { return part == ".."; });
    if (leads_out || step->path.empty()) {
        return base::fail(ErrorCode::invalid_argument,
                          "modules.json: the path of the Pooling is '" + step->path + "', not a folder of this model");
    }
    return step->path;
}

Result<EncoderShape> parse_encoder_config(const EncoderFiles& files) {
    const auto object = parse_object(files.config, "config.json");
    if (!object) { return base::pass_on(object); }
    const auto architecture = architecture_in(*object);
    if (!architecture) { return base::pass_on(architecture); }
    if (!is_encoder(*architecture)) {
        return base::fail(ErrorCode::unimplemented, "config.json: architectures is [\"" + *architecture +
                                                        "\"], of sentence encoders only BertModel is supported");
    }
    EncoderShape shape;
    shape.transformer.architecture = *architecture;
    Fields fields(*object, "", files.config);
    read_transformer(fields, shape);
    if (fields.error()) { return tl::unexpected(*fields.error()); }
    if (files.modules) {
        if (auto read = read_modules(files, shape); !read) { return base::pass_on(read); }
    }
    if (files.sentences) {
        if (auto read = read_longest(*files.sentences, shape); !read) { return base::pass_on(read); }
    }
    if (files.prompts) {
        if (auto checked = check_prompts(*files.prompts); !checked) { return base::pass_on(checked); }
    }
    return shape;
}

Result<EncoderShape> read_encoder_config(const std::string& model_dir) {
    const fs::path dir(model_dir);
    if (base::is_gguf(dir)) {
        return base::fail(ErrorCode::unimplemented,
                          model_dir + " is a GGUF file, sentence encoders are read from Hugging Face folders only");
    }
    EncoderFiles files;
    auto config = read_file(dir / "config.json", kConfigBytesMax);
    if (!config) { return base::pass_on(config); }
    files.config = std::move(*config);
    for (const auto& [name, file] :
         {std::pair("modules.json", &files.modules), std::pair("sentence_bert_config.json", &files.sentences),
          std::pair("config_sentence_transformers.json", &files.prompts)}) {
        auto text = read_optional(dir / name);
        if (!text) { return base::pass_on(text); }
        *file = std::move(*text);
    }
    if (files.modules) {
        const auto folder = pooling_folder(*files.modules);
        if (!folder) { return base::pass_on(folder, model_dir); }
        if (!folder->empty()) {
            auto text = read_optional(dir / *folder / "config.json");
            if (!text) { return base::pass_on(text); }
            files.pooling = std::move(*text);
        }
    }
    auto shape = parse_encoder_config(files);
    if (!shape) { return base::pass_on(shape, model_dir); }
    return shape;
}

}  // namespace engine
