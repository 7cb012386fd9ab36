#pragma once

#include <string_view>

namespace text {

/// The argument with which a program becomes a text process (TextProcess).
inline constexpr std::string_view kTextHostCommand = "text-host";

/// The life of a text process: answers TextOps at the socket of the descriptor 3 until the other side closes it. Call
/// first in main(), before there are threads. Returns the exit status.
int text_host_main();

}  // namespace text
