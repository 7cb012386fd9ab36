#include "text/template_sources.h"

#include <utility>

namespace text {

void compile_templates(const TemplateSources& sources, const std::string& where, ModelText& model) {
    if (!sources.chat) {
        model.chat_template_problem = "the model has no chat template (looked for " + where + ")";
        return;
    }
    auto chat = ChatTemplate::compile(*sources.chat);
    if (!chat) {
        model.chat_template_problem = chat.error().message;
        return;
    }
    model.chat_template = std::move(*chat);
    if (!sources.tool) { return; }
    auto tool = ChatTemplate::compile(*sources.tool);
    if (tool) {
        model.tool_template = std::move(*tool);
    } else {
        model.chat_template_problem = tool.error().message;
    }
}

}  // namespace text
