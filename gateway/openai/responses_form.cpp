#include "gateway/openai/responses_form.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>
#include <limits>
#include <span>
#include <utility>

#include "gateway/openai/translated_form.h"
#include "gateway/request/text_stream.h"

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::size_t kMetadataMax = 16;  // these three: OpenAI's
constexpr std::size_t kMetadataKeyBytesMax = 64;
constexpr std::size_t kMetadataValueBytesMax = 512;
constexpr std::size_t kIdBytesMax = 1024;
constexpr std::size_t kSafetyIdMax = 64;    // characters
constexpr std::size_t kShownBytesMax = 50;  // of what a client sent, in messages

constexpr auto kNames =
    std::to_array<std::pair<std::string_view, std::string_view>>({{"messages", "input"},
                                                                  {"max_completion_tokens", "max_output_tokens"},
                                                                  {"response_format.json_schema", "text.format"},
                                                                  {"response_format", "text.format"},
                                                                  {"json_schema.schema", "schema"},
                                                                  {"reasoning_effort", "reasoning.effort"}});

constexpr auto kTextTypes = std::to_array<std::string_view>({"input_text", "output_text", "text", "refusal"});
constexpr auto kReasoningTypes = std::to_array<std::string_view>({"reasoning_text", "summary_text", "text"});
// That an answer may name.
constexpr auto kShownEfforts =
    std::to_array<std::string_view>({"none", "minimal", "low", "medium", "high", "xhigh", "max"});
constexpr auto kShownVerbosities = std::to_array<std::string_view>({"low", "medium", "high"});
constexpr auto kShownSummaries = std::to_array<std::string_view>({"auto", "concise", "detailed"});
constexpr auto kRoles = std::to_array<std::string_view>({"user", "assistant", "system", "developer"});

/// Tools that OpenAI runs itself and the model may use or not: left out beside functions (docs/decisions/0054).
constexpr auto kLeftOut = std::to_array<std::string_view>({"web_search", "image_generation"});

constexpr std::string_view kGrammarTold = "Its input keeps to this grammar (Lark):\n";

std::string text_of(const json::string& text) {
    return {text.data(), text.size()};
}

std::string shown(const std::string& text) {
    return "'" + text.substr(0, kShownBytesMax) + "'";
}

/// Texts of a content, one after the other.
std::string joined(const json::value& content) {
    if (content.is_string()) { return text_of(content.get_string()); }
    std::string text;
    for (const json::value& part : content.get_array()) {
        text += text_of(part.get_object().at("text").get_string());
    }
    return text;
}

/// Writes one request as a body of /v1/chat/completions.
class ResponsesReader {
public:
    explicit ResponsesReader(const json::object& body) : body_(body), fields_(body) {}

    ApiResult<json::object> chat_body() {
        pass_fields(body_, chat_);
        refuse_stored();
        if (const json::value* instructions = fields_.find("instructions")) { read_instructions(*instructions); }
        read_input();
        read_tools();
        read_format();
        read_reasoning();
        read_rest();
        if (fields_.error()) { return pass_on(*fields_.error()); }
        chat_["messages"] = std::move(messages_);
        return std::move(chat_);
    }

    /// What the answer repeats, as JSON members.
    std::string shown_fields(const RequestForm& form, const Models& models) const;

private:
    void refuse_stored() {
        constexpr const char* kWhole =
            "is not supported: this server stores no responses, send the whole conversation in 'input'";
        for (const char* name : {"previous_response_id", "conversation"}) {
            if (fields_.find(name) != nullptr) { fields_.problem(name, kWhole); }
        }
        if (fields_.boolean("background").value_or(false)) {
            fields_.problem("background",
                            "must be false: this server stores no responses; use 'stream' for answers that take long");
        }
        if (fields_.find("prompt") != nullptr) {
            fields_.problem("prompt",
                            "is not supported: this server stores no prompts, use 'instructions' and 'input'");
        }
        fields_.boolean("store");  // it never is
    }

    void read_instructions(const json::value& instructions) {
        if (!instructions.is_string()) {
            return fields_.problem("instructions", "must be a string; put messages into 'input'");
        }
        messages_.push_back(json::object{{"role", "system"}, {"content", instructions.get_string()}});
    }

    void read_input() {
        const json::value* input = fields_.find("input");
        if (input == nullptr) { return fields_.problem("input", "is missing: give a string or a list of items"); }
        if (input->is_string()) {
            messages_.push_back(json::object{{"role", "user"}, {"content", input->get_string()}});
            return;
        }
        if (!input->is_array() || input->get_array().empty()) {
            return fields_.problem("input", "must be a string or a list of at least one item");
        }
        for (std::size_t index = 0; index < input->get_array().size() && !fields_.error(); ++index) {
            read_item("input[" + std::to_string(index) + "]", input->get_array()[index]);
        }
        if (messages_.empty()) { fields_.problem("input", "must hold at least one message"); }
    }

    void read_item(const std::string& at, const json::value& value) {
        const json::object* item = value.if_object();
        if (item == nullptr) { return fields_.problem(at, "must be an object"); }
        Fields inside(*item, at + ".");
        const std::string type = inside.string("type", kIdBytesMax).value_or("message");
        if (inside.error()) { return fields_.pass_on(*inside.error()); }
        if (type == "message") {
            read_message(at, inside);
        } else if (type == "function_call" || type == "custom_tool_call") {
            read_call(inside, type == "custom_tool_call");
        } else if (type == "function_call_output" || type == "custom_tool_call_output") {
            read_output(at, inside);
        } else if (type == "reasoning") {
            read_reasoning_item(at, inside);
        } else if (type == "item_reference") {
            inside.problem("type", "is 'item_reference': this server stores no items, send the item itself");
        } else {
            inside.problem("type", "is " + shown(type) +
                                       ": items of the types message, function_call, function_call_output, "
                                       "custom_tool_call, custom_tool_call_output and reasoning are taken");
        }
        if (inside.error()) { fields_.pass_on(*inside.error()); }
    }

    void read_message(const std::string& at, Fields& inside) {
        const auto role = inside.string("role", kIdBytesMax);
        if (!role || std::find(kRoles.begin(), kRoles.end(), *role) == kRoles.end()) {
            return inside.problem("role", "must be one of user, assistant, system, developer");
        }
        const json::value* given = inside.find("content");
        if (given == nullptr) { return inside.problem("content", "is missing"); }
        auto content = TextParts{kTextTypes}.read(fields_, at + ".content", *given);
        if (!content) { return; }
        if (*role != "assistant") {
            is_assistant_open_ = false;
            reasoning_.clear();
            messages_.push_back(json::object{{"role", *role}, {"content", std::move(*content)}});
            return;
        }
        open_assistant();
        messages_.back().get_object()["content"] = std::move(*content);
    }

    void open_assistant() {
        json::object message{{"role", "assistant"}, {"content", ""}};
        if (!reasoning_.empty()) { message["reasoning_content"] = std::exchange(reasoning_, {}); }
        messages_.push_back(std::move(message));
        is_assistant_open_ = true;
    }

    void read_call(Fields& inside, bool is_custom) {
        const char* const said = is_custom ? kCustomInput : "arguments";
        const auto id = inside.string("call_id", kIdBytesMax);
        const auto name = inside.string("name", kIdBytesMax);
        auto arguments = inside.string(said, std::numeric_limits<std::size_t>::max());
        for (const auto& [field, value] : {std::pair("call_id", &id), {"name", &name}}) {
            if (!*value) { inside.problem(field, "is missing"); }
        }
        if (!arguments) { inside.problem(said, "is missing"); }
        if (inside.error()) { return; }
        if (is_custom) { arguments = json::serialize(json::object{{kCustomInput, *arguments}}); }
        if (!is_assistant_open_) { open_assistant(); }
        json::value& calls = messages_.back().get_object()["tool_calls"];
        if (!calls.is_array()) { calls = json::array(); }
        calls.get_array().push_back(json::object{
            {"id", *id},
            {"type", "function"},
            {"function",
             json::object{{"name", flat_tool_name(inside.string("namespace", kIdBytesMax).value_or(""), *name)},
                          {"arguments", *arguments}}}});
    }

    void read_output(const std::string& at, Fields& inside) {
        const auto id = inside.string("call_id", kIdBytesMax);
        if (!id) { return inside.problem("call_id", "is missing"); }
        const json::value* output = inside.find("output");
        if (output == nullptr) { return inside.problem("output", "is missing"); }
        auto content = TextParts{kTextTypes}.read(fields_, at + ".output", *output);
        if (!content) { return; }
        is_assistant_open_ = false;
        reasoning_.clear();
        messages_.push_back(json::object{{"role", "tool"}, {"tool_call_id", *id}, {"content", std::move(*content)}});
    }

    /// The text of the reasoning itself, or where there is none its summary; encrypted content is nobody's here.
    void read_reasoning_item(const std::string& at, Fields& inside) {
        is_assistant_open_ = false;
        for (const char* name : {"content", "summary"}) {
            const json::value* given = inside.find(name);
            if (given == nullptr) { continue; }
            const auto content = TextParts{kReasoningTypes}.read(fields_, at + "." + name, *given);
            if (!content) { return; }
            const std::string text = joined(*content);
            if (text.empty()) { continue; }
            reasoning_ += (reasoning_.empty() ? "" : "\n") + text;
            return;
        }
    }

    void read_tools() {
        const json::array* tools = fields_.array("tools");
        for (std::size_t index = 0; tools != nullptr && index < tools->size(); ++index) {
            const std::string at = "tools[" + std::to_string(index) + "]";
            const json::object* tool = (*tools)[index].if_object();
            if (tool == nullptr) { return fields_.problem(at, "must be an object"); }
            read_tool(at, *tool);
            if (fields_.error()) { return; }
        }
        if (tools_.empty() && !left_out_.empty()) {
            const auto& [at, type] = left_out_.front();
            return refuse_tool(at, type);
        }
        if (!tools_.empty()) { chat_["tools"] = std::move(tools_); }
        if (const auto parallel = fields_.boolean("parallel_tool_calls")) { chat_["parallel_tool_calls"] = *parallel; }
        const json::value* choice = fields_.find("tool_choice");
        if (choice == nullptr) { return; }
        if (choice->is_string()) {
            chat_["tool_choice"] = *choice;
            return;
        }
        const json::object* object = choice->if_object();
        const json::value* type = object == nullptr ? nullptr : object->if_contains("type");
        if (type != nullptr && *type == "allowed_tools") { return read_allowed(*object); }
        const json::value* name = object == nullptr ? nullptr : object->if_contains("name");
        const bool is_tool = type != nullptr && (*type == "function" || *type == "custom");
        if (!is_tool || name == nullptr || !name->is_string()) {
            return fields_.problem("tool_choice",
                                   "must be \"none\", \"auto\", \"required\" or {\"type\": \"function\" (or "
                                   "\"custom\"), \"name\": ..}");
        }
        chat_["tool_choice"] = chosen(*object);
    }

    /// A tool by its names, as a chat names it.
    static json::object chosen(const json::object& tool) {
        const auto text = [&tool](std::string_view field) {
            const json::value* value = tool.if_contains(field);
            return value != nullptr && value->is_string() ? text_of(value->get_string()) : std::string();
        };
        const std::string flat = flat_tool_name(text("namespace"), text("name"));
        return {{"type", "function"}, {"function", json::object{{"name", flat}}}};
    }

    void read_allowed(const json::object& choice) {
        json::array tools;
        if (const json::value* list = choice.if_contains("tools"); list != nullptr && list->is_array()) {
            for (const json::value& one : list->get_array()) {
                tools.push_back(one.is_object() ? chosen(one.get_object()) : json::object());
            }
        }
        const json::value* mode = choice.if_contains("mode");
        chat_["tool_choice"] = json::object{
            {"type", "allowed_tools"},
            {"allowed_tools",
             json::object{{"mode", mode == nullptr ? json::value() : *mode}, {"tools", std::move(tools)}}}};
    }

    void refuse_tool(const std::string& at, const std::string& type) {
        fields_.problem(at,
                        "has the type " + shown(type) +
                            ": this server runs no tools of its own, give tools of the type 'function' or 'custom'");
    }

    void read_tool(const std::string& at, const json::object& tool) {
        Fields inside(tool, at + ".");
        const std::string type = inside.string("type", kIdBytesMax).value_or("");
        if (type == "function") {
            add_function(inside, {});
            json::object shown = tool;  // with all that the specification of answers wants of a function
            shown.emplace("parameters", nullptr);
            shown.emplace("strict", false);
            shown_tools_.push_back(std::move(shown));
        } else if (type == "custom") {
            add_custom(at, inside, {});
            shown_tools_.push_back(tool);
        } else if (type == "namespace") {
            read_namespace(at, inside);
            shown_tools_.push_back(tool);
        } else if (std::any_of(kLeftOut.begin(), kLeftOut.end(),
                               [&](std::string_view prefix) { return type.starts_with(prefix); })) {
            left_out_.emplace_back(at, type);
        } else {
            refuse_tool(at, type);
        }
    }

    void read_namespace(const std::string& at, Fields& inside) {
        const auto name = inside.string("name", kIdBytesMax);
        const json::array* tools = inside.array("tools");
        if (inside.error()) { return fields_.pass_on(*inside.error()); }
        if (!name || name->empty() || tools == nullptr) {
            return fields_.problem(at, "needs a 'name' and 'tools', a list of functions");
        }
        for (std::size_t index = 0; index < tools->size(); ++index) {
            const std::string here = at + ".tools[" + std::to_string(index) + "]";
            const json::object* tool = (*tools)[index].if_object();
            if (tool == nullptr) { return fields_.problem(here, "must be an object"); }
            Fields one(*tool, here + ".");
            const auto type = one.string("type", kIdBytesMax);
            if (type == "custom") {
                add_custom(here, one, *name);
            } else if (type == "function") {
                add_function(one, *name);
            } else {
                return refuse_tool(here, type.value_or(""));
            }
        }
    }

    /// A tool that takes a text and no object: the model knows it as a function with that text as its only argument.
    void add_custom(const std::string& at, Fields& tool, std::string_view name_space) {
        const auto name = tool.string("name", kIdBytesMax);
        std::string description = tool.string("description", std::numeric_limits<std::size_t>::max()).value_or("");
        json::object input{{"type", "string"}};
        if (const json::object* given = tool.object("format")) {
            Fields format(*given, at + ".format.");
            const auto type = format.string("type", kIdBytesMax);
            const auto syntax = format.string("syntax", kIdBytesMax);
            const auto definition = format.string("definition", std::numeric_limits<std::size_t>::max());
            const bool is_grammar = type == "grammar" && definition && (syntax == "lark" || syntax == "regex");
            if (!format.error() && type != "text" && !is_grammar) {
                format.problem("type", "must be text, or grammar with a 'syntax' (lark or regex) and a 'definition'");
            }
            if (format.error()) { return fields_.pass_on(*format.error()); }
            if (is_grammar && *syntax == "regex") { input["pattern"] = "^(?:" + *definition + ")$"; }
            if (is_grammar && *syntax == "lark") {
                if (!description.empty()) { description += "\n\n"; }
                description.append(kGrammarTold).append(*definition);
            }
        }
        if (tool.error()) { return fields_.pass_on(*tool.error()); }
        if (!name || name->empty()) { return fields_.problem(at, "needs a 'name'"); }
        json::object parameters{{"type", "object"}, {"additionalProperties", false}};
        parameters["properties"] = json::object{{kCustomInput, std::move(input)}};
        parameters["required"] = json::array{kCustomInput};
        json::object function{{"name", flat_tool_name(name_space, *name)}};
        if (!description.empty()) { function["description"] = description; }
        function["parameters"] = std::move(parameters);
        function["strict"] = true;
        tools_.push_back(json::object{{"type", "function"}, {"function", std::move(function)}});
    }

    void add_function(Fields& tool, std::string_view name_space) {
        json::object function;
        for (const char* name : {"name", "description", "parameters", "strict"}) {
            if (const json::value* one = tool.find(name)) { function[name] = *one; }
        }
        if (const auto name = tool.string("name", kIdBytesMax); name && !name_space.empty()) {
            function["name"] = flat_tool_name(name_space, *name);
        }
        tools_.push_back(json::object{{"type", "function"}, {"function", std::move(function)}});
    }

    void read_format() {
        const json::object* text = fields_.object("text");
        if (text == nullptr) { return; }
        Fields inside(*text, "text.");
        inside.string("verbosity", kIdBytesMax);
        if (const json::object* format = inside.object("format")) {
            Fields form(*format, "text.format.");
            const auto type = form.string("type", kIdBytesMax);
            if (!type || (*type != "text" && *type != "json_object" && *type != "json_schema")) {
                form.problem("type", "must be text, json_object or json_schema");
            } else if (*type == "json_schema") {
                json::object schema;
                for (const char* name : {"name", "description", "schema", "strict"}) {
                    if (const json::value* one = form.find(name)) { schema[name] = *one; }
                }
                if (form.find("schema") == nullptr) { form.problem("schema", "is missing"); }
                chat_["response_format"] = json::object{{"type", "json_schema"}, {"json_schema", std::move(schema)}};
            } else {
                chat_["response_format"] = json::object{{"type", *type}};
            }
            if (form.error()) { inside.pass_on(*form.error()); }
        }
        if (inside.error()) { fields_.pass_on(*inside.error()); }
    }

    void read_reasoning() {
        const json::object* reasoning = fields_.object("reasoning");
        if (reasoning == nullptr) { return; }
        Fields inside(*reasoning, "reasoning.");
        if (const auto effort = inside.string("effort", 32)) { chat_["reasoning_effort"] = *effort; }
        if (const json::value* most = inside.find("max_tokens")) { chat_["thinking_token_budget"] = *most; }
        inside.string("summary", 32);
        if (inside.error()) { fields_.pass_on(*inside.error()); }
    }

    void read_rest() {
        if (const json::value* most = fields_.find("max_output_tokens")) {
            chat_["max_completion_tokens"] = *most;
            if (whole_number(*most) == -1) { fields_.problem("max_output_tokens", "must not be negative"); }
        }
        if (const auto truncation = fields_.string("truncation", 32);
            truncation && *truncation != "auto" && *truncation != "disabled") {
            fields_.problem("truncation", "must be \"auto\" or \"disabled\"");
        }
        if (const json::array* include = fields_.array("include")) {
            for (const json::value& one : *include) {
                if (one.is_string() && one.get_string() == "message.output_text.logprobs") {
                    fields_.problem("include",
                                    "holds 'message.output_text.logprobs': logprobs are given by "
                                    "/v1/chat/completions only");
                }
            }
        }
        fields_.integer("top_logprobs", 0, 20);
        fields_.integer("max_tool_calls", 0, std::numeric_limits<std::int32_t>::max());
        fields_.object("stream_options");
        for (const char* name : {"user", "prompt_cache_key", "service_tier"}) {
            fields_.string(name, kIdBytesMax);
        }
        if (const auto id = fields_.string("safety_identifier", kIdBytesMax); id && code_points(*id) > kSafetyIdMax) {
            fields_.problem("safety_identifier", "must be at most 64 characters long");
        }
        const json::object* metadata = fields_.object("metadata");
        if (metadata == nullptr) { return; }
        const bool is_small =
            metadata->size() <= kMetadataMax && std::all_of(metadata->begin(), metadata->end(), [](const auto& one) {
                return one.key().size() <= kMetadataKeyBytesMax && one.value().is_string() &&
                       one.value().get_string().size() <= kMetadataValueBytesMax;
            });
        if (!is_small) {
            fields_.problem("metadata", "must be an object of at most 16 strings, of 512 bytes each, with names of 64");
        }
    }

    void write_reasoning(JsonWriter& out) const;
    void write_text(JsonWriter& out) const;

    const json::object& body_;
    Fields fields_;
    json::object chat_;
    json::array tools_;                                          // as a chat has them
    json::array shown_tools_;                                    // as the client wrote them, without those left out
    std::vector<std::pair<std::string, std::string>> left_out_;  // where they stand, their types
    json::array messages_;
    std::string reasoning_;           // of the next message of the assistant
    bool is_assistant_open_ = false;  // the last message takes calls that follow
};

/// What the specification of answers knows of it. A template may have other efforts, and takes them; no answer says so.
void ResponsesReader::write_reasoning(JsonWriter& out) const {
    const json::value* const given = fields_.find("reasoning");
    const auto value = [&](std::string_view name, std::span<const std::string_view> known) {
        out.key(name);
        const json::value* const said = given == nullptr ? nullptr : given->get_object().if_contains(name);
        const std::string text = said != nullptr && said->is_string() ? text_of(said->get_string()) : "";
        std::find(known.begin(), known.end(), text) != known.end() ? out.string(text) : out.null();
    };
    out.begin_object();
    value("effort", kShownEfforts);
    value("summary", kShownSummaries);
    out.end_object();
}

void ResponsesReader::write_text(JsonWriter& out) const {
    const json::value* const text = fields_.find("text");
    const json::value* const given = text == nullptr ? nullptr : text->get_object().if_contains("format");
    const json::object format = given != nullptr && given->is_object() ? given->get_object() : json::object();
    const auto string_of = [](const json::object& object, std::string_view name) {
        const json::value* const said = object.if_contains(name);
        return said != nullptr && said->is_string() ? text_of(said->get_string()) : std::string();
    };
    const std::string type = string_of(format, "type");
    out.begin_object().key("format").begin_object().key("type").string(type.empty() ? "text" : type);
    if (type == "json_schema") {
        const std::string name = string_of(format, "name");
        out.key("name").string(name.empty() ? "schema" : name);  // some clients give none
        for (const char* field : {"description", "schema", "strict"}) {
            const json::value* const said = format.if_contains(field);
            if (said == nullptr || said->is_null()) { continue; }
            out.key(field);
            write_value(out, *said);
        }
    }
    out.end_object();
    const std::string verbosity = text == nullptr ? std::string() : string_of(text->get_object(), "verbosity");
    if (std::find(kShownVerbosities.begin(), kShownVerbosities.end(), verbosity) != kShownVerbosities.end()) {
        out.key("verbosity").string(verbosity);
    }
    out.end_object();
}

std::string ResponsesReader::shown_fields(const RequestForm& form, const Models& models) const {
    JsonWriter out;
    out.begin_object();
    const auto repeat = [&](const char* name, std::string_view otherwise) {
        out.key(name);
        if (const json::value* value = fields_.find(name)) {
            write_value(out, *value);
        } else {
            out.raw(otherwise);
        }
    };
    repeat("instructions", "null");
    repeat("max_output_tokens", "null");
    repeat("max_tool_calls", "null");
    repeat("metadata", "{}");
    repeat("parallel_tool_calls", "true");
    repeat("prompt_cache_key", "null");
    out.key("reasoning");
    write_reasoning(out);
    repeat("safety_identifier", "null");
    out.key("text");
    write_text(out);
    repeat("tool_choice", "\"auto\"");
    out.key("tools");
    write_value(out, shown_tools_);
    repeat("top_logprobs", "0");
    repeat("truncation", "\"disabled\"");
    if (fields_.find("user") != nullptr) { repeat("user", ""); }  // the specification of answers has no null of it
    const SamplingDefaults& defaults = models[form.model].text->sampling_defaults();
    out.key("service_tier").string("default");
    out.key("temperature").number(static_cast<float>(form.temperature.value_or(defaults.temperature.value_or(1))));
    out.key("top_p").number(static_cast<float>(form.top_p.value_or(defaults.top_p.value_or(1))));
    return out.take().substr(1);  // members only
}

}  // namespace

std::string flat_tool_name(std::string_view name_space, std::string_view name) {
    if (name_space.empty()) { return std::string(name); }
    return std::string(name_space) + "__" + std::string(name);
}

ApiResult<RequestForm> read_responses_form(const json::object& body, const FormLimits& limits, const Models& models) {
    ResponsesReader reader(body);
    const auto chat = reader.chat_body();
    if (!chat) { return pass_on(chat.error()); }
    auto form = read_form(Endpoint::responses, *chat, limits, models);
    if (!form) { return pass_on(in_names_of(form.error(), kNames)); }
    if (form->grammar_field == "response_format") { form->grammar_field = "text.format"; }
    form->shown_fields = reader.shown_fields(*form, models);
    return form;
}

}  // namespace gateway
