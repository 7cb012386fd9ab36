#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

#include "base/result.h"
#include "bench/workload.h"

namespace bench {

enum class Endpoint { chat, completions };

/// What is the same in every request of a run.
struct RequestForm {
    Endpoint endpoint = Endpoint::chat;
    std::string model;
    bool ignore_eos = true;  // an extension of vLLM, SGLang, llama.cpp and Sluice: answers have the asked length
    double temperature = 0;
};

/// The route below the base, e.g. "/chat/completions".
std::string_view endpoint_path(Endpoint endpoint);

/// A streaming request with usage, as one JSON object. Token ids are only for Endpoint::completions.
std::string request_body(const RequestForm& form, const Prompt& prompt, std::uint32_t output_tokens);

/// One message of a conversation.
struct Message {
    std::string role;  // "user", "assistant"
    std::string content;
};
/// The same with a conversation for Endpoint::chat, or its texts one after the other for Endpoint::completions.
std::string request_body(const RequestForm& form, std::span<const Message> messages, std::uint32_t output_tokens);

/// What one event of a stream says.
struct StreamEvent {
    bool is_done = false;              // data: [DONE]
    bool has_text = false;             // some text of the first choice (content, reasoning or completion text)
    std::string text;                  // of it, without reasoning
    bool is_finish = false;            // the first choice has ended
    std::optional<std::string> error;  // the server's message
    struct Usage {
        std::uint32_t prompt_tokens = 0;
        std::uint32_t cached_tokens = 0;
        std::uint32_t output_tokens = 0;
    };
    std::optional<Usage> usage;
};

/// Error: data_loss when `data` is neither `[DONE]` nor a JSON object.
base::Result<StreamEvent> parse_stream_event(std::string_view data);

/// `error.message` of an error body, else its first bytes.
std::string error_message_of(std::string_view body);

/// The id of the first model of a /v1/models body. Error: not_found when there is none, data_loss when it is not JSON.
base::Result<std::string> first_model_of(std::string_view body);

}  // namespace bench
