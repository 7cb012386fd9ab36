#include "gateway/openai/response_form.h"

#include <algorithm>
#include <cmath>
#include <ctime>
#include <utility>

#include "gateway/openai/json_writer.h"

namespace gateway {
namespace {

constexpr std::string_view kEventBegin = "data: ";
constexpr std::string_view kEventEnd = "\n\n";
constexpr float kLogprobFloor = -9999.0F;  // JSON has no infinity

float floored(float logprob) {
    return std::isfinite(logprob) ? std::max(logprob, kLogprobFloor) : kLogprobFloor;
}

std::string in_rfc_3339(std::int64_t unix_s) {
    const std::time_t seconds = static_cast<std::time_t>(unix_s);
    std::tm parts{};
    char text[32];
    if (gmtime_r(&seconds, &parts) == nullptr || std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%SZ", &parts) == 0) {
        return "1970-01-01T00:00:00Z";
    }
    return text;
}

std::string_view finish_reason(const AnswerHeader& header, const GenerationEnd& end, bool has_calls) {
    if (end.reason == EndReason::length) { return "length"; }
    if (!has_calls || header.one_call_asked) { return "stop"; }
    return header.older_calls ? "function_call" : "tool_calls";
}

void write_function(JsonWriter& json, std::string_view name, std::string_view arguments) {
    json.begin_object().key("name").string(name).key("arguments").string(arguments).end_object();
}

void write_reasoning(JsonWriter& json, ReasoningFields fields, std::string_view text) {
    const bool has_both = fields == ReasoningFields::both;
    if (has_both || fields == ReasoningFields::reasoning_content) { json.key("reasoning_content").string(text); }
    if (has_both || fields == ReasoningFields::reasoning) { json.key("reasoning").string(text); }
}

void write_message(JsonWriter& json, const AnswerHeader& header, const ChoiceForm& choice) {
    json.begin_object().key("role").string("assistant").key("content");
    choice.text.empty() && !choice.calls.empty() ? json.null() : json.string(choice.text);
    json.key("refusal").null();
    if (!choice.reasoning.empty()) { write_reasoning(json, header.reasoning, choice.reasoning); }
    if (!choice.calls.empty() && header.older_calls) {
        json.key("function_call");
        write_function(json, choice.calls.front().name, choice.calls.front().arguments);
    } else if (!choice.calls.empty()) {
        json.key("tool_calls").begin_array();
        for (const CallForm& call : choice.calls) {
            json.begin_object().key("id").string(call.id).key("type").string("function").key("function");
            write_function(json, call.name, call.arguments);
            json.end_object();
        }
        json.end_array();
    }
    json.end_object();
}

void write_usage_object(JsonWriter& json, const Usage& usage) {
    json.begin_object();
    json.key("prompt_tokens").integer(static_cast<std::int64_t>(usage.prompt_tokens));
    json.key("completion_tokens").integer(static_cast<std::int64_t>(usage.completion_tokens));
    json.key("total_tokens").integer(static_cast<std::int64_t>(usage.prompt_tokens + usage.completion_tokens));
    json.key("prompt_tokens_details").begin_object();
    json.key("cached_tokens").integer(static_cast<std::int64_t>(usage.cached_tokens)).end_object();
    json.key("completion_tokens_details").begin_object();
    json.key("reasoning_tokens").integer(static_cast<std::int64_t>(usage.reasoning_tokens)).end_object();
    if (usage.saved) {
        json.key("response_cache").begin_object().key("hit").boolean(true).key("kind").string(usage.saved->kind);
        json.key("age_s").integer(usage.saved->age_s);
        json.key("saved_prompt_tokens").integer(static_cast<std::int64_t>(usage.saved->prompt_tokens));
        json.key("saved_completion_tokens").integer(static_cast<std::int64_t>(usage.saved->completion_tokens));
        json.end_object();
    }
    json.end_object();
}

void write_tokens(JsonWriter& json, const std::vector<base::TokenId>& tokens) {
    json.begin_array();
    for (const base::TokenId token : tokens) {
        json.integer(token);
    }
    json.end_array();
}

void write_token_logprob(JsonWriter& json, base::TokenId token, float logprob, const TextPort& text) {
    const std::string bytes = text.token_bytes(token);
    json.key("token").string(bytes);
    json.key("logprob").number(floored(logprob));
    json.key("bytes").begin_array();
    for (const char byte : bytes) {
        json.integer(static_cast<unsigned char>(byte));
    }
    json.end_array();
}

void write_chat_logprobs(JsonWriter& json, const LogprobsForm& form, const TextPort& text) {
    json.begin_object().key("content").begin_array();
    for (const TokenRecord& record : form.tokens) {
        json.begin_object();
        write_token_logprob(json, record.token, record.logprob, text);
        json.key("top_logprobs").begin_array();
        for (const auto& [token, logprob] : record.top) {
            json.begin_object();
            write_token_logprob(json, token, logprob, text);
            json.end_object();
        }
        json.end_array().end_object();
    }
    json.end_array().key("refusal").null().end_object();
}

void write_completion_logprobs(JsonWriter& json, const LogprobsForm& form, const TextPort& text) {
    const auto has_none = [&](std::size_t at) { return at == 0 && form.first_has_none; };
    std::vector<std::string> names;
    for (const TokenRecord& record : form.tokens) {
        names.push_back(valid_utf8(text.token_bytes(record.token)));
    }
    json.begin_object().key("text_offset").begin_array();
    for (const TokenRecord& record : form.tokens) {
        json.integer(static_cast<std::int64_t>(record.text_offset));
    }
    json.end_array().key("token_logprobs").begin_array();
    for (std::size_t at = 0; at < names.size(); ++at) {
        has_none(at) ? json.null() : json.number(floored(form.tokens[at].logprob));
    }
    json.end_array().key("tokens").begin_array();
    for (const std::string& name : names) {
        json.string(name);
    }
    json.end_array().key("top_logprobs").begin_array();
    for (std::size_t at = 0; at < names.size(); ++at) {
        if (has_none(at)) {
            json.null();
            continue;
        }
        // An object by token text, the chosen token always in it. Two tokens may look alike: the likelier one stays.
        std::vector<std::pair<std::string, float>> entries;
        const auto add = [&](std::string name, float logprob) {
            const bool is_new =
                std::none_of(entries.begin(), entries.end(), [&](const auto& one) { return one.first == name; });
            if (is_new) { entries.emplace_back(std::move(name), logprob); }
        };
        for (const auto& [token, logprob] : form.tokens[at].top) {
            add(valid_utf8(text.token_bytes(token)), logprob);
        }
        add(names[at], form.tokens[at].logprob);
        json.begin_object();
        for (const auto& [name, logprob] : entries) {
            json.any_key(name).number(floored(logprob));
        }
        json.end_object();
    }
    json.end_array().end_object();
}

void write_stop_reason(JsonWriter& json, const GenerationEnd& end) {
    json.key("stop_reason");
    if (end.stop_string) {
        json.string(*end.stop_string);
    } else if (end.stop_token) {
        json.integer(*end.stop_token);
    } else {
        json.null();
    }
}

void begin(JsonWriter& json, const AnswerHeader& header, std::string_view object) {
    json.begin_object();
    json.key("id").string(header.id);
    json.key("object").string(object);
    json.key("created").integer(header.created);
    json.key("model").string(header.model);
    json.key("system_fingerprint").string(header.fingerprint);
    json.key("choices").begin_array();
}

std::string ended_chunk(JsonWriter& json, const AnswerHeader& header, const std::optional<Usage>& usage) {
    json.end_array();
    if (usage) {
        json.key("usage");
        write_usage_object(json, *usage);
    } else if (header.usage_null) {
        json.key("usage").null();
    }
    json.end_object();
    return json.take_with(kEventEnd);
}

void write_logprobs(JsonWriter& json, Endpoint endpoint, const std::optional<LogprobsForm>& form,
                    const TextPort& text) {
    json.key("logprobs");
    if (!form) {
        json.null();
    } else if (endpoint == Endpoint::chat) {
        write_chat_logprobs(json, *form, text);
    } else {
        write_completion_logprobs(json, *form, text);
    }
}

}  // namespace

ResponseForm::ResponseForm(AnswerHeader header, const TextPort& text) : header_(std::move(header)), text_(text) {
    JsonWriter json;
    begin(json, header_, form_of(header_.endpoint).chunk_object);
    chunk_begin_.append(kEventBegin).append(json.text());
}

std::string ResponseForm::whole(const std::vector<ChoiceForm>& choices, const Usage& usage) const {
    const bool is_chat = header_.endpoint == Endpoint::chat;
    JsonWriter json;
    begin(json, header_, form_of(header_.endpoint).whole_object);
    for (const ChoiceForm& choice : choices) {
        json.begin_object().key("index").integer(choice.index);
        if (is_chat) {
            json.key("message");
            write_message(json, header_, choice);
        } else {
            json.key("text").string(choice.text);
        }
        write_logprobs(json, header_.endpoint, choice.logprobs, text_);
        json.key("finish_reason").string(finish_reason(header_, choice.end, !choice.calls.empty()));
        write_stop_reason(json, choice.end);
        if (choice.token_ids) {
            json.key("token_ids");
            write_tokens(json, *choice.token_ids);
        }
        if (choice.prompt_token_ids) {
            json.key("prompt_token_ids");
            write_tokens(json, *choice.prompt_token_ids);
        }
        json.end_object();
    }
    json.end_array().key("usage");
    write_usage_object(json, usage);
    json.end_object();
    return json.take();
}

std::string ResponseForm::role_chunk(std::uint32_t index, const std::optional<Usage>& usage) const {
    JsonWriter json(chunk_begin_);
    json.begin_object().key("index").integer(index);
    json.key("delta").begin_object().key("role").string("assistant").key("content").string("").end_object();
    json.key("logprobs").null().key("finish_reason").null().end_object();
    return ended_chunk(json, header_, usage);
}

std::string ResponseForm::text_chunk(std::uint32_t index, std::string_view text,
                                     const std::optional<LogprobsForm>& logprobs,
                                     const std::vector<base::TokenId>* token_ids,
                                     const std::optional<Usage>& usage) const {
    JsonWriter json(chunk_begin_);
    json.begin_object().key("index").integer(index);
    if (header_.endpoint == Endpoint::chat) {
        json.key("delta").begin_object().key("content").string(text).end_object();
    } else {
        json.key("text").string(text);
    }
    write_logprobs(json, header_.endpoint, logprobs, text_);
    json.key("finish_reason").null();
    if (token_ids != nullptr) {
        json.key("token_ids");
        write_tokens(json, *token_ids);
    }
    json.end_object();
    return ended_chunk(json, header_, usage);
}

std::string ResponseForm::event_chunk(std::uint32_t index, const AnswerEvent& event, std::string_view call_id,
                                      const std::optional<Usage>& usage) const {
    JsonWriter json(chunk_begin_);
    json.begin_object().key("index").integer(index).key("delta").begin_object();
    const bool begins_call = event.kind == AnswerEvent::Kind::call;
    if (event.kind == AnswerEvent::Kind::content) {
        json.key("content").string(event.text);
    } else if (event.kind == AnswerEvent::Kind::reasoning) {
        write_reasoning(json, header_.reasoning, event.text);
    } else if (header_.older_calls) {
        json.key("function_call").begin_object();
        if (begins_call) { json.key("name").string(event.text); }
        json.key("arguments").string(begins_call ? "" : event.text).end_object();
    } else {
        // Name and id once: clients put together what comes twice.
        json.key("tool_calls").begin_array().begin_object().key("index").integer(event.index);
        if (begins_call) { json.key("id").string(call_id).key("type").string("function"); }
        json.key("function").begin_object();
        if (begins_call) { json.key("name").string(event.text); }
        json.key("arguments").string(begins_call ? "" : event.text);
        json.end_object().end_object().end_array();
    }
    json.end_object().key("logprobs").null().key("finish_reason").null().end_object();
    return ended_chunk(json, header_, usage);
}

std::string ResponseForm::end_chunk(std::uint32_t index, const GenerationEnd& end, const std::optional<Usage>& usage,
                                    bool has_calls) const {
    JsonWriter json(chunk_begin_);
    json.begin_object().key("index").integer(index);
    if (header_.endpoint == Endpoint::chat) {
        json.key("delta").begin_object().end_object();
    } else {
        json.key("text").string("");
    }
    json.key("logprobs").null().key("finish_reason").string(finish_reason(header_, end, has_calls));
    write_stop_reason(json, end);
    json.end_object();
    return ended_chunk(json, header_, usage);
}

std::string ResponseForm::usage_chunk(const Usage& usage) const {
    JsonWriter json(chunk_begin_);
    return ended_chunk(json, header_, usage);
}

std::string model_json(const ModelEntry& model, std::int64_t created) {
    JsonWriter json;
    json.begin_object().key("id").string(model.name).key("object").string("model");
    json.key("created").integer(created).key("owned_by").string("sluice");
    json.key("max_model_len");
    model.context_tokens > 0 ? json.integer(model.context_tokens) : json.null();
    // And as Anthropic's clients know a model; neither minds the names of the other.
    json.key("type")
        .string("model")
        .key("display_name")
        .string(model.name)
        .key("lifecycle")
        .string("active")
        .key("created_at")
        .string(in_rfc_3339(created));
    json.end_object();
    return json.take();
}

std::string models_json(const std::vector<ModelEntry>& models, std::int64_t created) {
    JsonWriter json;
    json.begin_object().key("object").string("list").key("data").begin_array();
    for (const ModelEntry& model : models) {
        json.raw(model_json(model, created));
    }
    json.end_array().key("has_more").boolean(false);
    json.key("first_id");
    models.empty() ? json.null() : json.string(models.front().name);
    json.key("last_id");
    models.empty() ? json.null() : json.string(models.back().name);
    json.end_object();
    return json.take();
}

std::string sse_event(std::string_view json) {
    std::string event;
    event.reserve(kEventBegin.size() + json.size() + kEventEnd.size());
    event.append(kEventBegin).append(json).append(kEventEnd);
    return event;
}

}  // namespace gateway
