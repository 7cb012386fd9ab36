#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>

// Where something stands in a JSON text, for messages: the parser gives values, a person wants a line. None of these
// reads further than the text; all take time in its length.
namespace base {

/// "line 3, column 18", both from 1; columns are bytes. Beyond the end: of the end.
std::string json_place(std::string_view text, std::size_t offset);

/// What a person should know of a text that a parser has refused at `offset`: the place, the field whose value it is,
/// and, where they stand there, that NaN and Infinity, which Python writes, are no JSON.
std::string describe_json_error(std::string_view text, std::size_t offset);

/// Where the key of a field begins in a valid text: "rope_scaling.factor" is the field `factor` of the outermost
/// object's field `rope_scaling`. The last one of several, which parsers take. Fields whose own names hold points or
/// escapes are not found.
std::optional<std::size_t> find_json_field(std::string_view text, std::string_view path);

/// A key that an object of a valid text has twice, and where it stands for the second time.
struct JsonDuplicate {
    std::string key;  // as written, without the quotes
    std::size_t offset = 0;
};
/// The first one in the object at `path` ("": the outermost one). Takes memory in the number of its keys.
std::optional<JsonDuplicate> find_json_duplicate(std::string_view text, std::string_view path = "");

}  // namespace base
