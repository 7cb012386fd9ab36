#pragma once

#include <cstddef>
#include <filesystem>
#include <string>

#include "base/result.h"

namespace engine {

/// A whole small file. Error: not_found, permission_denied, invalid_argument (no regular file, or longer than
/// `bytes_max`), internal (input/output error); the message names the path.
base::Result<std::string> read_file(const std::filesystem::path& path, std::size_t bytes_max);

/// The error of a system call on `path`: "open /x: No such file or directory", with the code that fits `error_number`.
base::Error system_error(const std::string& what, const std::filesystem::path& path, int error_number);

}  // namespace engine
