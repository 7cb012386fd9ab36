#pragma once

#include "gateway/openai/request_form.h"

namespace gateway {

/// The one argument that the model knows a tool of the type `custom` by.
inline constexpr const char* kCustomInput = "input";

/// What the model knows a tool in a namespace as, NAMESPACE__NAME; without a namespace its name.
std::string flat_tool_name(std::string_view name_space, std::string_view name);

/// Reads and checks a body of /v1/responses: items of the conversation become messages of a chat, its fields a chat's.
/// Nothing is stored, so that what refers to earlier answers is refused. Pure. Errors: 400 with param, in the names of
/// this endpoint; 404 model_not_found.
ApiResult<RequestForm> read_responses_form(const boost::json::object& body, const FormLimits& limits,
                                           const Models& models);

}  // namespace gateway
