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
enum class TextRoute { tokenize, detokenize, apply_template };

struct TextRouteForm {
    TextRoute route;
    std::string_view path;  // without /v1
    std::string_view name;  // in metrics
};
inline constexpr std::array<TextRouteForm, 4> kTextRoutes = {{
    {.route = TextRoute::tokenize, .path = "/tokenize", .name = "tokenize"},
    {.route = TextRoute::detokenize, .path = "/detokenize", .name = "detokenize"},
    {.route = TextRoute::apply_template, .path = "/apply-template", .name = "apply_template"},
    {.route = TextRoute::apply_template, .path = "/chat/completions/render", .name = "apply_template"},
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

/// Reads a body in the forms of vLLM and llama.cpp and answers it. Thread-safe; slow for long texts, so it runs on the
/// gateway's text threads. Every answer of /tokenize has `tokens`, `count` and `max_model_len`.
/// Errors: 400 with param; 404 model_not_found; those of prepare() for messages.
TextAnswer answer_text(TextRoute route, std::string_view body, const TextContext& context);

}  // namespace gateway
