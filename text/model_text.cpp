#include "text/model_text.h"

#include <algorithm>
#include <string_view>
#include <system_error>

#include "base/gguf_model.h"
#include "text/file_bytes.h"
#include "text/gguf_text.h"
#include "text/json_file.h"
#include "text/template_sources.h"
#include "text/token_files.h"
#include "text/token_ids.h"

namespace text {
namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr std::size_t kTemplateBytesMax = std::size_t{1} << 20;
/// One template, or a list of named ones of which "default" (or the first) and "tool_use" count.
void add_sources(const json::value* field, const std::string& file, TemplateSources& sources) {
    if (field == nullptr) { return; }
    sources.chat_from = sources.tool_from = file + ": chat_template";
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

/// A file of its own goes before tokenizer_config.json, and every file of additional_chat_templates/ beside either.
base::Result<TemplateSources> find_sources(const fs::path& folder, const json::object& config) {
    TemplateSources sources;
    std::error_code error;
    add_sources(config.if_contains("chat_template"), "tokenizer_config.json", sources);
    const auto file = read_optional_object(folder / "chat_template.json");
    if (!file) { return base::pass_on(file); }
    if (file->if_contains("chat_template") != nullptr) {
        sources = {};
        add_sources(file->if_contains("chat_template"), "chat_template.json", sources);
    }
    for (const auto& [name, target] :
         {std::pair(fs::path("chat_template.jinja"), &sources.chat),
          std::pair(fs::path("additional_chat_templates") / "tool_use.jinja", &sources.tool)}) {
        if (!fs::exists(folder / name, error)) { continue; }
        auto source = read_file(folder / name, kTemplateBytesMax);
        if (!source) { return base::pass_on(source); }
        if (target == &sources.chat) { sources.tool.reset(); }  // of the same model, but of an older file
        *target = std::move(*source);
        (target == &sources.chat ? sources.chat_from : sources.tool_from) = name.string();
    }
    if (!sources.chat) {  // a model may have named templates only
        const fs::path chat = folder / "additional_chat_templates" / "default.jinja";
        if (fs::exists(chat, error)) {
            auto source = read_file(chat, kTemplateBytesMax);
            if (!source) { return base::pass_on(source); }
            sources.chat = std::move(*source);
            sources.chat_from = "additional_chat_templates/default.jinja";
        }
    }
    return sources;
}

/// Names and texts of the special tokens, for the templates.
void add_special_tokens(const TokenFiles& files, ModelText& model) {
    for (const std::string& name : kSpecialTokenNames) {
        if (auto text = token_text(files.config, name)) {
            model.template_variables.emplace_back(name, std::move(*text));
            continue;
        }
        for (const auto& [known, text] : files.class_defaults) {
            if (known == name && model.tokenizer->token_of(text)) { model.template_variables.emplace_back(name, text); }
        }
    }
}

bool has_variable(const ModelText& model, std::string_view name) {
    return std::any_of(model.template_variables.begin(), model.template_variables.end(),
                       [name](const auto& variable) { return variable.first == name; });
}

/// A template that prints a token which no file names would print nothing: then the id in the model's configuration
/// counts, and where there is none either a person is told.
void complete_variables(const TemplateSources& sources, const TokenFiles& files, ModelText& model) {
    const std::string printed = sources.chat.value_or("") + sources.tool.value_or("");
    const base::TokenId* first_eos = model.eos_ids.empty() ? nullptr : &model.eos_ids.front();
    const base::TokenId* bos = model.bos ? &*model.bos : nullptr;
    for (const auto& [name, id] :
         {std::pair(std::string("bos_token"), bos), std::pair(std::string("eos_token"), first_eos)}) {
        const bool is_none = files.config.contains(name);  // null: the model has none, and that is said
        if (printed.find(name) == std::string::npos || has_variable(model, name) || is_none) { continue; }
        const std::string looked = name + " is in neither tokenizer_config.json nor special_tokens_map.json";
        const std::string_view text = id == nullptr ? std::string_view() : model.tokenizer->token_bytes(*id);
        if (text.empty()) {
            model.warnings.push_back("the chat template prints " + name + ", but " + looked + ": chats go without it");
            continue;
        }
        model.template_variables.emplace_back(name, std::string(text));
        model.warnings.push_back(looked + ": the chat template gets '" + std::string(text) + "', by " + name +
                                 "_id of the model's configuration");
    }
}

}  // namespace

base::Result<ModelText> ModelText::load(const fs::path& model_folder, const TokenizerOptions& options) {
    if (base::is_gguf(model_folder)) { return load_gguf_text(model_folder, options); }
    ModelText model;
    auto tokenizer = Tokenizer::load(model_folder, options);
    if (!tokenizer) { return base::pass_on(tokenizer); }
    model.tokenizer = std::move(*tokenizer);
    // A tokenizer may load and have no token for anything: better now than with every request.
    if (const auto tried = model.tokenizer->encode("a b"); !tried) {
        return base::pass_on(tried, model_folder.string() + ": the tokenizer cannot encode 'a b'");
    }
    const auto folder = token_folder(model_folder);
    if (!folder) { return base::pass_on(folder); }
    const auto files = read_token_files(*folder, model_folder);
    if (!files) { return base::pass_on(files); }
    const auto generation_config = read_optional_object(model_folder / "generation_config.json");
    if (!generation_config) { return base::pass_on(generation_config); }
    const auto config = read_optional_object(model_folder / "config.json");
    if (!config) { return base::pass_on(config); }
    const auto sources = find_sources(*folder, files->config);
    if (!sources) { return base::pass_on(sources); }

    model.vocabulary = vocabulary_of(*config);
    const std::size_t ids_end = model.vocabulary > 0 ? model.vocabulary : model.tokenizer->vocabulary_size();
    if (model.vocabulary > 0 && model.tokenizer->vocabulary_size() > model.vocabulary) {
        model.warnings.push_back("config.json: vocab_size is " + std::to_string(model.vocabulary) +
                                 ", but the tokenizer has ids up to " +
                                 std::to_string(model.tokenizer->vocabulary_size() - 1) +
                                 ": a prompt with one that the model does not know is refused");
    }
    add_special_tokens(*files, model);
    const json::object* inner = nullptr;
    if (const json::value* nested = config->if_contains("text_config")) { inner = nested->if_object(); }
    const std::pair<const json::object*, std::string> places[] = {{&*generation_config, "generation_config.json"},
                                                                  {&*config, "config.json"},
                                                                  {inner, "config.json: text_config"}};
    for (const auto& [place, name] : places) {
        if (place == nullptr) { continue; }
        const auto ids = ids_in(*place, "eos_token_id", name, ids_end, model.warnings);
        model.eos_ids.insert(model.eos_ids.end(), ids.begin(), ids.end());
    }
    if (const auto eos = model.tokenizer->eos(); eos && static_cast<std::size_t>(*eos) < ids_end) {
        model.eos_ids.push_back(*eos);
    }
    std::sort(model.eos_ids.begin(), model.eos_ids.end());
    model.eos_ids.erase(std::unique(model.eos_ids.begin(), model.eos_ids.end()), model.eos_ids.end());

    model.bos = model.tokenizer->bos();
    if (model.bos && static_cast<std::size_t>(*model.bos) >= ids_end) { model.bos.reset(); }
    for (const auto& [place, name] : places) {
        if (place == nullptr) { continue; }
        const auto ids = ids_in(*place, "bos_token_id", name, ids_end, model.warnings);
        if (!model.bos && !ids.empty()) { model.bos = ids.front(); }
    }
    model.defaults = generation_defaults(*generation_config, "generation_config.json", model.warnings);
    complete_variables(*sources, *files, model);
    compile_templates(*sources,
                      "chat_template.jinja, chat_template.json, additional_chat_templates/ and chat_template in "
                      "tokenizer_config.json",
                      model);
    return model;
}

namespace {

base::Result<json::object> parse_context(std::string_view context_json) {
    json::parse_options options;
    options.max_depth = 128;
    boost::system::error_code error;
    json::value context = json::parse(context_json, error, {}, options);
    if (error || !context.is_object()) {
        return base::fail(base::ErrorCode::invalid_argument, "the template context is not a JSON object");
    }
    return std::move(context.get_object());
}

void add_variables(const std::vector<std::pair<std::string, std::string>>& variables, json::object& context) {
    for (const auto& [name, text] : variables) {
        if (!context.contains(name)) { context[name] = text; }
    }
}

bool has_tools(const json::object& context) {
    const json::value* tools = context.if_contains("tools");
    return tools != nullptr && tools->is_array() && !tools->get_array().empty();
}

}  // namespace

base::Result<std::string> ModelText::with_variables(std::string_view context_json) const {
    auto context = parse_context(context_json);
    if (!context) { return base::pass_on(context); }
    add_variables(template_variables, *context);
    return json::serialize(*context);
}

base::Result<std::string> ModelText::render_chat(std::string_view context_json, const CivilTime& now) const {
    if (!chat_template) { return base::fail(base::ErrorCode::unimplemented, chat_template_problem); }
    auto context = parse_context(context_json);
    if (!context) { return base::pass_on(context); }
    const bool for_tools = tool_template != nullptr && has_tools(*context);
    if (auto adapted = adapt_contents(for_tools ? tool_content : chat_content, *context); !adapted) {
        return base::pass_on(adapted);
    }
    add_variables(template_variables, *context);
    return (for_tools ? tool_template : chat_template)->render(json::serialize(*context), now);
}

base::Result<std::string> ModelText::render_by(std::string_view source, std::string_view context_json,
                                               const CivilTime& now) const {
    auto context = parse_context(context_json);
    if (!context) { return base::pass_on(context); }
    const ContentForm texts{.takes_other_roles = true};
    if (auto adapted = adapt_contents(texts, *context); !adapted) { return base::pass_on(adapted); }
    add_variables(template_variables, *context);
    return ChatTemplate::render_once(source, json::serialize(*context), now, {}, tokenizer->process());
}

}  // namespace text
