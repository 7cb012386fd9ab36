#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "gateway/request/models.h"

namespace gateway {

/// The endpoints that a model answers.
enum class Endpoint { chat, completions, embeddings, responses, messages };

/// How they differ, as far as that is data.
struct EndpointForm {
    Endpoint endpoint;
    ModelKind kind;                                   // of the models that answer
    std::string_view path;                            // without /v1
    std::string_view name;                            // in metrics
    std::string_view id_prefix;                       // of an answer's id
    std::string_view prompt_field;                    // that errors about the prompt name
    std::string_view whole_object;                    // `object` of a whole answer
    std::string_view chunk_object;                    // and of a chunk of a stream
    std::uint32_t new_tokens_low;                     // least value of max_tokens
    std::optional<std::uint32_t> new_tokens_default;  // absent: what the context leaves
    bool adds_special;                                // BOS and the like, where the client does not say
    bool has_roles;                                   // a stream begins with a chunk that names the role
    bool is_chat;                                     // its prompt is made of messages by the chat template
    bool cuts_new_tokens;                             // more new tokens than the context leaves are no error
};

inline constexpr std::array<EndpointForm, 5> kEndpoints = {{
    {.endpoint = Endpoint::chat,
     .kind = ModelKind::text,
     .path = "/chat/completions",
     .name = "chat",
     .id_prefix = "chatcmpl-",
     .prompt_field = "messages",
     .whole_object = "chat.completion",
     .chunk_object = "chat.completion.chunk",
     .new_tokens_low = 1,
     .new_tokens_default = std::nullopt,
     .adds_special = false,
     .has_roles = true,
     .is_chat = true,
     .cuts_new_tokens = false},
    {.endpoint = Endpoint::completions,
     .kind = ModelKind::text,
     .path = "/completions",
     .name = "completions",
     .id_prefix = "cmpl-",
     .prompt_field = "prompt",
     .whole_object = "text_completion",
     .chunk_object = "text_completion",
     .new_tokens_low = 0,
     .new_tokens_default = 16,  // OpenAI's
     .adds_special = true,
     .has_roles = false,
     .is_chat = false,
     .cuts_new_tokens = false},
    {.endpoint = Endpoint::embeddings,
     .kind = ModelKind::vectors,
     .path = "/embeddings",
     .name = "embeddings",
     .id_prefix = "",
     .prompt_field = "input",
     .whole_object = "list",
     .chunk_object = "",
     .new_tokens_low = 0,
     .new_tokens_default = std::nullopt,
     .adds_special = true,
     .has_roles = false,
     .is_chat = false,
     .cuts_new_tokens = false},
    {.endpoint = Endpoint::responses,
     .kind = ModelKind::text,
     .path = "/responses",
     .name = "responses",
     .id_prefix = "resp_",
     .prompt_field = "input",
     .whole_object = "response",
     .chunk_object = "",
     .new_tokens_low = 1,
     .new_tokens_default = std::nullopt,
     .adds_special = false,
     .has_roles = false,
     .is_chat = true,
     .cuts_new_tokens = false},
    {.endpoint = Endpoint::messages,
     .kind = ModelKind::text,
     .path = "/messages",
     .name = "messages",
     .id_prefix = "msg_",
     .prompt_field = "messages",
     .whole_object = "message",
     .chunk_object = "",
     .new_tokens_low = 1,
     .new_tokens_default = std::nullopt,
     .adds_special = false,
     .has_roles = false,
     .is_chat = true,
     .cuts_new_tokens = true},  // max_tokens must be given, and clients know no contexts
}};

constexpr const EndpointForm& form_of(Endpoint endpoint) {
    return kEndpoints[static_cast<std::size_t>(endpoint)];
}
static_assert(form_of(Endpoint::chat).endpoint == Endpoint::chat);
static_assert(form_of(Endpoint::completions).endpoint == Endpoint::completions);
static_assert(form_of(Endpoint::embeddings).endpoint == Endpoint::embeddings);
static_assert(form_of(Endpoint::responses).endpoint == Endpoint::responses);
static_assert(form_of(Endpoint::messages).endpoint == Endpoint::messages);

}  // namespace gateway
