#include "gateway/http/ready_parts.h"

#include <algorithm>

namespace gateway {

bool are_ready(std::span<const ReadyPart> parts) {
    return std::all_of(parts.begin(), parts.end(), [](const ReadyPart& part) { return part.is_ready; });
}

std::string ready_text(std::span<const ReadyPart> parts) {
    std::string text;
    for (const ReadyPart& part : parts) {
        text += (part.is_ready ? "[+]" : "[-]") + part.name;
        text += (part.words.empty() ? "" : ": ") + part.words + '\n';
    }
    return text + (are_ready(parts) ? "ready\n" : "not ready\n");
}

bool asks_for_parts(std::string_view query) {
    while (!query.empty()) {
        const auto end = query.find('&');
        const std::string_view pair = query.substr(0, end);
        if (pair.substr(0, pair.find('=')) == "verbose") { return true; }
        query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
    }
    return false;
}

}  // namespace gateway
