#include "gateway/request/special_texts.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace gateway {

SpecialTexts::SpecialTexts(std::vector<std::string> special, std::vector<std::string> control)
    : special_(sorted(std::move(special))), control_(sorted(std::move(control))) {
    for (std::size_t byte = 0; byte < begins_.size(); ++byte) {
        begins_[byte] = special_.begins[byte] || control_.begins[byte];
        if (begins_[byte]) { begin_bytes_ += static_cast<char>(byte); }
    }
    const auto is_escaped = [](const std::string& text) {
        return std::any_of(text.begin(), text.end(),
                           [](char c) { return c == '"' || c == '\\' || (c >= 0 && c < ' '); });
    };
    has_escaped_ = std::any_of(special_.texts.begin(), special_.texts.end(), is_escaped) ||
                   std::any_of(control_.texts.begin(), control_.texts.end(), is_escaped);
}

SpecialTexts::Sorted SpecialTexts::sorted(std::vector<std::string> texts) {
    Sorted result{.texts = std::move(texts)};
    std::erase(result.texts, std::string());
    std::sort(result.texts.begin(), result.texts.end());
    result.texts.erase(std::unique(result.texts.begin(), result.texts.end()), result.texts.end());
    for (const std::string& text : result.texts) {
        result.begins[static_cast<unsigned char>(text.front())] = true;
    }
    return result;
}

/// Narrows the sorted texts byte by byte.
bool SpecialTexts::Sorted::begins_at(std::string_view text, std::size_t at, std::size_t end) const {
    if (!begins[static_cast<unsigned char>(text[at])]) { return false; }
    auto first = texts.begin();
    auto last = texts.end();
    for (std::size_t depth = 0; at + depth < text.size() && first != last; ++depth) {
        const auto wanted = static_cast<unsigned char>(text[at + depth]);
        const auto byte = [depth](const std::string& one) -> int {
            return one.size() > depth ? static_cast<unsigned char>(one[depth]) : -1;
        };
        first = std::partition_point(first, last, [&](const std::string& one) { return byte(one) < wanted; });
        last = std::partition_point(first, last, [&](const std::string& one) { return byte(one) <= wanted; });
        if (first == last) { return false; }
        // A text that ends here sorts before those that go on.
        if (first->size() == depth + 1 || at + depth + 1 == end) { return true; }
    }
    return false;
}

std::size_t SpecialTexts::Sorted::longest_at(std::string_view text, std::size_t at) const {
    if (!begins[static_cast<unsigned char>(text[at])]) { return 0; }
    auto first = texts.begin();
    auto last = texts.end();
    std::size_t longest = 0;
    for (std::size_t depth = 0; at + depth < text.size() && first != last; ++depth) {
        const auto wanted = static_cast<unsigned char>(text[at + depth]);
        const auto byte = [depth](const std::string& one) -> int {
            return one.size() > depth ? static_cast<unsigned char>(one[depth]) : -1;
        };
        first = std::partition_point(first, last, [&](const std::string& one) { return byte(one) < wanted; });
        last = std::partition_point(first, last, [&](const std::string& one) { return byte(one) <= wanted; });
        if (first != last && first->size() == depth + 1) { longest = depth + 1; }
    }
    return longest;
}

std::size_t SpecialTexts::next_begin(std::string_view text, std::size_t at) const {
    if (begin_bytes_.empty() || at >= text.size()) { return text.size(); }
    if (begin_bytes_.size() == 1) {
        const void* const found = std::memchr(text.data() + at, begin_bytes_.front(), text.size() - at);
        return found == nullptr ? text.size() : static_cast<std::size_t>(static_cast<const char*>(found) - text.data());
    }
    while (at < text.size() && !begins_[static_cast<unsigned char>(text[at])]) {
        ++at;
    }
    return at;
}

std::size_t SpecialTexts::longest_at(std::string_view text, std::size_t at) const {
    return std::max(special_.longest_at(text, at), control_.longest_at(text, at));
}

bool SpecialTexts::begins_at(std::string_view text, std::size_t at, std::size_t end, bool of_assistant) const {
    return special_.begins_at(text, at, end) || (!of_assistant && control_.begins_at(text, at, end));
}

}  // namespace gateway
