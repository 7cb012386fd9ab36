#pragma once

#include <optional>
#include <string>

#include "text/model_text.h"

namespace text {

/// The texts of a model's chat templates, wherever they stood.
struct TemplateSources {
    std::optional<std::string> chat;
    std::optional<std::string> tool;  // for requests with tools, where the model has another one for these
    std::string chat_from;            // file, and field where there is one
    std::string tool_from;
};

/// Sets the templates of `model` and what they take, or says in chat_template_problem why there is none; `where` they
/// were looked for. The tokenizer and the template variables of `model` must be there.
void compile_templates(const TemplateSources& sources, const std::string& where, ModelText& model);

}  // namespace text
