#include "gateway/anthropic/messages_answer.h"

#include <boost/json.hpp>

namespace gateway {
namespace {

void write_usage(JsonWriter& json, const Usage& usage) {
    // What is read from a cache is not counted as input.
    json.begin_object();
    json.key("input_tokens").integer(static_cast<std::int64_t>(usage.prompt_tokens - usage.cached_tokens));
    json.key("cache_creation_input_tokens").integer(0);
    json.key("cache_read_input_tokens").integer(static_cast<std::int64_t>(usage.cached_tokens));
    json.key("output_tokens").integer(static_cast<std::int64_t>(usage.completion_tokens));
    json.end_object();
}

/// Arguments as the object that clients want; what was cut off before it was one is left out.
std::string_view input_object(std::string_view arguments) {
    boost::json::error_code error;
    boost::json::parse_options options;
    options.max_depth = 128;
    const boost::json::value value =
        boost::json::parse(boost::json::string_view(arguments.data(), arguments.size()), error, {}, options);
    return !error && value.is_object() ? arguments : std::string_view("{}");
}

}  // namespace

std::string_view MessagesAnswer::ping() const {
    return "event: ping\ndata: {\"type\":\"ping\"}\n\n";
}

std::string_view MessagesAnswer::stop_reason(const GenerationEnd& end) const {
    if (end.reason == EndReason::length) { return "max_tokens"; }
    if (has_calls_) { return "tool_use"; }
    return end.stop_string ? "stop_sequence" : "end_turn";
}

void MessagesAnswer::write_stop(JsonWriter& json, const GenerationEnd& end) const {
    const std::string_view reason = stop_reason(end);
    json.key("stop_reason").string(reason).key("stop_sequence");
    reason == "stop_sequence" ? json.string(*end.stop_string) : json.null();
}

void MessagesAnswer::write_block(JsonWriter& json, const Block& block, bool has_begun) const {
    json.begin_object();
    switch (block.kind) {
        case Kind::thinking:
            json.key("type").string("thinking").key("thinking").string(block.text);
            json.key("signature").string(has_begun ? std::string_view() : std::string_view(header_.id));
            break;
        case Kind::text:
            json.key("type").string("text").key("text").string(block.text);
            break;
        case Kind::call:
            json.key("type").string("tool_use").key("id").string(block.call_id).key("name").string(block.name);
            json.key("input").raw(input_object(block.text));
            break;
    }
    json.end_object();
}

std::string MessagesAnswer::open(const Usage& usage) {
    JsonWriter json;
    json.begin_object().key("type").string("message_start").key("message").begin_object();
    json.key("id").string(header_.id).key("type").string("message").key("role").string("assistant");
    json.key("model").string(header_.model).key("content").begin_array().end_array();
    json.key("stop_reason").null().key("stop_sequence").null().key("usage");
    write_usage(json, {.prompt_tokens = usage.prompt_tokens});
    json.end_object().end_object();
    return named_event("message_start", json.take());
}

void MessagesAnswer::end_block(std::string& events) {
    if (!std::exchange(is_block_open_, false) || !streams_) { return; }
    if (blocks_.back().kind == Kind::thinking) {
        JsonWriter signed_so;
        signed_so.begin_object().key("type").string("content_block_delta");
        signed_so.key("index").integer(static_cast<std::int64_t>(blocks_.size() - 1)).key("delta").begin_object();
        signed_so.key("type").string("signature_delta").key("signature").string(header_.id);
        events += named_event("content_block_delta", signed_so.end_object().end_object().take());
    }
    JsonWriter json;
    json.begin_object().key("type").string("content_block_stop");
    json.key("index").integer(static_cast<std::int64_t>(blocks_.size() - 1)).end_object();
    events += named_event("content_block_stop", json.take());
}

std::string MessagesAnswer::push(const AnswerEvent& event, std::string_view call_id) {
    std::string events;
    const Kind kind = event.kind == AnswerEvent::Kind::content     ? Kind::text
                      : event.kind == AnswerEvent::Kind::reasoning ? Kind::thinking
                                                                   : Kind::call;
    const bool begins_call = event.kind == AnswerEvent::Kind::call;
    if (event.text.empty() && !begins_call) { return events; }
    if (begins_call || !is_block_open_ || blocks_.back().kind != kind) {
        end_block(events);
        Block block{.kind = kind};
        if (begins_call) {
            has_calls_ = true;
            block.call_id = call_id;
            block.name = event.text;
        }
        blocks_.push_back(std::move(block));
        is_block_open_ = true;
        if (streams_) {
            JsonWriter json;
            json.begin_object().key("type").string("content_block_start");
            json.key("index").integer(static_cast<std::int64_t>(blocks_.size() - 1)).key("content_block");
            write_block(json, blocks_.back(), true);
            events += named_event("content_block_start", json.end_object().take());
        }
        if (begins_call) { return events; }
    }
    if (!streams_) {
        blocks_.back().text += event.text;
        return events;
    }
    JsonWriter json;
    json.begin_object().key("type").string("content_block_delta");
    json.key("index").integer(static_cast<std::int64_t>(blocks_.size() - 1)).key("delta").begin_object();
    switch (kind) {
        case Kind::thinking:
            json.key("type").string("thinking_delta").key("thinking").string(event.text);
            break;
        case Kind::text:
            json.key("type").string("text_delta").key("text").string(event.text);
            break;
        case Kind::call:
            json.key("type").string("input_json_delta").key("partial_json").string(event.text);
            break;
    }
    events += named_event("content_block_delta", json.end_object().end_object().take());
    return events;
}

std::string MessagesAnswer::close(const GenerationEnd& end, const Usage& usage) {
    std::string events;
    end_block(events);
    JsonWriter json;
    json.begin_object().key("type").string("message_delta").key("delta").begin_object();
    write_stop(json, end);
    json.end_object().key("usage");
    write_usage(json, usage);
    events += named_event("message_delta", json.end_object().take());
    events += named_event("message_stop", R"({"type":"message_stop"})");
    return events;
}

std::string MessagesAnswer::whole(const GenerationEnd& end, const Usage& usage) {
    JsonWriter json;
    json.begin_object().key("id").string(header_.id).key("type").string("message").key("role").string("assistant");
    json.key("model").string(header_.model).key("content").begin_array();
    for (const Block& block : blocks_) {
        write_block(json, block, false);
    }
    json.end_array();
    write_stop(json, end);
    json.key("usage");
    write_usage(json, usage);
    return json.end_object().take();
}

std::string MessagesAnswer::failed(const ApiError& error, const Usage&, bool) {
    return named_event("error", error_json(error, ErrorStyle::anthropic));
}

}  // namespace gateway
