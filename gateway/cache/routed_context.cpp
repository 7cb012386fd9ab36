#include "gateway/cache/routed_context.h"

#include <boost/json.hpp>

#include "base/check.h"

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::string_view kReasoningEnd = "</think>";

/// A content that is text: a string, or parts that all are text.
std::optional<std::string> plain_text(const json::value* content) {
    if (content == nullptr) { return std::nullopt; }
    if (content->is_string()) { return std::string(content->get_string()); }
    if (!content->is_array()) { return std::nullopt; }
    std::string text;
    for (const json::value& part : content->get_array()) {
        const json::object* object = part.if_object();
        const json::value* one = object == nullptr ? nullptr : object->if_contains("text");
        if (one == nullptr || !one->is_string()) { return std::nullopt; }
        text += one->get_string();
        text += '\n';
    }
    return text;
}

bool has_role(const json::object& message, std::string_view role) {
    const json::value* value = message.if_contains("role");
    return value != nullptr && value->is_string() && std::string_view(value->get_string()) == role;
}

}  // namespace

std::optional<SingleQuestion> single_question(const json::object& context) {
    const json::value* list = context.if_contains("messages");
    if (list == nullptr || !list->is_array()) { return std::nullopt; }
    const json::array& messages = list->get_array();
    if (messages.empty() || messages.size() > 2) { return std::nullopt; }
    SingleQuestion result;
    for (std::size_t at = 0; at < messages.size(); ++at) {
        const json::object* message = messages[at].if_object();
        if (message == nullptr || message->contains("tool_calls")) { return std::nullopt; }
        const auto text = plain_text(message->if_contains("content"));
        if (!text) { return std::nullopt; }
        const bool is_last = at + 1 == messages.size();
        if (is_last ? !has_role(*message, "user") : !has_role(*message, "system") && !has_role(*message, "developer")) {
            return std::nullopt;
        }
        (is_last ? result.text : result.system) = *text;
    }
    return result;
}

void insert_examples(json::object& context, const std::string& examples) {
    json::array& messages = context.at("messages").as_array();
    json::object& first = messages.front().as_object();
    if (has_role(first, "user")) {
        messages.insert(messages.begin(), json::object{{"role", "system"}, {"content", examples}});
        return;
    }
    json::value& content = first.at("content");
    if (content.is_string()) {
        content = std::string(content.get_string()) + "\n\n" + examples;
    } else {
        content.as_array().push_back(json::object{{"type", "text"}, {"text", "\n\n" + examples}});
    }
}

std::string with_question(std::string_view context, const std::string& question, const std::string& examples) {
    boost::system::error_code error;
    json::parse_options depth;
    depth.max_depth = 256;  // it is ours: deeper than what a client may send by the levels around it
    json::value parsed = json::parse(context, error, {}, depth);
    json::object* fields = error ? nullptr : parsed.if_object();
    CHECK(fields != nullptr && single_question(*fields));
    fields->at("messages").as_array().back().as_object()["content"] = question;
    if (!examples.empty()) { insert_examples(*fields, examples); }
    return json::serialize(parsed);
}

std::string without_reasoning(const std::string& answer) {
    const auto end = answer.find(kReasoningEnd);
    return end == std::string::npos ? answer : answer.substr(end + kReasoningEnd.size());
}

}  // namespace gateway
