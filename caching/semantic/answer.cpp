#include "caching/semantic/answer.h"

#include <boost/json.hpp>

#include "caching/semantic/words.h"

namespace caching {
namespace {

constexpr std::int64_t kForm = 1;

std::uint64_t count_of(const boost::json::object& fields, std::string_view name) {
    const boost::json::value* value = fields.if_contains(name);
    if (value == nullptr) { return 0; }
    boost::system::error_code error;
    const auto count = value->to_number<std::uint64_t>(error);
    return error ? 0 : count;
}

std::string text_of(const boost::json::object& fields, std::string_view name) {
    const boost::json::value* value = fields.if_contains(name);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
}

}  // namespace

std::string to_document(const Answer& answer) {
    boost::json::object fields{{"form", kForm},
                               {"model", answer.model},
                               {"finish_reason", answer.finish_reason},
                               {"content", answer.content},
                               {"prompt_tokens", answer.prompt_tokens},
                               {"completion_tokens", answer.completion_tokens},
                               {"created_unix_us", answer.created_unix_us}};
    if (answer.cached_tokens != 0) { fields["cached_tokens"] = answer.cached_tokens; }
    if (answer.stop_string) { fields["stop_string"] = *answer.stop_string; }
    if (answer.stop_token) { fields["stop_token"] = *answer.stop_token; }
    if (!answer.reasoning.empty()) { fields["reasoning"] = answer.reasoning; }
    if (answer.reasoning_tokens != 0) { fields["reasoning_tokens"] = answer.reasoning_tokens; }
    if (!answer.refusal.empty()) { fields["refusal"] = answer.refusal; }
    if (!answer.tool_calls.empty()) { fields["tool_calls"] = answer.tool_calls; }
    return boost::json::serialize(fields);
}

base::Result<Answer> from_document(std::string_view document) {
    boost::system::error_code error;
    const boost::json::value parsed = boost::json::parse(document, error);
    const boost::json::object* fields = error ? nullptr : parsed.if_object();
    if (fields == nullptr || count_of(*fields, "form") != kForm || text_of(*fields, "finish_reason").empty()) {
        return base::fail(base::ErrorCode::data_loss,
                          "a cached answer of " + std::to_string(document.size()) + " bytes is no document of form 1");
    }
    Answer answer;
    answer.content = text_of(*fields, "content");
    answer.reasoning = text_of(*fields, "reasoning");
    answer.refusal = text_of(*fields, "refusal");
    answer.tool_calls = text_of(*fields, "tool_calls");
    answer.finish_reason = text_of(*fields, "finish_reason");
    answer.model = text_of(*fields, "model");
    answer.prompt_tokens = count_of(*fields, "prompt_tokens");
    answer.cached_tokens = count_of(*fields, "cached_tokens");
    answer.completion_tokens = count_of(*fields, "completion_tokens");
    if (fields->contains("stop_string")) { answer.stop_string = text_of(*fields, "stop_string"); }
    if (fields->contains("stop_token")) {
        answer.stop_token = static_cast<std::int64_t>(count_of(*fields, "stop_token"));
    }
    answer.reasoning_tokens = count_of(*fields, "reasoning_tokens");
    answer.created_unix_us = static_cast<std::int64_t>(count_of(*fields, "created_unix_us"));
    return answer;
}

std::uint64_t meaning_of(const Answer& answer) {
    const std::string text = canonical_text(answer.content) + '\x1f' + answer.refusal + '\x1f' + answer.tool_calls;
    const std::uint64_t high = feature_hash("m", text);
    return (high << 32) | feature_hash("M", text) | 1U;
}

bool may_be_stored(const Answer& answer) {
    return answer.finish_reason == "stop" && answer.refusal.empty() && answer.tool_calls.empty() &&
           !answer.content.empty();
}

}  // namespace caching
