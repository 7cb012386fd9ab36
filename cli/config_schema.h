#pragma once

#include <boost/json.hpp>
#include <map>
#include <string>

#include "base/config_asked.h"

namespace cli {

/// What stands in a key for a name that the user chooses (as in slo_classes.any-name.ttft_ms).
inline constexpr const char* kNamePlaceholder = "any-name";

/// A JSON Schema (draft 2020-12) of the settings: types, defaults, bounds, choices; no other keys are allowed. Numbers
/// may be given as text is on a command line, which the schema does not say. Pure.
boost::json::object config_schema(const std::map<std::string, base::AskedKey>& asked);

/// `value` on lines of their own, as people read it; ends in a new line.
std::string pretty_json(const boost::json::value& value);

}  // namespace cli
