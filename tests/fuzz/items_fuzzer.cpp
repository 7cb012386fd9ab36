// Bodies of /v1/responses and /v1/messages: refused with a message, or a form within the limits whose answer, in both
// ways, is JSON. The first byte says which route.
#include <boost/json.hpp>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>
#include <string>
#include <string_view>

#include "gateway/anthropic/messages_answer.h"
#include "gateway/anthropic/messages_form.h"
#include "gateway/openai/fields.h"
#include "gateway/openai/responses_answer.h"
#include "gateway/openai/responses_form.h"
#include "tests/fuzz/no_text.h"

namespace {

using Kind = gateway::AnswerEvent::Kind;

/// Every event is one line of JSON with a name in front; ends the process where one is not.
void check_events(std::string_view stream) {
    while (!stream.empty()) {
        const auto end = stream.find("\n\n");
        const auto data = stream.find("\ndata: ");
        if (end == std::string_view::npos || data > end || !stream.starts_with("event: ")) { std::abort(); }
        const std::string_view json = stream.substr(data + 7, end - data - 7);
        boost::json::error_code error;
        const auto value = boost::json::parse(json, error, {}, fuzz::deep());
        if (error || !value.is_object() || json.find('\n') != std::string_view::npos) { std::abort(); }
        stream.remove_prefix(end + 2);
    }
}

std::unique_ptr<gateway::ItemAnswer> make(const gateway::RequestForm& form, bool streams) {
    gateway::AnswerHeader header;
    header.endpoint = form.endpoint;
    header.id = std::string(gateway::form_of(form.endpoint).id_prefix) + "0123";
    header.model = form.model_name;
    if (form.endpoint == gateway::Endpoint::responses) {
        return std::make_unique<gateway::ResponsesAnswer>(header, form.shown_fields, streams);
    }
    return std::make_unique<gateway::MessagesAnswer>(header, streams);
}

/// Parts as the bytes say.
void answer(const gateway::RequestForm& form, std::string_view bytes) {
    const auto streamed = make(form, true);
    const auto whole = make(form, false);
    const gateway::Usage usage{.prompt_tokens = 3, .cached_tokens = 1, .completion_tokens = 2};
    check_events(streamed->open(usage));
    bool has_call = false;
    for (std::size_t at = 0; at < bytes.size() && at < 256; at += 8) {
        gateway::AnswerEvent event{.kind = static_cast<Kind>(static_cast<unsigned char>(bytes[at]) % 4),
                                   .text = std::string(bytes.substr(at, 8))};
        has_call = has_call || event.kind == Kind::call;
        if (event.kind == Kind::arguments && !has_call) { continue; }  // as no reader gives them
        if (event.kind != Kind::arguments) { has_call = event.kind == Kind::call; }
        check_events(streamed->push(event, "call_1"));
        if (!whole->push(event, "call_1").empty()) { std::abort(); }
    }
    gateway::GenerationEnd end;
    end.reason = bytes.size() % 2 == 0 ? gateway::EndReason::stop : gateway::EndReason::length;
    check_events(streamed->close(end, usage));
    boost::json::error_code error;
    const auto body = boost::json::parse(whole->whole(end, usage), error, {}, fuzz::deep());
    if (error || !body.is_object()) { std::abort(); }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    if (size == 0) { return 0; }
    const std::string body(reinterpret_cast<const char*>(data) + 1, size - 1);
    const auto object = gateway::parse_body(body);
    if (!object) { return 0; }
    const gateway::FormLimits limits;
    const auto form = data[0] % 2 == 0 ? gateway::read_responses_form(*object, limits, fuzz::models())
                                       : gateway::read_messages_form(*object, limits, fuzz::models());
    if (!form) {
        if (form.error().message.empty() || form.error().status < 400 || form.error().status >= 500) { std::abort(); }
        return 0;
    }
    if (!fuzz::in_bounds(*form, limits) || form->n != 1 || form->logprobs || !form->prompts.empty()) { std::abort(); }
    const auto context = boost::json::parse(form->template_context, {}, fuzz::deep());
    if (context.at("messages").as_array().empty()) { std::abort(); }
    answer(*form, body);
    return 0;
}
