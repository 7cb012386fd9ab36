#include "gateway/openai/chat_form.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::array<std::string_view, 6> kRoles = {"system", "developer", "user", "assistant", "tool", "function"};
/// What a template gets from us: a client must not put its own in its place.
constexpr std::array<std::string_view, 9> kReservedNames = {"messages",
                                                            "tools",
                                                            "documents",
                                                            "add_generation_prompt",
                                                            "bos_token",
                                                            "eos_token",
                                                            "continue_final_message",
                                                            "tokenize",
                                                            "chat_template"};

std::string text_of(const json::string& text) {
    return {text.data(), text.size()};
}

/// The text of a message's content. Parts are joined by line feeds, as other servers do for templates that take text.
std::optional<std::string> content_text(Fields& fields, const std::string& at, const json::value& content) {
    if (content.is_string()) { return text_of(content.get_string()); }
    if (!content.is_array()) {
        fields.problem(at, "must be a string or a list of parts");
        return std::nullopt;
    }
    std::string text;
    bool is_first = true;
    for (const json::value& part : content.get_array()) {
        const json::object* object = part.if_object();
        const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
        if (part.is_string()) {
            text += (is_first ? "" : "\n") + text_of(part.get_string());
        } else if (type == nullptr || !type->is_string()) {
            fields.problem(at, "has a part without a 'type'");
            return std::nullopt;
        } else if (type->get_string() == "text" || type->get_string() == "input_text" ||
                   type->get_string() == "refusal") {
            const json::value* value = object->if_contains(type->get_string() == "refusal" ? "refusal" : "text");
            if (value == nullptr || !value->is_string()) {
                fields.problem(at, "has a text part without 'text'");
                return std::nullopt;
            }
            text += (is_first ? "" : "\n") + text_of(value->get_string());
        } else {
            fields.problem(at, "has a part of type '" + text_of(type->get_string()).substr(0, 50) +
                                   "': this model takes text only");
            return std::nullopt;
        }
        is_first = false;
    }
    return text;
}

/// Templates want the arguments of earlier calls as an object; clients send them as text.
void unpack_arguments(json::object& message) {
    json::value* calls = message.if_contains("tool_calls");
    if (calls == nullptr || !calls->is_array()) { return; }
    for (json::value& call : calls->get_array()) {
        json::object* object = call.if_object();
        json::value* function = object == nullptr ? nullptr : object->if_contains("function");
        if (function == nullptr || !function->is_object()) { continue; }
        json::value* arguments = function->get_object().if_contains("arguments");
        if (arguments == nullptr || !arguments->is_string()) { continue; }
        boost::system::error_code error;
        json::parse_options options;
        options.max_depth = 64;
        json::value parsed = json::parse(std::string_view(arguments->get_string()), error, {}, options);
        if (!error && parsed.is_object()) { *arguments = std::move(parsed); }
    }
}

bool read_message(Fields& fields, std::size_t index, json::value& value, RequestForm& form) {
    const std::string at = "messages[" + std::to_string(index) + "]";
    json::object* message = value.if_object();
    if (message == nullptr) {
        fields.problem(at, "must be an object");
        return false;
    }
    json::value* role = message->if_contains("role");
    if (role == nullptr || !role->is_string() ||
        std::find(kRoles.begin(), kRoles.end(), std::string_view(role->get_string())) == kRoles.end()) {
        fields.problem(at + ".role", "must be one of system, developer, user, assistant, tool, function");
        return false;
    }
    if (role->get_string() == "developer") { *role = "system"; }
    const bool is_assistant = role->get_string() == "assistant";
    json::value* content = message->if_contains("content");
    if (content == nullptr || content->is_null()) {
        if (!is_assistant) {
            fields.problem(at + ".content", "is missing");
            return false;
        }
        (*message)["content"] = "";
    } else {
        auto text = content_text(fields, at + ".content", *content);
        if (!text) { return false; }
        *content = *text;
        // What the model said before may hold its own markers (reasoning); what others wrote is text and nothing else.
        if (!is_assistant) { form.user_texts.push_back(std::move(*text)); }
    }
    if (json::value* reasoning = message->if_contains("reasoning");
        reasoning != nullptr && message->if_contains("reasoning_content") == nullptr) {
        (*message)["reasoning_content"] = *reasoning;
    }
    // Absent and null are the same to clients, but not to templates that ask whether a name is defined.
    for (const char* name :
         {"tool_calls", "function_call", "reasoning_content", "reasoning", "name", "refusal", "audio"}) {
        if (const json::value* one = message->if_contains(name); one != nullptr && one->is_null()) {
            message->erase(name);
        }
    }
    unpack_arguments(*message);
    return true;
}

}  // namespace

void read_chat(Fields& fields, RequestForm& form) {
    const json::array* messages = fields.array("messages");
    if (messages == nullptr || messages->empty()) {
        fields.problem("messages", "must be a list of at least one message");
        return;
    }
    json::array list = *messages;
    for (std::size_t index = 0; index < list.size(); ++index) {
        if (!read_message(fields, index, list[index], form)) { return; }
    }
    bool add_generation_prompt = fields.boolean("add_generation_prompt").value_or(true);
    if (fields.boolean("continue_final_message").value_or(false)) {
        if (fields.find("add_generation_prompt") != nullptr && add_generation_prompt) {
            fields.problem("continue_final_message", "and 'add_generation_prompt' exclude each other");
        }
        add_generation_prompt = false;
        form.continued_text = text_of(list.back().get_object()["content"].get_string());
    }

    json::object context;
    if (const json::object* extra = fields.object("chat_template_kwargs")) {
        for (const auto& [name, value] : *extra) {
            const std::string_view key(name.data(), name.size());
            if (std::find(kReservedNames.begin(), kReservedNames.end(), key) != kReservedNames.end()) {
                fields.problem("chat_template_kwargs", "must not set '" + std::string(key) + "'");
                return;
            }
            context[key] = value;
        }
    }
    if (const json::array* documents = fields.array("documents")) { context["documents"] = *documents; }
    auto effort = fields.string("reasoning_effort", 32);
    if (const json::object* reasoning = fields.find("reasoning") != nullptr ? fields.object("reasoning") : nullptr) {
        Fields inside(*reasoning, "reasoning.");
        if (!effort) { effort = inside.string("effort", 32); }
        if (inside.error()) { fields.problem("reasoning", "holds a value of a wrong type"); }
    }
    if (effort) { context["reasoning_effort"] = *effort; }
    context["messages"] = std::move(list);
    context["add_generation_prompt"] = add_generation_prompt;
    form.template_context = json::serialize(context);
}

}  // namespace gateway
