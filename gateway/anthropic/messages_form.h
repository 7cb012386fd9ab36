#pragma once

#include <string_view>

#include "gateway/openai/request_form.h"

namespace gateway {

/// Code of the 400 for a conversation that the client wants to have kept here; error_json() adds the details by which
/// it sends the whole of it from then on.
inline constexpr std::string_view kThreadsUnsupported = "thread_unsupported_request";

/// Reads and checks a body of /v1/messages (also of /v1/messages/count_tokens): its blocks become messages of a chat,
/// its fields a chat's. A last message of the assistant is continued. Pure. Errors: 400 with param, in the names of
/// this endpoint; 404 model_not_found.
ApiResult<RequestForm> read_messages_form(const boost::json::object& body, const FormLimits& limits,
                                          const Models& models);

}  // namespace gateway
