#include "cli/render.h"

#include <CLI/CLI.hpp>
#include <iostream>
#include <optional>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/gguf_model.h"
#include "cli/json_lines.h"
#include "text/chat_template.h"
#include "text/file_bytes.h"
#include "text/model_text.h"

namespace cli {
namespace {

namespace json = boost::json;

/// A template, with the model's own variables when it came from a model's folder or GGUF file.
struct Source {
    std::optional<text::ModelText> model;
    std::shared_ptr<const text::ChatTemplate> chat_template;
};

base::Result<Source> load(const std::filesystem::path& path) {
    Source source;
    std::error_code error;
    if (std::filesystem::is_directory(path, error) || base::is_gguf(path)) {
        auto model = text::ModelText::load(path);
        if (!model) { return base::pass_on(model); }
        if (!model->chat_template) { return base::fail(base::ErrorCode::not_found, model->chat_template_problem); }
        source.chat_template = model->chat_template;
        source.model = std::move(*model);
        return source;
    }
    const auto bytes = text::read_file(path, text::ChatTemplateLimits().source_bytes_max);
    if (!bytes) { return base::pass_on(bytes); }
    auto compiled = text::ChatTemplate::compile(*bytes);
    if (!compiled) { return base::pass_on(compiled, path.string()); }
    source.chat_template = std::move(*compiled);
    return source;
}

base::Result<json::object> render(const Source& source, const json::object& row, const text::CivilTime& now) {
    const json::value* nested = row.if_contains("context");
    const bool is_nested = nested != nullptr && nested->is_object() && !row.contains("messages");
    std::string context = is_nested ? json::serialize(*nested) : json::serialize(row);
    const text::ChatTemplate* chat_template = source.chat_template.get();
    if (source.model) {
        auto completed = source.model->with_variables(context);
        if (!completed) { return base::pass_on(completed); }
        context = std::move(*completed);
        const json::value* tools = (is_nested ? nested->get_object() : row).if_contains("tools");
        if (source.model->tool_template && tools != nullptr && !tools->is_null()) {
            chat_template = source.model->tool_template.get();
        }
    }
    auto rendered = chat_template->render(context, now);
    if (rendered) { return json::object{{"rendered", std::move(*rendered)}}; }
    const bool is_raised = rendered.error().message.find(text::ChatTemplate::kTemplateFailed) != 0;
    return base::pass_on(rendered, is_raised ? "TemplateError" : "");
}

}  // namespace

CLI::App* add_render_command(CLI::App& root, RenderOptions& options) {
    CLI::App* command = root.add_subcommand(
        "render", "JSON lines on stdin: a chat template's variables give {\"rendered\": ..} or {\"error\": ..}");
    command->add_option("path", options.path, "a model's folder, a GGUF file, or one .jinja file")->required();
    command->add_option("--now", options.now,
                        "the time that strftime_now sees: 2024-07-26T13:05:09, or seconds since the Unix epoch");
    return command;
}

int render_lines(const RenderOptions& options, std::istream& in, std::ostream& out) {
    const auto source = load(options.path);
    if (!source) {
        std::cerr << "sluice render: " << source.error().message << '\n';
        return 1;
    }
    std::optional<text::CivilTime> fixed;
    if (!options.now.empty()) {
        const auto parsed = text::parse_civil_time(options.now);
        if (!parsed) {
            std::cerr << "sluice render: --now: " << parsed.error().message << '\n';
            return 1;
        }
        fixed = *parsed;
    }
    answer_json_lines(in, out, [&](const json::object& row) {
        return render(*source, row, fixed ? *fixed : text::local_time(base::SystemClock().unix_us()));
    });
    return 0;
}

int render_main(const RenderOptions& options) {
    return render_lines(options, std::cin, std::cout);
}

}  // namespace cli
