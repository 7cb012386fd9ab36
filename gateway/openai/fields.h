#pragma once

#include <boost/json/object.hpp>
#include <boost/json/value.hpp>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "base/sampling_ranges.h"
#include "gateway/openai/errors.h"

namespace gateway {

/// Parses a request body. Error: 400 with what is wrong (syntax, depth over 128, invalid UTF-8, not an object).
ApiResult<boost::json::object> parse_body(std::string_view body);

/// Reads typed, range-checked fields of one JSON object. `null` counts as absent. The first problem is kept in
/// `error()`; reads after it still work, so that a form reads straight down and asks once at the end.
class Fields {
public:
    /// `object` is borrowed. `prefix` is put before names in errors ("stream_options.").
    explicit Fields(const boost::json::object& object, std::string prefix = {})
        : object_(object), prefix_(std::move(prefix)) {}

    /// The value, or nullptr when absent or null.
    const boost::json::value* find(std::string_view name) const;
    /// Whole numbers; 3.0 counts as 3, as many clients send it.
    std::optional<std::int64_t> integer(std::string_view name, std::int64_t low, std::int64_t high);
    std::optional<double> number(std::string_view name, const base::NumberRange& range);
    std::optional<bool> boolean(std::string_view name);
    std::optional<std::string> string(std::string_view name, std::size_t bytes_max);
    const boost::json::object* object(std::string_view name);
    const boost::json::array* array(std::string_view name);

    void problem(std::string_view name, std::string message);
    /// The problem of an object inside.
    void pass_on(const ApiError& error) {
        if (!error_) { error_ = error; }
    }
    const std::optional<ApiError>& error() const { return error_; }

private:
    const boost::json::object& object_;
    std::string prefix_;
    std::optional<ApiError> error_;
};

/// A JSON number that is whole and fits; empty otherwise.
std::optional<std::int64_t> whole_number(const boost::json::value& value);

}  // namespace gateway
