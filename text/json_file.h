#pragma once

#include <boost/json.hpp>
#include <cstddef>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>

#include "base/result.h"

namespace text {

/// Reads a file that holds one JSON object. Errors: as read_file; invalid_argument when it is anything else.
base::Result<boost::json::object> read_json_object(const std::filesystem::path& path, std::size_t bytes_max);

/// The text of a special token in tokenizer_config.json: a string, or an object with `content`.
std::optional<std::string> token_text(const boost::json::object& config, std::string_view name);

}  // namespace text
