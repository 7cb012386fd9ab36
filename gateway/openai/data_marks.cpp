#include "gateway/openai/data_marks.h"

#include <boost/json.hpp>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <utility>

namespace gateway {
namespace {

namespace json = boost::json;

constexpr std::uint32_t kFirst = 0xe000;  // of the private-use characters
constexpr std::uint32_t kEnd = 0xf900;
constexpr std::string_view kSpace = " \t\r\n";

std::string utf8_of_three_bytes(std::uint32_t code_point) {
    return {static_cast<char>(0xe0 | (code_point >> 12)), static_cast<char>(0x80 | ((code_point >> 6) & 0x3f)),
            static_cast<char>(0x80 | (code_point & 0x3f))};
}

std::string escape_of(std::uint32_t code_point) {
    char text[8];
    std::snprintf(text, sizeof text, "\\u%04x", code_point);
    return text;
}

/// A private-use character that `text` holds neither as such nor as an escape ("\ue000").
std::optional<std::uint32_t> unused_character(std::string_view text) {
    std::vector<bool> used(kEnd - kFirst);
    const auto use = [&](std::uint32_t code_point) {
        if (code_point >= kFirst && code_point < kEnd) { used[code_point - kFirst] = true; }
    };
    for (std::size_t at = 0; at + 2 < text.size(); ++at) {
        const auto byte = [&](std::size_t ahead) { return static_cast<unsigned char>(text[at + ahead]); };
        if (byte(0) == 0xee || byte(0) == 0xef) {
            use((byte(0) & 0x0fu) << 12 | (byte(1) & 0x3fu) << 6 | (byte(2) & 0x3fu));
        } else if (byte(0) == '\\' && byte(1) == 'u' && at + 6 <= text.size()) {
            std::uint32_t code_point = 0;
            for (const char digit : text.substr(at + 2, 4)) {
                const char small = static_cast<char>(digit | 0x20);
                const int value = digit >= '0' && digit <= '9'   ? digit - '0'
                                  : small >= 'a' && small <= 'f' ? small - 'a' + 10
                                                                 : 0;
                code_point = code_point << 4 | static_cast<std::uint32_t>(value);
            }
            use(code_point);
        }
    }
    for (std::uint32_t index = 0; index < kEnd - kFirst; ++index) {
        if (!used[index]) { return kFirst + index; }
    }
    return std::nullopt;
}

std::size_t trimmed_end(std::string_view text) {
    const auto last = text.find_last_not_of(kSpace);
    return last == std::string_view::npos ? 0 : last + 1;
}

/// Whether a document, as JSON, may hold a special text. Says yes a little too often.
bool may_hold(const SpecialTexts& texts, std::string_view document) {
    if (texts.has_escaped()) { return true; }
    for (std::size_t at = texts.next_begin(document, 0); at < document.size();
         at = texts.next_begin(document, at + 1)) {
        if (texts.begins_at(document, at, document.size(), false)) { return true; }
        // The beginning of one at the end of a string: a quote, or white space and a quote, follow.
        for (std::size_t end = at + 1; end < document.size() && texts.begins_at(document, at, end, false); ++end) {
            const auto next = document.find_first_not_of(" ", end);
            if (next != std::string_view::npos && (document[next] == '"' || document[next] == '\\')) { return true; }
        }
    }
    return false;
}

class Marker {
public:
    Marker(const SpecialTexts& texts, const std::string& mark) : texts_(texts), mark_(mark) {}

    void mark(json::value& value, bool of_assistant) const {
        if (value.is_string()) {
            json::string& text = value.get_string();
            if (auto marked = with_marks({text.data(), text.size()}, of_assistant)) {
                text.assign(marked->data(), marked->size());
            }
        } else if (value.is_array()) {
            for (json::value& item : value.get_array()) {
                mark(item, of_assistant);
            }
        } else if (value.is_object()) {
            mark(value.get_object(), of_assistant);
        }
    }

    void mark(json::object& object, bool of_assistant) const {
        bool is_renamed = false;
        for (auto& item : object) {
            mark(item.value(), of_assistant);
            is_renamed = is_renamed || with_marks({item.key().data(), item.key().size()}, of_assistant).has_value();
        }
        if (!is_renamed) { return; }
        json::object renamed;
        for (auto& item : object) {
            const std::string key(item.key());
            renamed[with_marks(key, of_assistant).value_or(key)] = std::move(item.value());
        }
        object = std::move(renamed);
    }

private:
    /// Empty when the text needs none.
    std::optional<std::string> with_marks(std::string_view text, bool of_assistant) const {
        const std::size_t end = trimmed_end(text);
        std::optional<std::string> result;
        std::size_t copied = 0;
        for (std::size_t at = texts_.next_begin(text, 0); at < text.size(); at = texts_.next_begin(text, at + 1)) {
            if (!texts_.begins_at(text, at, end, of_assistant)) { continue; }
            std::size_t next = at + 1;
            while (next < text.size() && (static_cast<unsigned char>(text[next]) & 0xc0) == 0x80) {
                ++next;
            }
            if (!result) { result.emplace(); }
            *result += text.substr(copied, next - copied);
            *result += mark_;
            copied = next;
        }
        if (result) { *result += text.substr(copied); }
        return result;
    }

    const SpecialTexts& texts_;
    const std::string& mark_;
};

}  // namespace

ApiResult<std::string> DataMarks::mark(std::string context) {
    mark_.clear();
    if (!may_hold(texts_, context)) { return context; }
    const auto character = unused_character(context);
    if (!character) {
        return bad_request("messages",
                           "the request holds every private-use character, so that none is left to mark texts of "
                           "special tokens with");
    }
    mark_ = utf8_of_three_bytes(*character);
    escaped_ = escape_of(*character);
    json::parse_options options;
    options.max_depth = 256;
    json::value value = json::parse(context, {}, options);  // our own text
    const Marker marker(texts_, mark_);
    for (auto& item : value.get_object()) {
        if (item.key() != "messages" || !item.value().is_array()) {
            marker.mark(item.value(), false);  // names of variables are the template's
            continue;
        }
        for (json::value& message : item.value().get_array()) {
            const json::object* fields = message.if_object();
            const json::value* role = fields == nullptr ? nullptr : fields->if_contains("role");
            marker.mark(message, role != nullptr && *role == "assistant");
        }
    }
    return json::serialize(value);
}

DataMarks::Rendered DataMarks::unmark(std::string rendered) const {
    Rendered result;
    if (mark_.empty()) {
        result.text = std::move(rendered);
        return result;
    }
    const std::string_view all = rendered;
    std::size_t copied = 0;
    for (std::size_t at = 0; at < all.size();) {
        const bool is_mark = all.substr(at).starts_with(mark_);
        if (!is_mark && !all.substr(at).starts_with(escaped_)) {
            ++at;
            continue;
        }
        result.text += all.substr(copied, at - copied);
        at += is_mark ? mark_.size() : escaped_.size();
        copied = at;
        std::size_t begin = result.text.size();  // of the character before the mark
        while (begin > 0 && (static_cast<unsigned char>(result.text[begin - 1]) & 0xc0) == 0x80) {
            --begin;
        }
        if (begin > 0) { --begin; }
        if (begin < result.text.size() && (result.text_starts.empty() || result.text_starts.back() < begin)) {
            result.text_starts.push_back(begin);
        }
    }
    result.text += all.substr(copied);
    return result;
}

}  // namespace gateway
