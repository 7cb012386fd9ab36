#include "text/template_sources.h"

#include <string_view>
#include <utility>

namespace text {
namespace {

/// Tokens that are not marked as special but that the templates print as marks ("<think>", "<|User|>").
void find_control_texts(const TemplateSources& sources, ModelText& model) {
    const std::string printed = sources.chat.value_or("") + "\n" + sources.tool.value_or("");
    const auto size = static_cast<base::TokenId>(model.tokenizer->vocabulary_size());
    for (base::TokenId token = 0; token < size; ++token) {
        const std::string_view text = model.tokenizer->token_bytes(token);
        const bool is_mark = text.size() > 2 && ((text.front() == '<' && text.back() == '>') ||
                                                 (text.front() == '[' && text.back() == ']'));
        if (is_mark && !model.tokenizer->is_special(token) && printed.find(text) != std::string::npos) {
            model.control_texts.emplace_back(text);
        }
    }
}

/// What people who chat with the model will stumble over.
void warn(const ContentForm& content, const std::string& name, ModelText& model) {
    if (!content.problem.empty()) { model.warnings.push_back(content.problem + ": chats are refused"); }
    std::string roles;
    for (const std::string& role : content.silent_roles) {
        roles += (roles.empty() ? "" : ", ") + role;
    }
    if (!roles.empty()) {
        model.warnings.push_back(name + " does not print messages of these roles: " + roles +
                                 "; chats with such are refused");
    }
    if (content.drops_earlier_users) {
        model.warnings.push_back(name + " prints the last message of a user only; longer chats are refused");
    }
}

}  // namespace

void compile_templates(const TemplateSources& sources, const std::string& where, ModelText& model) {
    if (!sources.chat) {
        model.chat_template_problem = "the model has no chat template (looked for " + where + ")";
        return;
    }
    find_control_texts(sources, model);
    auto chat = ChatTemplate::compile(*sources.chat, {}, model.tokenizer->process());
    if (!chat) {
        model.chat_template_problem = sources.chat_from + ": " + chat.error().message;
        return;
    }
    model.chat_template = std::move(*chat);
    model.chat_content = find_content_form(*model.chat_template, model.template_variables, false);
    warn(model.chat_content, "the chat template", model);
    if (!sources.tool) { return; }
    auto tool = ChatTemplate::compile(*sources.tool, {}, model.tokenizer->process());
    if (!tool) {
        model.chat_template_problem = sources.tool_from + ": " + tool.error().message;
        return;
    }
    model.tool_template = std::move(*tool);
    model.tool_content = find_content_form(*model.tool_template, model.template_variables, true);
    warn(model.tool_content, "the chat template for tools", model);
}

}  // namespace text
