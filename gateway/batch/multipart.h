#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "gateway/openai/errors.h"

namespace gateway {

/// One field of a form.
struct FormPart {
    std::string name;
    std::string filename;    // empty: a plain field
    std::string_view bytes;  // of the body that was read
};

inline constexpr std::size_t kFormPartsMax = 32;

/// Reads `multipart/form-data` (RFC 7578) as clients send a file with fields beside it. `body` must outlive the parts.
/// Errors: 415 for another type, 400 for a body that is not of the form, ends early or has more than kFormPartsMax
/// parts.
ApiResult<std::vector<FormPart>> read_form(std::string_view content_type, std::string_view body);

}  // namespace gateway
