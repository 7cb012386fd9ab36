#pragma once

#include <boost/json.hpp>
#include <functional>
#include <iosfwd>

#include "base/result.h"

namespace cli {

/// Reads `in` line by line, up to 64 MiB each; for every line that is not empty writes one line to `out`: what `answer`
/// makes of the parsed object, or {"error": message}. Flushes after each line. A bad line never ends the loop.
void answer_json_lines(std::istream& in, std::ostream& out,
                       const std::function<base::Result<boost::json::object>(const boost::json::object&)>& answer);

}  // namespace cli
