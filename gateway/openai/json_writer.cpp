#include "gateway/openai/json_writer.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <cstdio>

namespace gateway {
namespace {

/// Length of the valid UTF-8 sequence at the start of `text` (> 0), or 0; then `broken` is the length of the bad part.
std::size_t sequence_length(std::string_view text, std::size_t& broken) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(text[at]); };
    const unsigned char first = byte(0);
    broken = 1;
    if (first < 0x80) { return 1; }
    std::size_t length = 0;
    unsigned char low = 0x80;
    unsigned char high = 0xbf;
    if (first >= 0xc2 && first <= 0xdf) {
        length = 2;
    } else if (first >= 0xe0 && first <= 0xef) {
        length = 3;
        if (first == 0xe0) { low = 0xa0; }
        if (first == 0xed) { high = 0x9f; }
    } else if (first >= 0xf0 && first <= 0xf4) {
        length = 4;
        if (first == 0xf0) { low = 0x90; }
        if (first == 0xf4) { high = 0x8f; }
    } else {
        return 0;
    }
    for (std::size_t at = 1; at < length; ++at) {
        if (at >= text.size() || byte(at) < low || byte(at) > high) {
            broken = at;
            return 0;
        }
        low = 0x80;
        high = 0xbf;
    }
    return length;
}

/// How many bytes at the start of `text` stand for themselves in a string.
std::size_t plain_length(std::string_view text) {
    const auto is_plain = [](char c) { return c >= ' ' && c <= '~' && c != '"' && c != '\\'; };
    return static_cast<std::size_t>(std::find_if_not(text.begin(), text.end(), is_plain) - text.begin());
}

constexpr std::string_view kReplacement = "\xef\xbf\xbd";

/// Valid in JSON as they are, but some clients take them for the end of a line, or drop them: the C1 controls (U+0085
/// among them) and the separators U+2028 and U+2029. The code point, or 0.
unsigned code_point_to_escape(std::string_view sequence) {
    const auto byte = [&](std::size_t at) { return static_cast<unsigned char>(sequence[at]); };
    if (sequence.size() == 2 && byte(0) == 0xc2 && byte(1) < 0xa0) { return byte(1); }
    if (sequence.size() == 3 && byte(0) == 0xe2 && byte(1) == 0x80 && (byte(2) == 0xa8 || byte(2) == 0xa9)) {
        return 0x2000u + (byte(2) & 0x3fu);
    }
    return 0;
}

}  // namespace

std::string valid_utf8(std::string_view text) {
    std::string result;
    result.reserve(text.size());
    while (!text.empty()) {
        std::size_t broken = 0;
        const std::size_t length = sequence_length(text, broken);
        result += length > 0 ? text.substr(0, length) : kReplacement;
        text.remove_prefix(length > 0 ? length : broken);
    }
    return result;
}

JsonWriter& JsonWriter::open(char bracket) {
    separate();
    text_ += bracket;
    needs_comma_ = false;
    return *this;
}

JsonWriter& JsonWriter::close(char bracket) {
    text_ += bracket;
    needs_comma_ = true;
    return *this;
}

void JsonWriter::separate() {
    if (needs_comma_) { text_ += ','; }
    needs_comma_ = true;
}

JsonWriter& JsonWriter::key(std::string_view name) {
    separate();
    text_ += '"';
    text_ += name;
    text_ += "\":";
    needs_comma_ = false;
    return *this;
}

JsonWriter& JsonWriter::any_key(std::string_view name) {
    separate();
    quote(name);
    text_ += ':';
    needs_comma_ = false;
    return *this;
}

JsonWriter& JsonWriter::string(std::string_view value) {
    separate();
    quote(value);
    return *this;
}

void JsonWriter::quote(std::string_view value) {
    text_ += '"';
    while (!value.empty()) {
        if (const std::size_t plain = plain_length(value); plain > 0) {
            text_ += value.substr(0, plain);
            value.remove_prefix(plain);
            continue;
        }
        std::size_t broken = 0;
        const std::size_t length = sequence_length(value, broken);
        if (length == 0) {
            text_ += kReplacement;
            value.remove_prefix(broken);
            continue;
        }
        const auto byte = static_cast<unsigned char>(value.front());
        if (byte == '"' || byte == '\\') {
            text_ += '\\';
            text_ += value.front();
        } else if (byte == '\n') {
            text_ += "\\n";
        } else if (byte == '\r') {
            text_ += "\\r";
        } else if (byte == '\t') {
            text_ += "\\t";
        } else if (const unsigned code_point =
                       byte < 0x20 || byte == 0x7f ? byte : code_point_to_escape(value.substr(0, length));
                   code_point > 0 || byte == 0) {
            char escaped[8];
            std::snprintf(escaped, sizeof escaped, "\\u%04x", code_point & 0xffffu);
            text_ += escaped;
        } else {
            text_ += value.substr(0, length);
        }
        value.remove_prefix(length);
    }
    text_ += '"';
}

JsonWriter& JsonWriter::integer(std::int64_t value) {
    separate();
    text_ += std::to_string(value);
    return *this;
}

JsonWriter& JsonWriter::number(float value) {
    if (!std::isfinite(value)) { return null(); }
    separate();
    char digits[64];  // the longest float in fixed form has 39 digits before or 47 after the point
    const auto end = std::to_chars(digits, digits + sizeof digits, value, std::chars_format::fixed).ptr;
    std::string_view shown(digits, static_cast<std::size_t>(end - digits));
    text_ += shown;
    if (shown.find('.') == std::string_view::npos) { text_ += ".0"; }
    return *this;
}

JsonWriter& JsonWriter::raw(std::string_view json) {
    separate();
    text_ += json;
    return *this;
}

}  // namespace gateway
