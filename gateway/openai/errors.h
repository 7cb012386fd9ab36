#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include <tl/expected.hpp>

#include "base/result.h"
#include "gateway/http/exchange.h"

namespace gateway {

/// Whose clients an error is told to.
enum class ErrorStyle { openai, anthropic };

/// An error as OpenAI clients know it. The only place where Sluice speaks of HTTP statuses is this folder and http/.
struct ApiError {
    unsigned status = 400;
    std::string message = {};
    std::optional<std::string> param = {};
    std::optional<std::string> code = {};
    std::uint32_t retry_after_s = 0;                   // 1..60; 0: none
    bool is_quota = false;                             // 429 by the bounds of an API key, not by load
    bool repeat_is_useless = false;                    // 5xx, 409 and 429 that cannot succeed: x-should-retry: false
    std::vector<std::string> allow = {};               // 405: methods of the route
    std::optional<std::uint32_t> prompt_tokens = {};   // context_length_exceeded
    std::optional<std::uint32_t> context_tokens = {};  // context_length_exceeded
};

template <class T>
using ApiResult = tl::expected<T, ApiError>;

/// `param` names the field; empty: none.
tl::unexpected<ApiError> bad_request(std::string_view param, std::string message);
inline tl::unexpected<ApiError> pass_on(ApiError error) {
    return tl::unexpected<ApiError>(std::move(error));
}

/// 404: a client named a model that is not served.
ApiError no_such_model(std::string_view name);

/// The status and wording for an error from inside, without the addresses and files that it names. `retry_after_ms` 0:
/// a repeat cannot help.
ApiError api_error(const base::Error& error, std::uint32_t retry_after_ms);

/// {"error":{"message":..,"type":..,"param":..,"code":..}}; all four keys always.
/// With ErrorStyle::anthropic {"type":"error","error":{"type":..,"message":..}}.
std::string error_json(const ApiError& error, ErrorStyle style = ErrorStyle::openai);
HttpResponse error_response(const ApiError& error, ErrorStyle style = ErrorStyle::openai);

/// The `type` that goes with a status.
std::string_view error_type(unsigned status, ErrorStyle style = ErrorStyle::openai);

}  // namespace gateway
