#pragma once

#include <string>

namespace base {

/// How spdlog writes a line: `time level role message`.
inline std::string log_pattern(const std::string& role) {
    return "%Y-%m-%dT%H:%M:%S.%e%z %l " + (role.empty() ? "" : role + " ") + "%v";
}

}  // namespace base
