#include "proto/errors.h"

#include <algorithm>
#include <limits>
#include <string>
#include <string_view>

#include "base/log.h"

namespace sluice::proto {
namespace {

/// Does not change what it made itself, so that a text may pass several processes.
std::string printable(std::string_view text, std::size_t bytes_max) {
    const bool is_printable = std::all_of(text.begin(), text.end(), [](char c) { return c >= 0x20 && c < 0x7f; });
    std::string safe = is_printable ? std::string(text.substr(0, bytes_max)) : base::log_safe(text, bytes_max);
    if (safe.size() > bytes_max) { safe.resize(bytes_max); }
    return safe;
}

}  // namespace

void set_error(Error& out, const base::Error& error, std::size_t message_bytes_max) {
    out.set_code(static_cast<std::uint32_t>(base::grpc_status_number(error.code)));
    out.set_message(printable(error.message, message_bytes_max));
}

base::Error error_of(const Error& error) {
    const std::uint32_t number = std::min<std::uint32_t>(error.code(), std::numeric_limits<int>::max());
    return {base::error_code_from_grpc(static_cast<int>(number)), printable(error.message(), kErrorMessageBytesMax)};
}

}  // namespace sluice::proto
