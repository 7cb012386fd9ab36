#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>

namespace gateway {

/// Writes JSON text in one pass, in one line: what an SSE event needs. The caller keeps the nesting right.
class JsonWriter {
public:
    JsonWriter() = default;
    /// Goes on behind `begun`, which ends with the opening bracket of an object or a list.
    explicit JsonWriter(std::string_view begun) {
        text_.reserve(begun.size() + kRoom);
        text_ = begun;
    }

    JsonWriter& begin_object() { return open('{'); }
    JsonWriter& end_object() { return close('}'); }
    JsonWriter& begin_array() { return open('['); }
    JsonWriter& end_array() { return close(']'); }
    /// `name` is ours: it needs no escaping.
    JsonWriter& key(std::string_view name);
    /// Any name: escaped as a string is.
    JsonWriter& any_key(std::string_view name);
    /// Bytes that are no valid UTF-8 become U+FFFD. Controls and what clients take for line ends (U+0085, U+2028,
    /// U+2029) are escaped.
    JsonWriter& string(std::string_view value);
    JsonWriter& integer(std::int64_t value);
    /// Finite numbers in plain decimal form, shortest that reads back as the same float; others as null.
    JsonWriter& number(float value);
    JsonWriter& boolean(bool value) { return raw(value ? "true" : "false"); }
    JsonWriter& null() { return raw("null"); }
    /// A value that is JSON already.
    JsonWriter& raw(std::string_view json);

    const std::string& text() const { return text_; }
    std::string take() { return std::move(text_); }
    /// Behind the JSON text.
    std::string take_with(std::string_view rest) {
        text_ += rest;
        return std::move(text_);
    }

private:
    static constexpr std::size_t kRoom = 192;  // for the rest of a chunk with the text of one token

    JsonWriter& open(char bracket);
    JsonWriter& close(char bracket);
    void separate();
    void quote(std::string_view value);

    std::string text_;
    bool needs_comma_ = false;
};

/// `text` as valid UTF-8: each maximal broken part becomes one U+FFFD.
std::string valid_utf8(std::string_view text);

}  // namespace gateway
