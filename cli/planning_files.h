#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace cli {

/// A file as text, compressed by gzip or not, up to 512 MiB of text. Error: not_found, data_loss,
/// resource_exhausted, with the path.
base::Result<std::string> read_planning_file(const std::string& path);

/// PREFIX + `ending` or PREFIX + `ending` + ".gz", whichever there is. Empty: neither.
std::optional<std::string> find_planning_file(const std::string& prefix, std::string_view ending);

/// Writes text to a file at once, or to standard output for "-". Error: unavailable.
base::Result<void> write_planning_file(const std::string& path, std::string_view text);

}  // namespace cli
