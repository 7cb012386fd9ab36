#pragma once

#include <string>
#include <string_view>

#include "base/result.h"

namespace base {

/// Writes `content` to a file beside `path` and gives it that name once it is whole, so that nobody reads half of one.
/// What is there and is no file (/dev/null, /dev/stdout, a pipe) is written as it is: a new name would take it away,
/// from the whole machine where root does it. Error: unavailable, with the path and why.
Result<void> write_whole_file(const std::string& path, std::string_view content);

}  // namespace base
