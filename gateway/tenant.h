#pragma once

#include <string>

#include "gateway/http/gate.h"
#include "gateway/openai/errors.h"

namespace gateway {

/// Whom a request is counted for: the value of the header field `field` (lower case), which a trusted proxy sets;
/// "default" where it is absent or where no field is trusted (empty). Error: 400 when it is given twice (a client's own
/// beside the proxy's), or is not 1 to 64 of A-Z a-z 0-9 . _ : -
ApiResult<std::string> tenant_of(const RequestHead& head, const std::string& field);

}  // namespace gateway
