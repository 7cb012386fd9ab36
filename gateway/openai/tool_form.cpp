#include "gateway/openai/tool_form.h"

#include <algorithm>
#include <boost/json.hpp>
#include <optional>
#include <string_view>
#include <utility>

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::size_t kToolsMax = 128;  // OpenAI's

std::string_view view_of(const json::string& text) {
    return {text.data(), text.size()};
}

const json::value* member(const json::value& value, std::string_view name) {
    const json::object* object = value.if_object();
    return object == nullptr ? nullptr : object->if_contains(json::string_view(name.data(), name.size()));
}

/// OpenAI's rule: letters, digits, "_", "-", and here also "." and ":", as servers of tools use them.
bool is_tool_name(std::string_view name) {
    return !name.empty() && name.size() <= 128 && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
               std::string_view("_-.:").find(c) != std::string_view::npos;
    });
}

/// Empty: it is no tool that is known.
std::optional<ToolsForm::Tool> tool_of(const json::value& value) {
    const json::value* type = member(value, "type");
    const json::value* function = member(value, "function");
    if (type == nullptr || !type->is_string() || type->get_string() != "function" || function == nullptr) {
        return std::nullopt;
    }
    const json::value* name = member(*function, "name");
    if (name == nullptr || !name->is_string() || name->get_string().empty()) { return std::nullopt; }
    ToolsForm::Tool tool;
    tool.name = view_of(name->get_string());
    const json::value* parameters = member(*function, "parameters");
    if (parameters != nullptr && parameters->is_object()) { tool.parameters = json::serialize(*parameters); }
    const json::value* strict = member(*function, "strict");
    tool.strict = strict != nullptr && strict->is_bool() && strict->get_bool();
    return tool;
}

/// The name that a choice of one tool gives: {"type":"function","function":{"name":..}}, or {"name":..} of the older
/// form.
std::optional<std::string> named_of(const json::value& choice) {
    const json::value* function = member(choice, "function");
    const json::value* name = function != nullptr ? member(*function, "name") : member(choice, "name");
    if (name == nullptr || !name->is_string()) { return std::nullopt; }
    return std::string(view_of(name->get_string()));
}

bool has_tool(const ToolsForm& tools, std::string_view name) {
    return std::any_of(tools.tools.begin(), tools.tools.end(),
                       [name](const ToolsForm::Tool& tool) { return tool.name == name; });
}

/// A choice among some of the tools: {"mode": "auto" or "required", "tools": [..]}. The model is shown all of them, so
/// that its prompt stays the same, and can call these.
void read_allowed(Fields& fields, const std::string& field, const json::value& allowed, ToolsForm& tools) {
    const json::value* mode = member(allowed, "mode");
    const json::value* list = member(allowed, "tools");
    const bool is_required = mode != nullptr && *mode == "required";
    if ((!is_required && (mode == nullptr || *mode != "auto")) || list == nullptr || !list->is_array() ||
        list->get_array().empty()) {
        return fields.problem(field, "of the type allowed_tools needs a 'mode' (auto or required) and 'tools'");
    }
    if (list->get_array().size() > kToolsMax) {
        return fields.problem(field, "may allow at most " + std::to_string(kToolsMax) + " tools");
    }
    std::vector<std::string> allowed_names;
    for (const json::value& one : list->get_array()) {
        auto name = named_of(one);
        if (!name || !has_tool(tools, *name)) {
            return fields.problem(field, "allows a tool that the request does not have");
        }
        allowed_names.push_back(std::move(*name));
    }
    std::erase_if(tools.tools, [&](const ToolsForm::Tool& tool) {
        return std::find(allowed_names.begin(), allowed_names.end(), tool.name) == allowed_names.end();
    });
    tools.choice = is_required ? ToolsForm::Choice::required : ToolsForm::Choice::automatic;
}

void read_choice(Fields& fields, const std::string& field, ToolsForm& tools) {
    const json::value* choice = fields.find(field);
    if (choice == nullptr || (choice->is_string() && choice->get_string().empty())) {
        tools.choice = tools.tools.empty() ? ToolsForm::Choice::none : ToolsForm::Choice::automatic;
        return;
    }
    if (choice->is_string()) {
        const std::string_view word = view_of(choice->get_string());
        if (word == "none") {
            tools.choice = ToolsForm::Choice::none;
        } else if (word == "auto") {
            tools.choice = tools.tools.empty() ? ToolsForm::Choice::none : ToolsForm::Choice::automatic;
        } else if ((word == "required" || word == "any") && field == "tool_choice") {
            tools.choice = ToolsForm::Choice::required;
        } else {
            fields.problem(field, "must be \"none\", \"auto\", \"required\" or name a function");
        }
    } else if (const json::value* allowed = member(*choice, "allowed_tools"); allowed != nullptr) {
        read_allowed(fields, field, *allowed, tools);
    } else if (const auto name = named_of(*choice)) {
        tools.choice = ToolsForm::Choice::named;
        tools.named = *name;
        if (!has_tool(tools, *name)) {
            fields.problem(field, "names the function '" + *name + "', which the request does not have");
        }
    } else {
        fields.problem(field, "must be \"none\", \"auto\", \"required\" or name a function");
    }
    if (tools.choice == ToolsForm::Choice::required && tools.tools.empty()) {
        fields.problem(field, "needs 'tools' to choose from");
    }
}

}  // namespace

void read_tools(Fields& fields, RequestForm& form, json::object& context) {
    json::array list;
    std::string field = "tools";
    if (const json::array* given = fields.array("tools")) { list = *given; }
    if (const json::array* functions = fields.array("functions"); functions != nullptr && list.empty()) {
        field = "functions";
        for (const json::value& function : *functions) {
            list.push_back(json::object{{"type", "function"}, {"function", function}});
        }
    }
    ToolsForm tools;
    if (list.size() > kToolsMax) {
        return fields.problem(field, "may hold at most " + std::to_string(kToolsMax) + " tools");
    }
    for (const json::value& one : list) {
        auto tool = tool_of(one);
        if (!tool) {
            return fields.problem(field,
                                  "must hold functions with a name; other tools are not supported by this server");
        }
        if (!is_tool_name(tool->name)) {
            return fields.problem(field, "holds a name that is not 1 to 128 letters, digits, '_', '-', '.' and ':'");
        }
        tools.tools.push_back(std::move(*tool));
    }
    const bool is_older = field == "functions" || fields.find("tool_choice") == nullptr;
    read_choice(fields, is_older ? "function_call" : "tool_choice", tools);
    tools.parallel = fields.boolean("parallel_tool_calls").value_or(true) && field == "tools";
    tools.is_older_form = field == "functions";
    if (!list.empty()) {
        form.needs_tools = tools.choice != ToolsForm::Choice::none;
        form.tools_field = std::move(field);
        context["tools"] = std::move(list);
    }
    const bool is_forced = tools.choice == ToolsForm::Choice::required || tools.choice == ToolsForm::Choice::named;
    if (is_forced && form.grammar != nullptr && !form.grammar_is_answers) {
        fields.problem(form.grammar_field, "and a call that is required exclude each other");
    }
    if (is_forced && form.new_tokens_min > 0) {
        fields.problem("min_tokens", "and a call that is required exclude each other");
    }
    form.tools = std::move(tools);
}

}  // namespace gateway
