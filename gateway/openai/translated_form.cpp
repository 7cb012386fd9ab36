#include "gateway/openai/translated_form.h"

#include <algorithm>
#include <array>
#include <boost/json.hpp>

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::size_t kShownBytesMax = 50;  // of what a client sent, in messages

constexpr auto kShared = std::to_array<std::string_view>({"temperature",
                                                          "top_p",
                                                          "top_k",
                                                          "min_p",
                                                          "repetition_penalty",
                                                          "presence_penalty",
                                                          "frequency_penalty",
                                                          "logit_bias",
                                                          "seed",
                                                          "stop",
                                                          "stop_token_ids",
                                                          "include_stop_str_in_output",
                                                          "ignore_eos",
                                                          "min_tokens",
                                                          "skip_special_tokens",
                                                          "truncate_prompt_tokens",
                                                          "structured_outputs",
                                                          "guided_json",
                                                          "guided_regex",
                                                          "guided_choice",
                                                          "guided_grammar",
                                                          "chat_template",
                                                          "chat_template_kwargs",
                                                          "documents",
                                                          "cache_salt",
                                                          "prompt_cache_key",
                                                          "priority",
                                                          "request_id",
                                                          "session_id",
                                                          "slo",
                                                          "sse_ping_interval",
                                                          "model",
                                                          "stream"});

std::string_view view_of(const json::string& text) {
    return {text.data(), text.size()};
}

/// And with no longer name.
bool begins_with_name(std::string_view text, std::string_view name) {
    if (!text.starts_with(name)) { return false; }
    if (text.size() == name.size()) { return true; }
    const char next = text[name.size()];
    return next != '_' && (next < 'a' || next > 'z');
}

}  // namespace

void pass_fields(const json::object& from, json::object& to) {
    for (const std::string_view name : kShared) {
        if (const json::value* value = from.if_contains(name)) { to[name] = *value; }
    }
}

ApiError in_names_of(ApiError error, FieldNames names) {
    for (const auto& [ours, theirs] : names) {
        if (error.param && begins_with_name(*error.param, ours)) {
            error.param = std::string(theirs) + error.param->substr(ours.size());
        }
        for (auto at = error.message.find('\''); at != std::string::npos; at = error.message.find('\'', at + 1)) {
            if (begins_with_name(std::string_view(error.message).substr(at + 1), ours)) {
                error.message.replace(at + 1, ours.size(), theirs);
            }
        }
    }
    return error;
}

void write_value(JsonWriter& out, const json::value& value) {
    switch (value.kind()) {
        case json::kind::object:
            out.begin_object();
            for (const auto& [name, member] : value.get_object()) {
                out.any_key({name.data(), name.size()});
                write_value(out, member);
            }
            out.end_object();
            break;
        case json::kind::array:
            out.begin_array();
            for (const json::value& one : value.get_array()) {
                write_value(out, one);
            }
            out.end_array();
            break;
        case json::kind::string:
            out.string(view_of(value.get_string()));
            break;
        default:
            out.raw(json::serialize(value));
    }
}

std::optional<json::value> TextParts::read(Fields& fields, const std::string& at, const json::value& value) const {
    if (value.is_string()) { return value; }
    if (!value.is_array()) {
        fields.problem(at, "must be a string or a list of parts");
        return std::nullopt;
    }
    json::array parts;
    for (std::size_t index = 0; index < value.get_array().size(); ++index) {
        const std::string here = at + "[" + std::to_string(index) + "]";
        const json::object* part = value.get_array()[index].if_object();
        const json::value* type = part == nullptr ? nullptr : part->if_contains("type");
        if (type == nullptr || !type->is_string()) {
            fields.problem(here, "must be an object with a 'type'");
            return std::nullopt;
        }
        const std::string_view kind = view_of(type->get_string());
        if (std::find(types.begin(), types.end(), kind) == types.end()) {
            fields.problem(
                here, "has the type '" + std::string(kind.substr(0, kShownBytesMax)) + "': this model takes text only");
            return std::nullopt;
        }
        const json::value* text = part->if_contains(kind == "refusal" ? "refusal" : "text");
        if (text == nullptr || !text->is_string()) {
            fields.problem(here, "needs a '" + std::string(kind == "refusal" ? kind : "text") + "' that is a string");
            return std::nullopt;
        }
        parts.push_back(json::object{{"type", "text"}, {"text", text->get_string()}});
    }
    if (parts.empty()) { return json::value(json::string()); }
    if (parts.size() == 1) { return parts.front().get_object().at("text"); }
    return json::value(std::move(parts));
}

}  // namespace gateway
