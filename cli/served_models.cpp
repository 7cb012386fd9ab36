#include "cli/served_models.h"

#include <chrono>
#include <cstdint>
#include <filesystem>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/gguf_model.h"
#include "base/log.h"
#include "gateway/model_text.h"
#include "gateway/options.h"
#include "text/model_text.h"

namespace cli {

void add_name_flags(CLI::App& app, NameFlags& names) {
    app.add_option(
           "--served-name", names.served_names,
           "name of the only model in the API, again for further names; default: the folder's or the file's name")
        ->allow_extra_args(false);
    app.add_option("--alias", names.aliases,
                   "ALIAS[=MODEL]: a further name of a model (of the first, where none is said), in the settings "
                   "gateway.aliases; '*' stands for every name that nobody has; several times for several")
        ->allow_extra_args(false);
}

std::string first_name(const std::vector<std::string>& served_names) {
    return served_names.empty() ? std::string() : served_names.front();
}

void add_aliases(const NameFlags& names, gateway::GatewayOptions& options) {
    for (std::size_t at = 1; at < names.served_names.size(); ++at) {
        options.aliases.push_back(names.served_names[at]);
    }
    options.aliases.insert(options.aliases.end(), names.aliases.begin(), names.aliases.end());
}

std::string served_name(const std::string& flag, const std::string& setting, const std::string& model_dir) {
    if (!flag.empty()) { return flag; }
    if (setting != gateway::GatewayOptions{}.model) { return setting; }
    std::filesystem::path path(model_dir);
    if (base::is_gguf(path)) { return base::gguf_model_name(path); }  // as given: a link may lead to a mere hash
    std::error_code error;
    if (const auto absolute = std::filesystem::canonical(path, error); !error) { path = absolute; }
    return path.has_filename() ? path.filename().string() : path.parent_path().filename().string();
}

namespace {

/// A text of the form MODEL or NAME=MODEL; NAME is empty where it is not given.
NamedModel split_name(const std::string& text) {
    const auto split = text.find('=');
    std::error_code error;
    if (split == std::string::npos || std::filesystem::exists(text, error)) { return {.name = "", .dir = text}; }
    return {.name = text.substr(0, split), .dir = text.substr(split + 1)};
}

const std::string& own_name(const NamedModel& model, const std::map<std::string, std::string>& own_names) {
    const auto known = own_names.find(model.dir);
    return known == own_names.end() ? model.dir : known->second;
}

base::Result<void> check_name(const NamedModel& model, const std::string& flag, const std::string& text) {
    if (!model.name.empty() && !model.dir.empty()) { return {}; }
    return base::fail(base::ErrorCode::invalid_argument, flag + " must be MODEL or NAME=MODEL, got '" + text + "'");
}

}  // namespace

base::Result<std::vector<NamedModel>> read_models(const std::vector<std::string>& models, const std::string& flag,
                                                  const std::string& setting,
                                                  const std::map<std::string, std::string>& own_names) {
    const bool is_only_one = models.size() == 1;
    if (!is_only_one && !flag.empty()) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "--served-name is for one model; name several by --model NAME=MODEL");
    }
    std::vector<NamedModel> result;
    for (const std::string& text : models) {
        NamedModel model = split_name(text);
        const bool is_named = model.dir.size() != text.size();
        if (!is_named) {
            const std::string& own = own_name(model, own_names);
            model.name =
                is_only_one ? served_name(flag, setting, own) : served_name("", gateway::GatewayOptions{}.model, own);
        } else if (!flag.empty()) {
            model.name = flag;
        }
        if (auto checked = check_name(model, "--model", text); !checked) { return base::pass_on(checked); }
        result.push_back(std::move(model));
    }
    return result;
}

base::Result<std::vector<NamedModel>> read_encoders(const std::vector<std::string>& encoders,
                                                    const std::map<std::string, std::string>& own_names) {
    std::vector<NamedModel> result;
    for (const std::string& text : encoders) {
        NamedModel model = split_name(text);
        model.kind = gateway::ModelKind::vectors;
        if (model.dir.size() == text.size()) {
            model.name = served_name("", gateway::GatewayOptions{}.model, own_name(model, own_names));
        }
        if (auto checked = check_name(model, "--encoder", text); !checked) { return base::pass_on(checked); }
        result.push_back(std::move(model));
    }
    return result;
}

std::vector<std::string> names_of(const std::vector<NamedModel>& models) {
    std::vector<std::string> names;
    for (const NamedModel& model : models) {
        names.push_back(model.name);
    }
    return names;
}

std::string joined(const std::vector<std::string>& names) {
    std::string text;
    for (const std::string& name : names) {
        text += (text.empty() ? "" : ", ") + name;
    }
    return text;
}

text::TextProcessOptions read_text_config(base::Config& config) {
    text::TextProcessOptions options;
    const auto bytes = [&config](std::string_view key, std::size_t fallback) {
        return static_cast<std::size_t>(config.integer(key, static_cast<std::int64_t>(fallback), 1 << 24, 1LL << 40));
    };
    const auto milliseconds = [&config](std::string_view key, auto fallback) {
        const auto said = std::chrono::duration_cast<std::chrono::milliseconds>(fallback);
        return std::chrono::milliseconds(config.integer(key, said.count(), 10, 3'600'000));
    };
    options.load_memory_bytes = bytes("text.load_memory_bytes", options.load_memory_bytes);
    options.call_memory_bytes = bytes("text.call_memory_bytes", options.call_memory_bytes);
    options.load_cpu = milliseconds("text.load_cpu_ms", options.load_cpu);
    options.call_cpu = milliseconds("text.call_cpu_ms", options.call_cpu);
    options.grammar_cpu = milliseconds("text.grammar_cpu_ms", options.grammar_cpu);
    options.patience = milliseconds("text.patience_ms", options.patience);
    options.processes_max = static_cast<std::size_t>(
        config.integer("text.processes_max", static_cast<std::int64_t>(options.processes_max), 1, 1024));
    return options;
}

base::Result<std::vector<gateway::ServedModel>> load_text(const std::vector<NamedModel>& models,
                                                          const text::TextProcessOptions& options) {
    std::vector<gateway::ServedModel> result;
    for (const NamedModel& model : models) {
        auto process = text::TextProcess::start(options);  // the files are input, and so is what clients write
        if (!process) { return base::pass_on(process); }
        auto text = text::ModelText::load(model.dir, {.process = std::move(*process)});
        if (!text) { return base::pass_on(text); }
        for (const std::string& warning : text->warnings) {
            spdlog::warn("{}: {}", model.dir, warning);
        }
        if (!text->chat_template && model.kind == gateway::ModelKind::text) {
            spdlog::info("{}: {}: chats are refused", model.dir, text->chat_template_problem);
        }
        result.push_back(
            {.name = model.name, .text = gateway::make_text_port(std::move(*text)), .aliases = {}, .kind = model.kind});
    }
    return result;
}

}  // namespace cli
