#include "gateway/openai/responses_answer.h"

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "base/check.h"
#include "gateway/openai/endpoint.h"
#include "gateway/openai/responses_form.h"

namespace gateway {

std::string named_event(std::string_view name, std::string_view json) {
    std::string event = "event: ";
    event += name;
    event += "\ndata: ";
    event += json;
    event += "\n\n";
    return event;
}

namespace {

namespace json = boost::json;

constexpr std::size_t kShownDepthMax = 160;  // of what is repeated: the depth of a body, and that of its place here
constexpr std::string_view kCompleted = "completed";
constexpr std::string_view kIncomplete = "incomplete";

void write_usage(JsonWriter& json, const Usage& usage) {
    json.begin_object().key("input_tokens").integer(static_cast<std::int64_t>(usage.prompt_tokens));
    json.key("input_tokens_details").begin_object();
    json.key("cached_tokens").integer(static_cast<std::int64_t>(usage.cached_tokens));
    json.key("cache_write_tokens").integer(0).end_object();
    json.key("output_tokens").integer(static_cast<std::int64_t>(usage.completion_tokens));
    json.key("output_tokens_details").begin_object();
    json.key("reasoning_tokens").integer(static_cast<std::int64_t>(usage.reasoning_tokens)).end_object();
    json.key("total_tokens").integer(static_cast<std::int64_t>(usage.prompt_tokens + usage.completion_tokens));
    json.end_object();
}

/// OpenAI's codes of failed responses are few.
std::string_view failure_code(const ApiError& error) {
    return error.status == 429 ? "rate_limit_exceeded" : "server_error";
}

/// The text for a custom tool, out of the arguments that the model gave it; empty where they were cut off.
std::string custom_input(std::string_view arguments) {
    boost::system::error_code error;
    const json::value value = json::parse(json::string_view(arguments.data(), arguments.size()), error);
    if (error || !value.is_object()) { return {}; }
    const json::value* const input = value.get_object().if_contains(kCustomInput);
    return input != nullptr && input->is_string() ? std::string(std::string_view(input->get_string())) : std::string();
}

}  // namespace

ResponsesAnswer::ResponsesAnswer(AnswerHeader header, std::string shown_fields, bool streams)
    : header_(std::move(header)), shown_fields_(std::move(shown_fields)), streams_(streams) {
    const auto has = [&](std::string_view word) { return shown_fields_.find(word) != std::string::npos; };
    if (!has(R"("namespace")") && !has(R"("custom")")) { return; }
    boost::system::error_code error;
    json::parse_options options;
    options.max_depth = kShownDepthMax;
    const json::value shown = json::parse("{" + shown_fields_ + "}", error, {}, options);
    CHECK(!error && shown.is_object());
    const json::value* tools = shown.get_object().if_contains("tools");
    if (tools == nullptr || !tools->is_array()) { return; }
    for (const json::value& tool : tools->get_array()) {  // read_responses_form() has seen to their form
        if (tool.at("type") == "custom") {
            other_tools_.push_back({"", std::string(tool.at("name").as_string()), true});
        }
        if (tool.at("type") != "namespace") { continue; }
        for (const json::value& one : tool.at("tools").as_array()) {
            other_tools_.push_back({std::string(tool.at("name").as_string()), std::string(one.at("name").as_string()),
                                    one.at("type") == "custom"});
        }
    }
}

std::string ResponsesAnswer::item_id(std::string_view prefix) const {
    const std::string_view drawn =
        std::string_view(header_.id).substr(std::min(form_of(header_.endpoint).id_prefix.size(), header_.id.size()));
    std::string id(prefix);
    id += drawn;
    id += std::to_string(items_.size());
    return id;
}

void ResponsesAnswer::write_part(JsonWriter& json, const Item& item) const {
    const bool is_reasoning = item.kind == Kind::reasoning;
    json.begin_object().key("type").string(is_reasoning ? "reasoning_text" : "output_text");
    json.key("text").string(item.text);
    if (!is_reasoning) { json.key("annotations").begin_array().end_array().key("logprobs").begin_array().end_array(); }
    json.end_object();
}

void ResponsesAnswer::write_item(JsonWriter& json, const Item& item) const {
    const bool has_begun = item.status == "in_progress";
    json.begin_object().key("id").string(item.id);
    if (item.kind == Kind::call) {
        json.key("type")
            .string(item.is_custom ? "custom_tool_call" : "function_call")
            .key("status")
            .string(item.status);
        json.key(item.is_custom ? kCustomInput : "arguments").string(has_begun && item.is_custom ? "" : item.text);
        json.key("call_id").string(item.call_id).key("name").string(item.name);
        if (!item.name_space.empty()) { json.key("namespace").string(item.name_space); }
        json.end_object();
        return;
    }
    const bool is_reasoning = item.kind == Kind::reasoning;
    json.key("type").string(is_reasoning ? "reasoning" : "message").key("status").string(item.status);
    if (is_reasoning) { json.key("summary").begin_array().end_array(); }
    json.key("content").begin_array();
    if (!has_begun) { write_part(json, item); }
    json.end_array();
    if (!is_reasoning) { json.key("role").string("assistant"); }
    json.end_object();
}

void ResponsesAnswer::write_response(JsonWriter& json, const Told& told) const {
    json.begin_object().key("id").string(header_.id).key("object").string("response");
    json.key("created_at").integer(header_.created).key("status").string(told.status);
    json.key("background").boolean(false).key("error");
    if (told.error != nullptr) {
        json.begin_object().key("code").string(failure_code(*told.error));
        json.key("message").string(std::string_view(told.error->message).substr(0, 1000)).end_object();
    } else {
        json.null();
    }
    json.key("incomplete_details");
    if (told.status == kIncomplete) {
        json.begin_object().key("reason").string("max_output_tokens").end_object();
    } else {
        json.null();
    }
    json.key("model").string(header_.model).key("output").begin_array();
    if (told.usage != nullptr || told.error != nullptr) {
        for (const Item& item : items_) {
            write_item(json, item);
        }
    }
    json.end_array().key("previous_response_id").null().key("store").boolean(false);
    if (!shown_fields_.empty()) { json.raw(shown_fields_); }
    json.key("usage");
    if (told.usage != nullptr) {
        write_usage(json, *told.usage);
    } else {
        json.null();
    }
    json.end_object();
}

JsonWriter ResponsesAnswer::begin_event(std::string_view type) {
    JsonWriter json;
    json.begin_object().key("type").string(type).key("sequence_number").integer(next_number_++);
    return json;
}

JsonWriter ResponsesAnswer::begin_item_event(std::string_view type, bool names_part) {
    JsonWriter json = begin_event(type);
    json.key("item_id").string(items_.back().id);
    json.key("output_index").integer(static_cast<std::int64_t>(items_.size() - 1));
    if (names_part) { json.key("content_index").integer(0); }
    return json;
}

void ResponsesAnswer::response_event(std::string& events, std::string_view type, const Told& told) {
    JsonWriter json = begin_event(type);
    json.key("response");
    write_response(json, told);
    events += named_event(type, json.end_object().take());
}

std::string ResponsesAnswer::open(const Usage&) {
    std::string events;
    response_event(events, "response.created", {.status = "in_progress"});
    response_event(events, "response.in_progress", {.status = "in_progress"});
    return events;
}

void ResponsesAnswer::begin_item(std::string& events, Item item) {
    items_.push_back(std::move(item));
    is_item_open_ = true;
    if (!streams_) { return; }
    const Item& begun = items_.back();
    JsonWriter added = begin_event("response.output_item.added");
    added.key("output_index").integer(static_cast<std::int64_t>(items_.size() - 1)).key("item");
    write_item(added, begun);
    events += named_event("response.output_item.added", added.end_object().take());
    if (begun.kind == Kind::call) { return; }
    JsonWriter part = begin_item_event("response.content_part.added", true);
    part.key("part");
    write_part(part, begun);
    events += named_event("response.content_part.added", part.end_object().take());
}

void ResponsesAnswer::end_item(std::string& events, std::string_view status) {
    if (!std::exchange(is_item_open_, false)) { return; }
    Item& item = items_.back();
    item.status = status;
    if (item.is_custom) { item.text = custom_input(item.text); }
    if (!streams_) { return; }
    if (item.is_custom) {  // its text is known when its arguments are whole
        JsonWriter delta = begin_item_event("response.custom_tool_call_input.delta", false);
        events += named_event("response.custom_tool_call_input.delta",
                              delta.key("delta").string(item.text).end_object().take());
        JsonWriter done = begin_item_event("response.custom_tool_call_input.done", false);
        events += named_event("response.custom_tool_call_input.done",
                              done.key(kCustomInput).string(item.text).end_object().take());
    } else if (item.kind == Kind::call) {
        constexpr std::string_view kDone = "response.function_call_arguments.done";
        JsonWriter done = begin_item_event(kDone, false);
        done.key("name").string(item.name).key("arguments").string(item.text);
        events += named_event(kDone, done.end_object().take());
    } else {
        const bool is_reasoning = item.kind == Kind::reasoning;
        const std::string_view type = is_reasoning ? "response.reasoning_text.done" : "response.output_text.done";
        JsonWriter done = begin_item_event(type, true);
        done.key("text").string(item.text);
        if (!is_reasoning) { done.key("logprobs").begin_array().end_array(); }
        events += named_event(type, done.end_object().take());
        JsonWriter part = begin_item_event("response.content_part.done", true);
        part.key("part");
        write_part(part, item);
        events += named_event("response.content_part.done", part.end_object().take());
    }
    JsonWriter json = begin_event("response.output_item.done");
    json.key("output_index").integer(static_cast<std::int64_t>(items_.size() - 1)).key("item");
    write_item(json, item);
    events += named_event("response.output_item.done", json.end_object().take());
}

void ResponsesAnswer::add_text(std::string& events, std::string_view text) {
    Item& item = items_.back();
    item.text += text;
    if (!streams_ || item.is_custom) { return; }
    const std::string_view type = item.kind == Kind::call        ? "response.function_call_arguments.delta"
                                  : item.kind == Kind::reasoning ? "response.reasoning_text.delta"
                                                                 : "response.output_text.delta";
    JsonWriter json = begin_item_event(type, item.kind != Kind::call);
    json.key("delta").string(text);
    if (item.kind == Kind::message) { json.key("logprobs").begin_array().end_array(); }
    events += named_event(type, json.end_object().take());
}

void ResponsesAnswer::name_call(Item& item, std::string_view name) const {
    item.name = name;
    for (const OtherTool& tool : other_tools_) {
        if (flat_tool_name(tool.name_space, tool.name) != name) { continue; }
        item.name_space = tool.name_space;
        item.name = tool.name;
        item.is_custom = tool.is_custom;
        return;
    }
}

std::string ResponsesAnswer::push(const AnswerEvent& event, std::string_view call_id) {
    std::string events;
    const Kind kind = event.kind == AnswerEvent::Kind::content     ? Kind::message
                      : event.kind == AnswerEvent::Kind::reasoning ? Kind::reasoning
                                                                   : Kind::call;
    const bool begins_call = event.kind == AnswerEvent::Kind::call;
    if (event.text.empty() && !begins_call) { return events; }
    if (begins_call || !is_item_open_ || items_.back().kind != kind) {
        end_item(events, kCompleted);
        Item item{.kind = kind, .id = {}};
        if (begins_call) {
            item.call_id = call_id;
            name_call(item, event.text);
        }
        item.id = item_id(item.is_custom            ? "ctc_"
                          : kind == Kind::call      ? "fc_"
                          : kind == Kind::reasoning ? "rs_"
                                                    : "msg_");
        begin_item(events, std::move(item));
    }
    if (!begins_call) { add_text(events, event.text); }
    return events;
}

void ResponsesAnswer::end_items(std::string& events, const GenerationEnd& end) {
    if (items_.empty()) {
        Item item{.kind = Kind::message, .id = {}};
        item.id = item_id("msg_");
        begin_item(events, std::move(item));
    }
    end_item(events, end.reason == EndReason::length ? kIncomplete : kCompleted);
}

std::string ResponsesAnswer::close(const GenerationEnd& end, const Usage& usage) {
    std::string events;
    end_items(events, end);
    const bool is_cut = end.reason == EndReason::length;
    response_event(events, is_cut ? "response.incomplete" : "response.completed",
                   {.status = is_cut ? kIncomplete : kCompleted, .usage = &usage});
    return events;
}

std::string ResponsesAnswer::whole(const GenerationEnd& end, const Usage& usage) {
    std::string unused;
    end_items(unused, end);
    JsonWriter json;
    write_response(json, {.status = end.reason == EndReason::length ? kIncomplete : kCompleted, .usage = &usage});
    return json.take();
}

std::string ResponsesAnswer::failed(const ApiError& error, const Usage& usage, bool is_open) {
    std::string events;
    if (is_open) {
        end_item(events, kIncomplete);
        response_event(events, "response.failed", {.status = "failed", .error = &error, .usage = &usage});
        return events;
    }
    JsonWriter json = begin_event("error");
    json.key("code").string(error.code.value_or(std::string(failure_code(error))));
    json.key("message").string(std::string_view(error.message).substr(0, 1000));
    json.key("param");
    error.param ? json.string(*error.param) : json.null();
    return named_event("error", json.end_object().take());
}

}  // namespace gateway
