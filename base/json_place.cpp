#include "base/json_place.h"

#include <algorithm>
#include <cctype>
#include <unordered_set>
#include <vector>

namespace base {
namespace {

constexpr std::size_t kShownMax = 100;

/// Behind the string that begins at `at` with its quote; the end of the text where it does not end.
std::size_t end_of_string(std::string_view text, std::size_t at) {
    for (++at; at < text.size(); ++at) {
        if (text[at] == '\\') {
            ++at;
        } else if (text[at] == '"') {
            return at + 1;
        }
    }
    return text.size();
}

std::size_t skip_blanks(std::string_view text, std::size_t at) {
    while (at < text.size() && (text[at] == ' ' || text[at] == '\t' || text[at] == '\n' || text[at] == '\r')) {
        ++at;
    }
    return at;
}

/// Calls found(key, offset of its quote, keys around it, whether a list is around it) for each key. The views are of
/// `text`.
template <class Found>
void for_each_key(std::string_view text, const Found& found) {
    struct Level {
        std::string_view key;  // that holds this object or list
        bool is_list = false;
    };
    std::vector<Level> levels;
    std::string_view last_key;
    for (std::size_t at = 0; at < text.size();) {
        const char c = text[at];
        if (c == '"') {
            const std::size_t end = end_of_string(text, at);
            const std::size_t behind = skip_blanks(text, end);
            if (behind < text.size() && text[behind] == ':' && end >= at + 2) {
                last_key = text.substr(at + 1, end - at - 2);
                found(last_key, at, levels);
            }
            at = end;
            continue;
        }
        if (c == '{' || c == '[') {
            levels.push_back({.key = last_key, .is_list = c == '['});
            last_key = {};
        } else if ((c == '}' || c == ']') && !levels.empty()) {
            levels.pop_back();
        }
        ++at;
    }
}

/// Whether the objects around a key are those that `path` names, the outermost one first.
template <class Levels>
bool is_at(const Levels& levels, std::string_view path) {
    if (levels.empty() || levels[0].is_list) { return false; }
    for (std::size_t i = 1; i < levels.size(); ++i) {
        const std::string_view name = path.substr(0, path.find('.'));
        if (path.empty() || levels[i].is_list || levels[i].key != name) { return false; }
        path.remove_prefix(std::min(path.size(), name.size() + 1));
    }
    return path.empty();
}

std::string printable(std::string_view text) {
    std::string shown(text.substr(0, kShownMax));
    std::replace_if(shown.begin(), shown.end(), [](char c) { return (c >= 0 && c < 0x20) || c == 0x7f; }, '?');
    return text.size() > kShownMax ? shown + "..." : shown;
}

}  // namespace

std::string json_place(std::string_view text, std::size_t offset) {
    const std::string_view before = text.substr(0, std::min(offset, text.size()));
    const auto lines = std::count(before.begin(), before.end(), '\n');
    const std::size_t line_begin = before.rfind('\n') + 1;  // npos + 1 is 0
    return "line " + std::to_string(lines + 1) + ", column " + std::to_string(before.size() - line_begin + 1);
}

std::string describe_json_error(std::string_view text, std::size_t offset) {
    offset = std::min(offset, text.size());
    std::string_view field;
    for_each_key(text.substr(0, offset), [&](std::string_view key, std::size_t, const auto&) { field = key; });
    // A parser may stop behind the beginning of the word that it does not know.
    std::size_t begin = offset;
    while (begin > 0 && offset - begin < 9 && (std::isalpha(static_cast<unsigned char>(text[begin - 1])) != 0)) {
        --begin;
    }
    if (begin > 0 && text[begin - 1] == '-') { --begin; }
    std::string described = json_place(text, begin);
    if (!field.empty()) { described += ", in or behind the field \"" + printable(field) + "\""; }
    for (const std::string_view word : {"NaN", "Infinity", "-Infinity", "-NaN"}) {
        if (text.substr(begin).starts_with(word)) { described += ": " + std::string(word) + " is no JSON number"; }
    }
    return described;
}

std::optional<std::size_t> find_json_field(std::string_view text, std::string_view path) {
    const std::size_t point = path.rfind('.');
    const std::string_view outer = point == std::string_view::npos ? std::string_view() : path.substr(0, point);
    const std::string_view name = point == std::string_view::npos ? path : path.substr(point + 1);
    std::optional<std::size_t> place;
    for_each_key(text, [&](std::string_view key, std::size_t offset, const auto& levels) {
        if (key == name && is_at(levels, outer)) { place = offset; }
    });
    return place;
}

std::optional<JsonDuplicate> find_json_duplicate(std::string_view text, std::string_view path) {
    std::unordered_set<std::string_view> seen;
    std::optional<JsonDuplicate> duplicate;
    for_each_key(text, [&](std::string_view key, std::size_t offset, const auto& levels) {
        if (!is_at(levels, path) || seen.insert(key).second || duplicate) { return; }
        duplicate = JsonDuplicate{.key = printable(key), .offset = offset};
    });
    return duplicate;
}

}  // namespace base
