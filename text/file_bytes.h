#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "base/result.h"

namespace text {

/// The whole file. Errors: not_found; resource_exhausted when it has more than `bytes_max`; unavailable when reading
/// fails.
base::Result<std::string> read_file(const std::filesystem::path& path, std::size_t bytes_max);

}  // namespace text
