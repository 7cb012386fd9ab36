#include "engine/model/json_text.h"

#include <algorithm>
#include <utility>

#include "base/json_place.h"
#include "engine/model/config_fields.h"

namespace engine {

namespace json = boost::json;
using base::Result;

Result<json::value> parse_json(std::string_view text, const std::string& file, base::ErrorCode code,
                               std::size_t depth_max) {
    const auto values = static_cast<std::size_t>(std::count(text.begin(), text.end(), ',')) +
                        static_cast<std::size_t>(std::count(text.begin(), text.end(), '[')) +
                        static_cast<std::size_t>(std::count(text.begin(), text.end(), '{'));
    if (values > kJsonValuesMax) {
        return base::fail(code, file + " holds more than " + std::to_string(kJsonValuesMax) + " values");
    }
    json::parse_options options;
    options.max_depth = depth_max;
    json::parser parser({}, options);
    boost::system::error_code error;
    const std::size_t read = parser.write(text.data(), text.size(), error);
    if (error) {
        return base::fail(
            code, file + " is not valid JSON: " + error.message() + " at " + base::describe_json_error(text, read));
    }
    return parser.release();
}

Result<json::object> parse_json_object(std::string_view text, const std::string& file, base::ErrorCode code,
                                       std::size_t depth_max) {
    auto document = parse_json(text, file, code, depth_max);
    if (!document) { return base::pass_on(document); }
    if (!document->is_object()) { return base::fail(code, file + " is not a JSON object: " + shown(*document)); }
    return std::move(document->get_object());
}

}  // namespace engine
