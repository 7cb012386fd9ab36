#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string_view>

#include "gateway/request/models.h"

namespace gateway {

/// The endpoints that a model answers.
enum class Endpoint { chat, completions, embeddings };

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
};

inline constexpr std::array<EndpointForm, 3> kEndpoints = {{
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
     .has_roles = true},
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
     .has_roles = false},
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
     .has_roles = false},
}};

constexpr const EndpointForm& form_of(Endpoint endpoint) {
    return kEndpoints[static_cast<std::size_t>(endpoint)];
}
static_assert(form_of(Endpoint::chat).endpoint == Endpoint::chat);
static_assert(form_of(Endpoint::completions).endpoint == Endpoint::completions);
static_assert(form_of(Endpoint::embeddings).endpoint == Endpoint::embeddings);

}  // namespace gateway
