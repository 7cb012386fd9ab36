#include "base/split_name.h"

#include <algorithm>
#include <charconv>
#include <cstddef>

namespace base {
namespace {

constexpr std::size_t kDigits = 5;
constexpr std::string_view kOf = "-of-";
constexpr std::size_t kTail = 1 + kDigits + kOf.size() + kDigits;  // "-00002-of-00003"

std::optional<std::uint32_t> parse_digits(std::string_view text) {
    std::uint32_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) { return std::nullopt; }
    return value;
}

std::string digits(std::uint32_t value) {
    const std::string text = std::to_string(value);
    return std::string(kDigits - std::min(kDigits, text.size()), '0') + text;
}

}  // namespace

bool has_suffix(std::string_view path, std::string_view suffix) {
    if (path.size() < suffix.size()) { return false; }
    return std::equal(
        suffix.begin(), suffix.end(), path.end() - static_cast<std::ptrdiff_t>(suffix.size()),
        [](char a, char b) { return a == (b >= 'A' && b <= 'Z' ? static_cast<char>(b - 'A' + 'a') : b); });
}

std::string SplitName::path_of(std::uint32_t other, std::string_view suffix) const {
    return stem + "-" + digits(other) + std::string(kOf) + digits(count) + std::string(suffix);
}

std::optional<SplitName> split_name(std::string_view path, std::string_view suffix) {
    if (path.size() <= kTail + suffix.size()) { return std::nullopt; }
    const std::string_view whole = path.substr(0, path.size() - suffix.size());
    const std::string_view tail = whole.substr(whole.size() - kTail);
    if (tail[0] != '-' || tail.substr(1 + kDigits, kOf.size()) != kOf) { return std::nullopt; }
    const auto number = parse_digits(tail.substr(1, kDigits));
    const auto count = parse_digits(tail.substr(1 + kDigits + kOf.size()));
    if (!number || !count || *number < 1 || *number > *count || *count > kSplitFilesMax) { return std::nullopt; }
    return SplitName{std::string(whole.substr(0, whole.size() - kTail)), *number, *count};
}

}  // namespace base
