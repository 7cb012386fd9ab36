#include "gateway/anthropic/messages_form.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <limits>
#include <utility>

#include "gateway/openai/translated_form.h"

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::size_t kNameBytesMax = 1024;
constexpr std::size_t kShownBytesMax = 50;  // of what a client sent, in messages

constexpr auto kNames = std::to_array<std::pair<std::string_view, std::string_view>>(
    {{"stop", "stop_sequences"},
     {"response_format.json_schema", "output_config.format"},
     {"response_format", "output_config.format"},
     {"json_schema.schema", "schema"},
     {"reasoning_effort", "output_config.effort"}});

constexpr auto kTextTypes = std::to_array<std::string_view>({"text"});

std::string shown(const std::string& text) {
    return "'" + text.substr(0, kShownBytesMax) + "'";
}

/// Not a problem of one field: what follows it would be taken for the whole conversation.
ApiError stores_no_threads() {
    ApiError error;
    error.message =
        "'thread' is not supported: this server stores no messages, send the whole conversation in 'messages'";
    error.param = "thread";
    error.code = std::string(kThreadsUnsupported);
    return error;
}

/// Writes one request as a body of /v1/chat/completions.
class MessagesReader {
public:
    explicit MessagesReader(const json::object& body) : body_(body), fields_(body) {}

    ApiResult<json::object> chat_body() {
        if (const json::value* thread = fields_.find("thread"); thread != nullptr && *thread != false) {
            return pass_on(stores_no_threads());
        }
        pass_fields(body_, chat_);
        chat_.erase("stop");
        if (const json::value* most = fields_.find("max_tokens")) {
            chat_["max_tokens"] = *most;
            if (whole_number(*most) == -1) { fields_.problem("max_tokens", "must not be negative"); }  // else: no limit
        }
        if (const json::array* stops = fields_.array("stop_sequences")) { chat_["stop"] = *stops; }
        if (const json::value* system = fields_.find("system")) {
            if (auto content = TextParts{kTextTypes}.read(fields_, "system", *system)) {
                say_first(std::move(*content));
            }
        }
        read_messages();
        read_tools();
        read_thinking();
        read_output();
        fields_.object("metadata");
        for (const char* name : {"mcp_servers", "container"}) {
            const json::value* value = fields_.find(name);
            if (value != nullptr && !(value->is_array() && value->get_array().empty())) {
                fields_.problem(name, "is not supported: this server runs no tools of its own");
            }
        }
        if (fields_.error()) { return pass_on(*fields_.error()); }
        chat_["messages"] = std::move(messages_);
        return std::move(chat_);
    }

private:
    void read_messages() {
        const json::array* list = fields_.array("messages");
        if (list == nullptr || list->empty()) {
            return fields_.problem("messages", "must be a list of at least one message");
        }
        for (std::size_t index = 0; index < list->size() && !fields_.error(); ++index) {
            read_message("messages[" + std::to_string(index) + "]", (*list)[index], index + 1 == list->size());
        }
        const auto is_said = [](const json::value& one) { return one.get_object().at("role") != "system"; };
        if (!fields_.error() && std::none_of(messages_.begin(), messages_.end(), is_said)) {
            fields_.problem("messages", "must hold a message of the user; what the system says goes into 'system'");
        }
    }

    /// As the beginning of what the system says, or its continuation.
    void say_first(json::value content) {
        if (messages_.empty() || messages_.front().get_object().at("role") != "system") {
            messages_.insert(messages_.begin(), json::object{{"role", "system"}, {"content", std::move(content)}});
            return;
        }
        const auto as_parts = [](json::value& said) -> json::array& {
            if (!said.is_array()) { said = json::array{json::object{{"type", "text"}, {"text", said}}}; }
            return said.get_array();
        };
        json::array& parts = as_parts(messages_.front().get_object().at("content"));
        for (json::value& part : as_parts(content)) {
            parts.push_back(std::move(part));
        }
    }

    /// Clients tell in such messages what holds for the whole conversation, behind its first one: that models follow at
    /// the beginning only. What comes later stays where it is, so that what was said before it keeps its place.
    void read_system(const std::string& at, const json::value& given) {
        auto content = TextParts{kTextTypes}.read(fields_, at, given);
        if (!content) { return; }
        if (!is_answered_) { return say_first(std::move(*content)); }
        messages_.push_back(json::object{{"role", "system"}, {"content", std::move(*content)}});
    }

    void read_message(const std::string& at, const json::value& value, bool is_last) {
        const json::object* message = value.if_object();
        if (message == nullptr) { return fields_.problem(at, "must be an object"); }
        Fields inside(*message, at + ".");
        const auto role = inside.string("role", kNameBytesMax);
        const json::value* content = inside.find("content");
        if (!role || (*role != "user" && *role != "assistant" && *role != "system")) {
            inside.problem("role", "must be user, assistant or system");
        } else if (content == nullptr || (!content->is_string() && !content->is_array())) {
            inside.problem("content", "must be a string or a list of blocks");
        } else if (*role == "user") {
            read_user(at + ".content", *content);
        } else if (*role == "system") {
            read_system(at + ".content", *content);
        } else {
            is_answered_ = true;
            read_assistant(at + ".content", *content, is_last);
        }
        if (inside.error()) { fields_.pass_on(*inside.error()); }
    }

    /// The type of a block; empty where it has none, which is then told.
    std::string type_of(const std::string& at, const json::value& block) {
        const json::object* object = block.if_object();
        const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
        if (type == nullptr || !type->is_string() || type->get_string().empty()) {
            fields_.problem(at, "must be an object with a 'type'");
            return {};
        }
        return {type->get_string().data(), type->get_string().size()};
    }

    void refuse_block(const std::string& at, const std::string& type, std::string_view taken) {
        fields_.problem(at, "has the type " + shown(type) + ": this model takes text only (blocks of the types " +
                                std::string(taken) + ")");
    }

    /// Results of tools are messages of their own; texts around them stay where they are.
    void read_user(const std::string& at, const json::value& content) {
        if (content.is_string()) {
            messages_.push_back(json::object{{"role", "user"}, {"content", content}});
            return;
        }
        json::array texts;
        const auto flush = [&](bool is_end) {
            if (texts.empty() && !(is_end && content.get_array().empty())) { return; }
            auto text = TextParts{kTextTypes}.read(fields_, at, std::exchange(texts, {}));
            if (text) { messages_.push_back(json::object{{"role", "user"}, {"content", std::move(*text)}}); }
        };
        for (std::size_t index = 0; index < content.get_array().size(); ++index) {
            const json::value& block = content.get_array()[index];
            const std::string here = at + "[" + std::to_string(index) + "]";
            const std::string type = type_of(here, block);
            if (type.empty()) { return; }
            if (type == "text") {
                if (!has_text(here, block.get_object(), "text")) { return; }
                texts.push_back(block);
            } else if (type == "tool_result") {
                flush(false);
                read_result(here, block.get_object());
            } else {
                return refuse_block(here, type, "text and tool_result");
            }
            if (fields_.error()) { return; }
        }
        flush(true);
    }

    bool has_text(const std::string& at, const json::object& block, const char* name) {
        const json::value* text = block.if_contains(name);
        if (text != nullptr && text->is_string()) { return true; }
        fields_.problem(at, "needs a '" + std::string(name) + "' that is a string");
        return false;
    }

    void read_result(const std::string& at, const json::object& block) {
        Fields inside(block, at + ".");
        const auto id = inside.string("tool_use_id", kNameBytesMax);
        if (!id) { inside.problem("tool_use_id", "is missing"); }
        inside.boolean("is_error");
        if (inside.error()) { return fields_.pass_on(*inside.error()); }
        const json::value* given = inside.find("content");
        const json::value nothing = json::string();
        auto content = TextParts{kTextTypes}.read(fields_, at + ".content", given == nullptr ? nothing : *given);
        if (!content) { return; }
        messages_.push_back(json::object{{"role", "tool"}, {"tool_call_id", *id}, {"content", std::move(*content)}});
    }

    void read_assistant(const std::string& at, const json::value& content, bool is_last) {
        json::object message{{"role", "assistant"}, {"content", ""}};
        json::array texts;
        json::array calls;
        std::string reasoning;
        if (content.is_string()) {
            message["content"] = content;
        } else {
            for (std::size_t index = 0; index < content.get_array().size(); ++index) {
                const json::value& block = content.get_array()[index];
                const std::string here = at + "[" + std::to_string(index) + "]";
                const std::string type = type_of(here, block);
                if (type.empty()) { return; }
                const json::object& object = block.get_object();
                if (type == "text") {
                    if (!has_text(here, object, "text")) { return; }
                    texts.push_back(block);
                } else if (type == "thinking") {
                    if (!has_text(here, object, "thinking")) { return; }
                    const json::string& text = object.at("thinking").get_string();
                    reasoning.append(text.data(), text.size());
                } else if (type == "tool_use") {
                    auto call = call_of(here, object);
                    if (!call) { return; }
                    calls.push_back(std::move(*call));
                } else if (type != "redacted_thinking") {  // which nobody here can read
                    return refuse_block(here, type, "text, thinking and tool_use");
                }
            }
            if (auto text = TextParts{kTextTypes}.read(fields_, at, std::move(texts))) { message["content"] = *text; }
        }
        const json::value& written = message["content"];
        const bool has_text = !written.is_string() || !written.get_string().empty();
        if (!reasoning.empty()) { message["reasoning_content"] = reasoning; }
        if (is_last && calls.empty() && has_text) { chat_["continue_final_message"] = true; }
        if (!calls.empty()) { message["tool_calls"] = std::move(calls); }
        messages_.push_back(std::move(message));
    }

    std::optional<json::value> call_of(const std::string& at, const json::object& block) {
        Fields inside(block, at + ".");
        const auto id = inside.string("id", kNameBytesMax);
        const auto name = inside.string("name", kNameBytesMax);
        const json::object* input = inside.object("input");
        if (!id) { inside.problem("id", "is missing"); }
        if (!name) { inside.problem("name", "is missing"); }
        if (input == nullptr) { inside.problem("input", "is missing"); }
        if (inside.error()) {
            fields_.pass_on(*inside.error());
            return std::nullopt;
        }
        return json::object{
            {"id", *id}, {"type", "function"}, {"function", json::object{{"name", *name}, {"arguments", *input}}}};
    }

    void read_tools() {
        const json::array* tools = fields_.array("tools");
        json::array list;
        for (std::size_t index = 0; tools != nullptr && index < tools->size(); ++index) {
            const std::string at = "tools[" + std::to_string(index) + "]";
            const json::object* tool = (*tools)[index].if_object();
            if (tool == nullptr) { return fields_.problem(at, "must be an object"); }
            Fields inside(*tool, at + ".");
            if (const auto type = inside.string("type", kNameBytesMax); type && *type != "custom") {
                return fields_.problem(at, "has the type " + shown(*type) +
                                               ": this server runs no tools of its own, give tools with a name and "
                                               "an 'input_schema'");
            }
            json::object function;
            for (const auto& [theirs, ours] : {std::pair("name", "name"),
                                               {"description", "description"},
                                               {"input_schema", "parameters"},
                                               {"strict", "strict"}}) {
                if (const json::value* one = inside.find(theirs)) { function[ours] = *one; }
            }
            if (function.if_contains("name") == nullptr) { inside.problem("name", "is missing"); }
            if (inside.object("input_schema") == nullptr) { inside.problem("input_schema", "must be a JSON schema"); }
            if (inside.error()) { return fields_.pass_on(*inside.error()); }
            list.push_back(json::object{{"type", "function"}, {"function", std::move(function)}});
        }
        if (!list.empty()) { chat_["tools"] = std::move(list); }
        const json::object* choice = fields_.object("tool_choice");
        if (choice == nullptr) { return; }
        Fields inside(*choice, "tool_choice.");
        const auto type = inside.string("type", kNameBytesMax);
        const auto name = inside.string("name", kNameBytesMax);
        if (inside.boolean("disable_parallel_tool_use").value_or(false)) { chat_["parallel_tool_calls"] = false; }
        if (type && (*type == "auto" || *type == "none")) {
            chat_["tool_choice"] = *type;
        } else if (type && *type == "any") {
            chat_["tool_choice"] = "required";
        } else if (type && *type == "tool" && name) {
            chat_["tool_choice"] = json::object{{"type", "function"}, {"function", json::object{{"name", *name}}}};
        } else {
            inside.problem("type", "must be auto, any, none, or tool with a 'name'");
        }
        if (inside.error()) { fields_.pass_on(*inside.error()); }
    }

    /// Templates of models that may think or not know this name.
    void read_thinking() {
        const json::object* thinking = fields_.object("thinking");
        if (thinking == nullptr) { return; }
        Fields inside(*thinking, "thinking.");
        const auto type = inside.string("type", kNameBytesMax);
        if (!type || (*type != "enabled" && *type != "disabled" && *type != "adaptive")) {
            inside.problem("type", "must be enabled, disabled or adaptive");
        }
        const auto budget = inside.integer("budget_tokens", 0, std::int64_t{1} << 40);
        if (inside.error()) { return fields_.pass_on(*inside.error()); }
        if (budget && *type == "enabled") {
            chat_["thinking_token_budget"] = std::min<std::int64_t>(*budget, std::numeric_limits<std::int32_t>::max());
        }
        json::object arguments;
        if (const json::object* given = fields_.object("chat_template_kwargs")) { arguments = *given; }
        if (arguments.if_contains("enable_thinking") == nullptr) { arguments["enable_thinking"] = *type != "disabled"; }
        chat_["chat_template_kwargs"] = std::move(arguments);
    }

    void read_output() {
        const json::object* output = fields_.object("output_config");
        if (output == nullptr) { return; }
        Fields inside(*output, "output_config.");
        if (const auto effort = inside.string("effort", 32)) { chat_["reasoning_effort"] = *effort; }
        if (const json::object* format = inside.object("format")) {
            const json::value* type = format->if_contains("type");
            const json::value* schema = format->if_contains("schema");
            if (type == nullptr || *type != "json_schema" || schema == nullptr) {
                inside.problem("format", "must have the type json_schema and a 'schema'");
            } else {
                chat_["response_format"] =
                    json::object{{"type", "json_schema"}, {"json_schema", json::object{{"schema", *schema}}}};
            }
        }
        if (inside.error()) { fields_.pass_on(*inside.error()); }
    }

    const json::object& body_;
    Fields fields_;
    json::object chat_;
    json::array messages_;
    bool is_answered_ = false;  // a message of the assistant was read
};

}  // namespace

ApiResult<RequestForm> read_messages_form(const json::object& body, const FormLimits& limits, const Models& models) {
    const auto chat = MessagesReader(body).chat_body();
    if (!chat) { return pass_on(chat.error()); }
    auto form = read_form(Endpoint::messages, *chat, limits, models);
    if (!form) { return pass_on(in_names_of(form.error(), kNames)); }
    if (form->grammar_field == "response_format") { form->grammar_field = "output_config.format"; }
    return form;
}

}  // namespace gateway
