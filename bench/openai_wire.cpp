#include "bench/openai_wire.h"

#include <boost/json.hpp>
#include <limits>

#include "base/check.h"

namespace bench {
namespace {

namespace json = boost::json;

const json::value* find(const json::value* value, std::string_view name) {
    if (value == nullptr || !value->is_object()) { return nullptr; }
    return value->get_object().if_contains(name);
}

bool is_text(const json::value* value) {
    return value != nullptr && value->is_string() && !value->get_string().empty();
}

std::uint32_t count_field(const json::value* object, std::string_view name) {
    const json::value* value = find(object, name);
    if (value == nullptr || !value->is_int64()) { return 0; }
    const std::int64_t count = value->get_int64();
    if (count < 0 || count > std::numeric_limits<std::uint32_t>::max()) { return 0; }
    return static_cast<std::uint32_t>(count);
}

std::string message_of(const json::value& error) {
    const json::value* message = find(&error, "message");
    if (message != nullptr && message->is_string()) { return std::string(message->get_string()); }
    if (error.is_string()) { return std::string(error.get_string()); }
    return json::serialize(error);
}

}  // namespace

std::string_view endpoint_path(Endpoint endpoint) {
    return endpoint == Endpoint::chat ? "/chat/completions" : "/completions";
}

namespace {

/// The fields that both endpoints have.
std::string finish_body(json::object body, const RequestForm& form, std::uint32_t output_tokens) {
    body["model"] = form.model;
    body[form.endpoint == Endpoint::chat ? "max_completion_tokens" : "max_tokens"] = output_tokens;
    body["temperature"] = form.temperature;
    body["stream"] = true;
    body["stream_options"] = json::object{{"include_usage", true}};
    if (form.ignore_eos) { body["ignore_eos"] = true; }
    return json::serialize(body);
}

}  // namespace

std::string request_body(const RequestForm& form, const Prompt& prompt, std::uint32_t output_tokens) {
    json::object body;
    const auto* text = std::get_if<std::string>(&prompt);
    if (form.endpoint == Endpoint::chat) {
        CHECK(text != nullptr);
        body["messages"] = json::array{json::object{{"role", "user"}, {"content", *text}}};
    } else if (text != nullptr) {
        body["prompt"] = *text;
    } else {
        const auto& ids = std::get<std::vector<std::int32_t>>(prompt);
        body["prompt"] = json::array(ids.begin(), ids.end());
    }
    return finish_body(std::move(body), form, output_tokens);
}

std::string request_body(const RequestForm& form, std::span<const Message> messages, std::uint32_t output_tokens) {
    json::object body;
    if (form.endpoint == Endpoint::chat) {
        json::array all;
        for (const Message& message : messages) {
            all.push_back(json::object{{"role", message.role}, {"content", message.content}});
        }
        body["messages"] = std::move(all);
    } else {
        std::string text;
        for (const Message& message : messages) {
            text += (text.empty() ? "" : " ") + message.content;
        }
        body["prompt"] = std::move(text);
    }
    return finish_body(std::move(body), form, output_tokens);
}

base::Result<StreamEvent> parse_stream_event(std::string_view data) {
    StreamEvent event;
    if (data.starts_with("[DONE]")) {
        event.is_done = true;
        return event;
    }
    boost::system::error_code error;
    const json::value value = json::parse(data, error);
    if (error || !value.is_object()) {
        return base::fail(base::ErrorCode::data_loss,
                          "an event that is not a JSON object: " + std::string(data.substr(0, 100)));
    }
    if (const json::value* failure = find(&value, "error"); failure != nullptr && !failure->is_null()) {
        event.error = message_of(*failure);
    }
    const json::value* choices = find(&value, "choices");
    if (choices != nullptr && choices->is_array() && !choices->get_array().empty()) {
        const json::value* choice = &choices->get_array().front();
        const json::value* delta = find(choice, "delta");
        event.has_text = is_text(find(choice, "text")) || is_text(find(delta, "content")) ||
                         is_text(find(delta, "reasoning")) || is_text(find(delta, "reasoning_content"));
        for (const json::value* text : {find(choice, "text"), find(delta, "content")}) {
            if (is_text(text)) { event.text = text->get_string(); }
        }
        event.is_finish = is_text(find(choice, "finish_reason"));
    }
    if (const json::value* usage = find(&value, "usage"); usage != nullptr && usage->is_object()) {
        event.usage =
            StreamEvent::Usage{.prompt_tokens = count_field(usage, "prompt_tokens"),
                               .cached_tokens = count_field(find(usage, "prompt_tokens_details"), "cached_tokens"),
                               .output_tokens = count_field(usage, "completion_tokens")};
    }
    return event;
}

std::string error_message_of(std::string_view body) {
    boost::system::error_code error;
    const json::value value = json::parse(body, error);
    if (!error) {
        if (const json::value* failure = find(&value, "error")) { return message_of(*failure); }
        if (find(&value, "message") != nullptr) { return message_of(value); }
    }
    return std::string(body.substr(0, 200));
}

base::Result<std::string> first_model_of(std::string_view body) {
    boost::system::error_code error;
    const json::value value = json::parse(body, error);
    if (error) { return base::fail(base::ErrorCode::data_loss, "the list of models is not JSON"); }
    const json::value* data = find(&value, "data");
    if (data == nullptr || !data->is_array() || data->get_array().empty()) {
        return base::fail(base::ErrorCode::not_found, "the server lists no model");
    }
    const json::value* id = find(&data->get_array().front(), "id");
    if (!is_text(id)) { return base::fail(base::ErrorCode::data_loss, "the first model of the list has no id"); }
    return std::string(id->get_string());
}

}  // namespace bench
