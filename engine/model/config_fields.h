#pragma once

#include <boost/json.hpp>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "base/json_place.h"
#include "base/result.h"
#include "engine/model/shape_bounds.h"

// Reading the JSON files of a Hugging Face folder. Internal to this folder.
namespace engine {

/// A value for a message, cut where it is long.
inline std::string shown(const boost::json::value& value) {
    std::string text = boost::json::serialize(value);
    if (text.size() > 120) { text = text.substr(0, 117) + "..."; }
    return text;
}

/// Fields of one JSON object; remembers the first thing that is wrong.
class Fields {
public:
    /// `object` and `text`, which it was read from, are borrowed. Messages begin with `file` and `prefix`
    /// ("rope_scaling.") and end with the place in `text`.
    Fields(const boost::json::object& object, std::string prefix, std::string_view text,
           std::string file = "config.json")
        : object_(object), prefix_(std::move(prefix)), text_(text), file_(std::move(file)) {}

    /// Null counts as missing, as in Python's config classes.
    const boost::json::value* find(std::string_view name) const {
        const boost::json::value* value = object_.if_contains(name);
        return value == nullptr || value->is_null() ? nullptr : value;
    }

    /// A whole number in [least, most]; `missing` (empty: an error) where the field is.
    std::uint32_t integer(std::string_view name, std::uint32_t least, std::uint32_t most,
                          std::optional<std::uint32_t> missing = {}) {
        const boost::json::value* value = find(name);
        if (value == nullptr) {
            if (!missing) { wrong(base::ErrorCode::invalid_argument, std::string(name) + " is missing"); }
            return missing.value_or(least);
        }
        std::int64_t number = -1;
        if (value->is_int64()) { number = value->get_int64(); }
        if (number < least || number > most) {
            wrong(base::ErrorCode::invalid_argument, std::string(name) + " is " + shown(*value) +
                                                         ", must be an integer in [" + std::to_string(least) + ", " +
                                                         std::to_string(most) + "]");
            return least;
        }
        return static_cast<std::uint32_t>(number);
    }

    double number(std::string_view name, const NumberRange& range, std::optional<double> missing) {
        const boost::json::value* value = find(name);
        if (value == nullptr) {
            if (!missing) { wrong(base::ErrorCode::invalid_argument, std::string(name) + " is missing"); }
            return missing.value_or(range.least);
        }
        double number = std::numeric_limits<double>::quiet_NaN();
        if (value->is_double()) { number = value->get_double(); }
        if (value->is_int64()) { number = static_cast<double>(value->get_int64()); }
        if (value->is_uint64()) { number = static_cast<double>(value->get_uint64()); }
        if (!range.holds(number)) {
            wrong(base::ErrorCode::invalid_argument,
                  std::string(name) + " is " + shown(*value) + ", must be a number in " + std::string(range.shown));
            return range.least;
        }
        return number;
    }

    bool boolean(std::string_view name, bool missing) {
        const boost::json::value* value = find(name);
        if (value == nullptr) { return missing; }
        if (!value->is_bool()) {
            wrong(base::ErrorCode::invalid_argument,
                  std::string(name) + " is " + shown(*value) + ", must be true or false");
            return missing;
        }
        return value->get_bool();
    }

    /// The field must be missing or equal to `only`.
    void only(std::string_view name, const boost::json::value& only) {
        const boost::json::value* value = find(name);
        if (value != nullptr && !same(*value, only)) {
            wrong(base::ErrorCode::unimplemented,
                  std::string(name) + " is " + shown(*value) + ", only " + shown(only) + " is supported");
        }
    }

    /// The field must be missing.
    void none(std::string_view name, const char* why) {
        const boost::json::value* value = find(name);
        if (value != nullptr) {
            wrong(base::ErrorCode::unimplemented, std::string(name) + " is " + shown(*value) + ": " + why);
        }
    }

    /// Keeps the first one. `message` begins with the name of the field.
    void wrong(base::ErrorCode code, std::string message) {
        if (error_) { return; }
        const std::string field = prefix_ + message.substr(0, message.find(' '));
        auto place = base::find_json_field(text_, field);
        if (!place && !prefix_.empty()) { place = base::find_json_field(text_, prefix_.substr(0, prefix_.size() - 1)); }
        error_ = base::Error{code, file_ + ": " + prefix_ + message +
                                       (place ? " (" + base::json_place(text_, *place) + ")" : std::string())};
    }
    void adopt(const Fields& inner) {
        if (!error_) { error_ = inner.error_; }
    }
    const std::optional<base::Error>& error() const { return error_; }

private:
    static bool same(const boost::json::value& a, const boost::json::value& b) {
        if (a.is_number() && b.is_number()) { return a.to_number<double>() == b.to_number<double>(); }
        return a == b;
    }

    const boost::json::object& object_;
    std::string prefix_;
    std::string_view text_;
    std::string file_;
    std::optional<base::Error> error_;
};

/// `architectures[0]` of a config.json. Error: invalid_argument.
inline base::Result<std::string> architecture_in(const boost::json::object& object) {
    const boost::json::value* value = object.if_contains("architectures");
    const std::string wanted = ", must be a list with one name such as \"LlamaForCausalLM\"";
    if (value == nullptr) {
        return base::fail(base::ErrorCode::invalid_argument, "config.json: architectures is missing" + wanted);
    }
    if (!value->is_array() || value->get_array().empty() || !value->get_array()[0].is_string()) {
        return base::fail(base::ErrorCode::invalid_argument, "config.json: architectures is " + shown(*value) + wanted);
    }
    return std::string(value->get_array()[0].get_string());
}

}  // namespace engine
