#pragma once

#include <sstream>
#include <string>
#include <string_view>

namespace base {

/// Prints the failed condition with its place and message to stderr and aborts. Called by CHECK only.
[[noreturn]] void check_failed(std::string_view condition, std::string_view file, int line, const std::string& message);

}  // namespace base

// Catch2 has a macro of the same name; in a test file Catch's wins (tests/support/catch.h is included last there).
#ifndef CHECK
/// Stops the process when `condition` is false: for what only a bug can cause. Always compiled in.
/// The optional second argument is streamed: `CHECK(id < size, "block " << id << " of " << size)`.
#define CHECK(condition, ...)                                                           \
    do {                                                                                \
        if (!(condition)) [[unlikely]] {                                                \
            std::ostringstream check_message_;                                          \
            __VA_OPT__(check_message_ << __VA_ARGS__;)                                  \
            ::base::check_failed(#condition, __FILE__, __LINE__, check_message_.str()); \
        }                                                                               \
    } while (false)
#endif
