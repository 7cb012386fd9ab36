#include "gateway/openai/fields.h"

#include <boost/json/parse.hpp>
#include <cmath>
#include <limits>

namespace gateway {
namespace {

constexpr std::size_t kDepthMax = 128;  // real JSON schemas reach 63

std::string shown(double value) {
    if (std::floor(value) == value && std::fabs(value) < 1e15) {
        return std::to_string(static_cast<std::int64_t>(value));
    }
    std::string text = std::to_string(value);
    while (text.ends_with('0')) {
        text.pop_back();
    }
    return text;
}

}  // namespace

std::optional<std::int64_t> whole_number(const boost::json::value& value) {
    if (value.is_int64()) { return value.get_int64(); }
    if (value.is_uint64()) { return std::nullopt; }  // beyond 2^63 - 1
    if (!value.is_double()) { return std::nullopt; }
    const double number = value.get_double();
    if (std::floor(number) != number || std::fabs(number) > 9007199254740992.0) { return std::nullopt; }
    return static_cast<std::int64_t>(number);
}

ApiResult<boost::json::object> parse_body(std::string_view body) {
    boost::json::parse_options options;
    options.max_depth = kDepthMax;
    boost::system::error_code error;
    boost::json::value value = boost::json::parse(body, error, {}, options);
    if (error) { return bad_request("", "the request body is not valid JSON: " + error.message()); }
    if (!value.is_object()) { return bad_request("", "the request body must be a JSON object"); }
    return std::move(value.get_object());
}

const boost::json::value* Fields::find(std::string_view name) const {
    const boost::json::value* value = object_.if_contains(name);
    return value == nullptr || value->is_null() ? nullptr : value;
}

void Fields::problem(std::string_view name, std::string message) {
    if (error_) { return; }
    const std::string param = prefix_ + std::string(name);
    error_ = bad_request(param, "'" + param + "' " + std::move(message)).value();
}

std::optional<std::int64_t> Fields::integer(std::string_view name, std::int64_t low, std::int64_t high) {
    const auto* value = find(name);
    if (value == nullptr) { return std::nullopt; }
    const auto number = whole_number(*value);
    if (!number || *number < low || *number > high) {
        std::string range = " from " + std::to_string(low) + " to " + std::to_string(high);
        if (high == std::numeric_limits<std::int64_t>::max()) { range = low == 0 ? " of 0 or more" : " of 64 bits"; }
        problem(name, "must be an integer" + range);
        return std::nullopt;
    }
    return number;
}

std::optional<double> Fields::number(std::string_view name, const base::NumberRange& range) {
    const auto* value = find(name);
    if (value == nullptr) { return std::nullopt; }
    double number = std::numeric_limits<double>::quiet_NaN();
    if (value->is_double()) { number = value->get_double(); }
    if (value->is_int64()) { number = static_cast<double>(value->get_int64()); }
    if (value->is_uint64()) { number = static_cast<double>(value->get_uint64()); }
    if (!range.holds(number)) {
        problem(name, "must be a number from " + shown(range.low) + " to " + shown(range.high));
        return std::nullopt;
    }
    return number;
}

std::optional<bool> Fields::boolean(std::string_view name) {
    const auto* value = find(name);
    if (value == nullptr) { return std::nullopt; }
    if (!value->is_bool()) {
        problem(name, "must be true or false");
        return std::nullopt;
    }
    return value->get_bool();
}

std::optional<std::string> Fields::string(std::string_view name, std::size_t bytes_max) {
    const auto* value = find(name);
    if (value == nullptr) { return std::nullopt; }
    if (!value->is_string() || value->get_string().size() > bytes_max) {
        problem(name, "must be a string of at most " + std::to_string(bytes_max) + " bytes");
        return std::nullopt;
    }
    return std::string(value->get_string().data(), value->get_string().size());
}

const boost::json::object* Fields::object(std::string_view name) {
    const auto* value = find(name);
    if (value == nullptr) { return nullptr; }
    if (!value->is_object()) {
        problem(name, "must be an object");
        return nullptr;
    }
    return &value->get_object();
}

const boost::json::array* Fields::array(std::string_view name) {
    const auto* value = find(name);
    if (value == nullptr) { return nullptr; }
    if (!value->is_array()) {
        problem(name, "must be an array");
        return nullptr;
    }
    return &value->get_array();
}

}  // namespace gateway
