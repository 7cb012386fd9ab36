#include "text/model_text.h"

#include <algorithm>
#include <array>
#include <limits>
#include <string_view>
#include <system_error>

#include "base/gguf_model.h"
#include "text/file_bytes.h"
#include "text/gguf_text.h"
#include "text/json_file.h"
#include "text/template_sources.h"

namespace text {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::size_t kConfigBytesMax = std::size_t{16} << 20;
constexpr std::size_t kTemplateBytesMax = std::size_t{1} << 20;
constexpr std::array kSpecialNames = {"bos_token", "eos_token", "unk_token", "sep_token",
                                      "pad_token", "cls_token", "mask_token"};

/// An empty object when the file is missing.
base::Result<json::object> read_optional(const fs::path& path) {
    std::error_code error;
    if (!fs::exists(path, error)) { return json::object(); }
    return read_json_object(path, kConfigBytesMax);
}

/// The ids in a field that is a number, a list of numbers, or absent.
std::vector<base::TokenId> ids_in(const json::object& config, std::string_view name) {
    std::vector<base::TokenId> ids;
    const auto add = [&](const json::value& value) {
        if (!value.is_int64()) { return; }
        const std::int64_t id = value.get_int64();
        if (id >= 0 && id <= std::numeric_limits<base::TokenId>::max()) {
            ids.push_back(static_cast<base::TokenId>(id));
        }
    };
    const json::value* field = config.if_contains(name);
    if (field == nullptr) { return ids; }
    if (field->is_array()) {
        for (const json::value& value : field->get_array()) {
            add(value);
        }
    } else {
        add(*field);
    }
    return ids;
}

std::optional<double> number_in(const json::object& config, std::string_view name) {
    const json::value* field = config.if_contains(name);
    if (field == nullptr || !field->is_number()) { return std::nullopt; }
    return field->to_number<double>();
}

std::optional<int> integer_in(const json::object& config, std::string_view name) {
    const json::value* field = config.if_contains(name);
    if (field == nullptr || !field->is_int64()) { return std::nullopt; }
    const std::int64_t number = field->get_int64();
    if (number < std::numeric_limits<int>::min() || number > std::numeric_limits<int>::max()) { return std::nullopt; }
    return static_cast<int>(number);
}

GenerationDefaults defaults_of(const json::object& config) {
    GenerationDefaults defaults;
    const json::value* do_sample = config.if_contains("do_sample");
    if (do_sample != nullptr && do_sample->is_bool()) { defaults.do_sample = do_sample->get_bool(); }
    defaults.temperature = number_in(config, "temperature");
    defaults.top_p = number_in(config, "top_p");
    defaults.min_p = number_in(config, "min_p");
    defaults.repetition_penalty = number_in(config, "repetition_penalty");
    defaults.top_k = integer_in(config, "top_k");
    defaults.max_new_tokens = integer_in(config, "max_new_tokens");
    return defaults;
}

/// One template, or a list of named ones of which "default" (or the first) and "tool_use" count.
void add_sources(const json::value* field, TemplateSources& sources) {
    if (field == nullptr) { return; }
    if (field->is_string()) {
        sources.chat = std::string(field->get_string());
        return;
    }
    if (!field->is_array()) { return; }
    for (const json::value& row : field->get_array()) {
        const json::object* fields = row.if_object();
        if (fields == nullptr) { continue; }
        const auto name = token_text(*fields, "name");
        const auto source = token_text(*fields, "template");
        if (!name || !source) { continue; }
        if (*name == "tool_use") { sources.tool = source; }
        if (*name == "default" || !sources.chat) { sources.chat = source; }
    }
}

/// A file of its own goes before tokenizer_config.json.
base::Result<TemplateSources> find_sources(const fs::path& folder, const json::object& config) {
    TemplateSources sources;
    std::error_code error;
    if (fs::exists(folder / "chat_template.jinja", error)) {
        auto source = read_file(folder / "chat_template.jinja", kTemplateBytesMax);
        if (!source) { return base::pass_on(source); }
        sources.chat = std::move(*source);
        const fs::path tool = folder / "additional_chat_templates" / "tool_use.jinja";
        if (fs::exists(tool, error)) {
            auto tool_source = read_file(tool, kTemplateBytesMax);
            if (!tool_source) { return base::pass_on(tool_source); }
            sources.tool = std::move(*tool_source);
        }
        return sources;
    }
    const auto file = read_optional(folder / "chat_template.json");
    if (!file) { return base::pass_on(file); }
    add_sources(file->if_contains("chat_template"), sources);
    if (!sources.chat) { add_sources(config.if_contains("chat_template"), sources); }
    return sources;
}

}  // namespace

base::Result<ModelText> ModelText::load(const fs::path& model_folder, const TokenizerOptions& options) {
    if (base::is_gguf(model_folder)) { return load_gguf_text(model_folder, options); }
    ModelText model;
    auto tokenizer = Tokenizer::load(model_folder, options);
    if (!tokenizer) { return base::pass_on(tokenizer); }
    model.tokenizer = std::move(*tokenizer);
    const auto tokenizer_config = read_optional(model_folder / "tokenizer_config.json");
    if (!tokenizer_config) { return base::pass_on(tokenizer_config); }
    const auto generation_config = read_optional(model_folder / "generation_config.json");
    if (!generation_config) { return base::pass_on(generation_config); }
    const auto config = read_optional(model_folder / "config.json");
    if (!config) { return base::pass_on(config); }
    const auto sources = find_sources(model_folder, *tokenizer_config);
    if (!sources) { return base::pass_on(sources); }
    compile_templates(*sources, "chat_template.jinja, chat_template.json and chat_template in tokenizer_config.json",
                      model);

    for (const char* name : kSpecialNames) {
        if (auto text = token_text(*tokenizer_config, name)) {
            model.template_variables.emplace_back(name, std::move(*text));
        }
    }
    model.eos_ids = ids_in(*generation_config, "eos_token_id");
    std::vector<base::TokenId> more = ids_in(*config, "eos_token_id");
    if (const json::value* nested = config->if_contains("text_config"); nested != nullptr && nested->is_object()) {
        const std::vector<base::TokenId> inner = ids_in(nested->get_object(), "eos_token_id");
        more.insert(more.end(), inner.begin(), inner.end());
    }
    model.eos_ids.insert(model.eos_ids.end(), more.begin(), more.end());
    if (const auto eos = model.tokenizer->eos()) { model.eos_ids.push_back(*eos); }
    std::sort(model.eos_ids.begin(), model.eos_ids.end());
    model.eos_ids.erase(std::unique(model.eos_ids.begin(), model.eos_ids.end()), model.eos_ids.end());

    model.bos = model.tokenizer->bos();
    for (const json::object* source : {&*generation_config, &*config}) {
        const std::vector<base::TokenId> ids = ids_in(*source, "bos_token_id");
        if (!model.bos && !ids.empty()) { model.bos = ids.front(); }
    }
    model.defaults = defaults_of(*generation_config);
    return model;
}

base::Result<std::string> ModelText::with_variables(std::string_view context_json) const {
    json::parse_options parse_options;
    parse_options.max_depth = 128;
    boost::system::error_code error;
    json::value context = json::parse(context_json, error, {}, parse_options);
    if (error || !context.is_object()) {
        return base::fail(base::ErrorCode::invalid_argument, "the template context is not a JSON object");
    }
    for (const auto& [name, text] : template_variables) {
        if (!context.get_object().contains(name)) { context.get_object()[name] = text; }
    }
    return json::serialize(context);
}

}  // namespace text
