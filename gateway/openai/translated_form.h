#pragma once

#include <boost/json/fwd.hpp>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>

#include "gateway/openai/fields.h"
#include "gateway/openai/json_writer.h"
#include "gateway/openai/request_form.h"

namespace gateway {

// Requests of other forms than chat completions' (/v1/responses, /v1/messages) are read by being written as one of
// those: what both share is in here.

/// Names of fields of a chat, and what the client calls them.
using FieldNames = std::span<const std::pair<std::string_view, std::string_view>>;

/// Copies what every form of ours takes beside its own fields: sampling, grammars, targets, the template's arguments.
void pass_fields(const boost::json::object& from, boost::json::object& to);
/// The problem of a field, in the client's names.
ApiError in_names_of(ApiError error, FieldNames names);
/// Writes any value without the characters that some clients take for line ends; depth is what parse_body() allows.
void write_value(JsonWriter& json, const boost::json::value& value);

/// Reads a list of texts as chat knows it: a string, or parts of which only texts are taken.
struct TextParts {
    std::span<const std::string_view> types;  // that hold a text in "text"
    /// The content of a message; empty where a problem was left in `fields` under `at`.
    std::optional<boost::json::value> read(Fields& fields, const std::string& at,
                                           const boost::json::value& value) const;
};

}  // namespace gateway
