#pragma once

#include <cstdint>
#include <string_view>

namespace base {

/// When the first certificate of a PEM text began to hold, in seconds of the UNIX epoch; 0: there is none.
std::int64_t certificate_starts_unix_s(std::string_view pem);

}  // namespace base
