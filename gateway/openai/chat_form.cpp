#include "gateway/openai/chat_form.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <limits>

#include "gateway/openai/tool_form.h"

namespace gateway {
namespace {

namespace json = boost::json;

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

/// A budget for reasoning as Alibaba, llama.cpp and vLLM call it; -1: none, also where the server has one by default.
constexpr std::array<const char*, 3> kBudgetNames = {"thinking_budget", "thinking_budget_tokens",
                                                     "thinking_token_budget"};
constexpr std::int64_t kTokensMax = std::numeric_limits<std::int32_t>::max();

std::string text_of(const json::string& text) {
    return {text.data(), text.size()};
}

/// Whether the template knows it is asked when it is rendered.
bool is_role(std::string_view name) {
    constexpr std::size_t kBytesMax = 64;
    return !name.empty() && name.size() <= kBytesMax && std::all_of(name.begin(), name.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '-';
    });
}

/// Checks a message's content and puts its parts, if it has any, into the one form that templates know, {"type":
/// "text", "text": ..} with whatever else a part has. Returns the bytes of text.
std::optional<std::size_t> read_content(Fields& fields, const std::string& at, json::value& content) {
    if (content.is_string()) { return content.get_string().size(); }
    if (!content.is_array()) {
        fields.problem(at, "must be a string or a list of parts");
        return std::nullopt;
    }
    std::size_t bytes = 0;
    for (json::value& part : content.get_array()) {
        if (part.is_string()) {
            const json::string text = part.get_string();
            part = json::object{{"type", "text"}, {"text", text}};
        }
        json::object* object = part.if_object();
        const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
        if (type == nullptr || !type->is_string()) {
            fields.problem(at, "has a part without a 'type'");
            return std::nullopt;
        }
        const std::string kind = text_of(type->get_string());
        if (kind != "text" && kind != "input_text" && kind != "output_text" && kind != "refusal") {
            fields.problem(at, "has a part of type '" + kind.substr(0, 50) + "': this model takes text only");
            return std::nullopt;
        }
        const json::value* text = object->if_contains(kind == "refusal" ? "refusal" : "text");
        if (text == nullptr || !text->is_string()) {
            fields.problem(at, "has a text part without 'text'");
            return std::nullopt;
        }
        const json::string words = text->get_string();
        bytes += words.size();
        (*object)["text"] = words;
        (*object)["type"] = "text";
    }
    return bytes;
}

/// The text of a content, or of its last part.
std::string last_text(const json::value& content) {
    if (content.is_string()) { return text_of(content.get_string()); }
    if (!content.is_array() || content.get_array().empty()) { return {}; }
    return text_of(content.get_array().back().get_object().at("text").get_string());
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
    if (role == nullptr || !role->is_string() || !is_role(std::string_view(role->get_string()))) {
        fields.problem(at + ".role",
                       "must be system, developer, user, assistant, tool, function, or a role of the model's own "
                       "(letters, digits, '_' and '-')");
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
        const auto bytes = read_content(fields, at + ".content", *content);
        if (!bytes) { return false; }
        if (!is_assistant) { form.user_text_bytes += *bytes; }
    }
    if (json::value* reasoning = message->if_contains("reasoning");
        reasoning != nullptr && message->if_contains("reasoning_content") == nullptr) {
        json::value copy = *reasoning;  // a new key moves the others
        message->emplace("reasoning_content", std::move(copy));
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
        form.continued_text = last_text(list.back().get_object()["content"]);
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
    read_tools(fields, form, context);
    auto effort = fields.string("reasoning_effort", 32);
    std::optional<std::int64_t> budget;
    for (const char* name : kBudgetNames) {
        if (const auto most = fields.integer(name, -1, kTokensMax)) { budget = *most; }
    }
    if (const json::object* reasoning = fields.find("reasoning") != nullptr ? fields.object("reasoning") : nullptr) {
        Fields inside(*reasoning, "reasoning.");
        if (!effort) { effort = inside.string("effort", 32); }
        if (const auto most = inside.integer("max_tokens", -1, kTokensMax)) { budget = *most; }
        if (inside.error()) { fields.problem("reasoning", "holds a value of a wrong type"); }
    }
    if (budget && *budget >= 0) { form.reasoning_tokens_max = static_cast<std::uint32_t>(*budget); }
    form.reasoning_unbounded = budget && *budget < 0;
    if (effort) { context["reasoning_effort"] = *effort; }
    context["messages"] = std::move(list);
    context["add_generation_prompt"] = add_generation_prompt;
    form.template_context = json::serialize(context);
}

}  // namespace gateway
