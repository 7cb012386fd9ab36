#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "gateway/openai/request_form.h"
#include "gateway/request/models.h"
#include "gateway/request/ports.h"

namespace gateway {

/// Routes about a model's text that need no worker.
enum class TextRoute { tokenize, detokenize, apply_template, input_tokens, count_tokens };

struct TextRouteForm {
    TextRoute route;
    std::string_view path;  // without /v1
    std::string_view name;  // in metrics
    std::string_view scope = "text";
};
inline constexpr std::array<TextRouteForm, 6> kTextRoutes = {{
    {.route = TextRoute::tokenize, .path = "/tokenize", .name = "tokenize"},
    {.route = TextRoute::detokenize, .path = "/detokenize", .name = "detokenize"},
    {.route = TextRoute::apply_template, .path = "/apply-template", .name = "apply_template"},
    {.route = TextRoute::apply_template, .path = "/chat/completions/render", .name = "apply_template"},
    {.route = TextRoute::input_tokens, .path = "/responses/input_tokens", .name = "input_tokens", .scope = "responses"},
    {.route = TextRoute::count_tokens, .path = "/messages/count_tokens", .name = "count_tokens", .scope = "messages"},
}};

/// What a text route is answered with; borrowed for the call.
struct TextContext {
    const FormLimits& limits;
    const Models& models;
    const std::vector<ClusterView>& clusters;  // by model
    std::int64_t now_unix_s;
};

struct TextAnswer {
    std::optional<std::size_t> model = {};  // once it is known
    ApiResult<std::string> json;
};

/// Reads a body in the forms of vLLM and llama.cpp, or one of /v1/responses or /v1/messages whose tokens are to be
/// counted, and answers it. Thread-safe; slow for long texts, so it runs on the
/// gateway's text threads. Every answer of /tokenize has `tokens`, `count` and `max_model_len`.
/// Errors: 400 with param; 404 model_not_found; those of prepare() for messages.
TextAnswer answer_text(TextRoute route, std::string_view body, const TextContext& context);

}  // namespace gateway
