#pragma once

#include <string>
#include <string_view>

#include "gateway/http/exchange.h"

namespace gateway {

/// What every answer begins with, whatever its status.
inline constexpr std::string_view kAnswerStart = "HTTP/1.1 ";

/// Status line and fields of an answer, without framing and the empty line. `content_type` empty: none.
std::string head_text(unsigned status, std::string_view content_type, const HttpFields& fields, bool close);

}  // namespace gateway
