#pragma once

#include <boost/json.hpp>
#include <cstddef>
#include <string>
#include <string_view>

#include "base/result.h"

// Reading the JSON files of a model. Internal to this folder.
namespace engine {

/// Values of one file at most: the index of the largest known models has some hundred thousand. Bounds the memory that
/// a text of commas and brackets takes to 24 bytes for each.
inline constexpr std::size_t kJsonValuesMax = 4'000'000;
inline constexpr std::size_t kJsonDepthMax = 32;

/// Error: `code`, with `file`, line and column, and the field that was being read.
base::Result<boost::json::value> parse_json(std::string_view text, const std::string& file, base::ErrorCode code,
                                            std::size_t depth_max = kJsonDepthMax);
/// The same of a text that must be an object.
base::Result<boost::json::object> parse_json_object(std::string_view text, const std::string& file,
                                                    base::ErrorCode code, std::size_t depth_max = kJsonDepthMax);

}  // namespace engine
