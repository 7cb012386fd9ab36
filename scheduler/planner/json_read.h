#pragma once

#include <boost/json.hpp>
#include <cmath>
#include <optional>
#include <string>
#include <string_view>

#include "base/json_place.h"
#include "base/result.h"

// Reading JSON that people hand over. Internal to this folder and to sim/.
namespace scheduler::planner {

/// Error: invalid_argument with `name`, the place and the field that was being read.
inline base::Result<boost::json::value> parse_json(std::string_view text, const std::string& name) {
    boost::json::stream_parser parser({}, {.max_depth = 32});
    boost::system::error_code error;
    const std::size_t read = parser.write_some(text.data(), text.size(), error);
    if (!error) { parser.finish(error); }
    if (error || read < text.find_last_not_of(" \t\r\n") + 1) {
        return base::fail(base::ErrorCode::invalid_argument,
                          name + ": no valid JSON, " + base::describe_json_error(text, read));
    }
    return parser.release();
}

/// The value at `path` of objects ("npu_mem.mem_size"); null and missing are the same: nothing.
inline const boost::json::value* find_value(const boost::json::value& root, std::string_view path) {
    const boost::json::value* at = &root;
    while (!path.empty()) {
        const std::size_t point = path.find('.');
        if (!at->is_object()) { return nullptr; }
        at = at->get_object().if_contains(path.substr(0, point));
        if (at == nullptr || at->is_null()) { return nullptr; }
        path.remove_prefix(point == std::string_view::npos ? path.size() : point + 1);
    }
    return at;
}

/// The number at `path`, or `fallback` where there is none. Error: invalid_argument for what is no number in
/// [least, most], or is missing where there is no fallback.
inline base::Result<double> number_at(const boost::json::value& root, std::string_view path,
                                      std::optional<double> fallback, double least, double most,
                                      const std::string& name) {
    const boost::json::value* value = find_value(root, path);
    if (value == nullptr && fallback) { return *fallback; }
    boost::system::error_code error;
    const double number = value == nullptr ? 0 : value->to_number<double>(error);
    if (value == nullptr || error || !std::isfinite(number) || number < least || number > most) {
        return base::fail(base::ErrorCode::invalid_argument,
                          name + ": `" + std::string(path) + "` " +
                              (value == nullptr ? "is missing" : "is " + boost::json::serialize(*value)) +
                              "; wanted a number from " + std::to_string(least) + " to " + std::to_string(most));
    }
    return number;
}

/// The text at `path`, or `fallback`.
inline std::string text_at(const boost::json::value& root, std::string_view path, std::string_view fallback) {
    const boost::json::value* value = find_value(root, path);
    return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string(fallback);
}

}  // namespace scheduler::planner
