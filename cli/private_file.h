#pragma once

#include <cstddef>
#include <string>

#include "base/result.h"

namespace cli {

/// The text of a file that holds a secret, at most `bytes_max` bytes. `what` begins the messages: "the cluster's key
/// file PATH". Nothing of the text is in them. Errors: permission_denied when others may read it or more than the owner
/// may change it; invalid_argument when it cannot be read, is no file, or is longer.
base::Result<std::string> read_private_file(const std::string& path, std::size_t bytes_max, const std::string& what);

}  // namespace cli
