#pragma once

#include <spdlog/spdlog.h>
#include <string>
#include <string_view>

namespace base {

/// Where and how this process logs. One line per event on stderr: `time level role message`.
struct LogOptions {
    std::string role;            // put on every line, e.g. "prefill-1"
    std::string level = "info";  // trace debug info warn error off
};

/// Sets spdlog's default logger up. Call once, before threads start. Unknown levels become "info".
void init_log(const LogOptions& options);

/// `text` with control characters (also newlines) escaped and cut to `max_bytes`: for anything a client sent.
std::string log_safe(std::string_view text, std::size_t max_bytes = 200);

}  // namespace base
