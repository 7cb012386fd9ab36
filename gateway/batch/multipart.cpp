#include "gateway/batch/multipart.h"

#include <algorithm>
#include <optional>

namespace gateway {
namespace {

constexpr std::size_t kBoundaryBytesMax = 70;  // RFC 2046
constexpr std::size_t kPartHeadBytesMax = 8 * 1024;
constexpr std::size_t kNameBytesMax = 512;

std::string lower(std::string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return result;
}

std::string_view trimmed(std::string_view text) {
    const auto begin = text.find_first_not_of(" \t");
    if (begin == std::string_view::npos) { return {}; }
    return text.substr(begin, text.find_last_not_of(" \t") - begin + 1);
}

/// The value of parameter `name` of a header field's value: a token, or a quoted string with its escapes.
std::optional<std::string> parameter(std::string_view value, std::string_view name) {
    for (auto at = value.find(';'); at != std::string_view::npos;) {
        value.remove_prefix(at + 1);
        const auto equals = value.find('=');
        if (equals == std::string_view::npos) { return std::nullopt; }
        const std::string key = lower(trimmed(value.substr(0, equals)));
        value = value.substr(equals + 1);
        value = value.substr(std::min(value.find_first_not_of(" \t"), value.size()));
        std::string found;
        if (value.starts_with('"')) {
            std::size_t end = 1;
            for (; end < value.size() && value[end] != '"'; ++end) {
                if (value[end] == '\\' && end + 1 < value.size()) { ++end; }
                found += value[end];
            }
            if (end >= value.size()) { return std::nullopt; }
            value.remove_prefix(end + 1);
        } else {
            const auto end = value.find(';');
            found = std::string(trimmed(value.substr(0, end)));
        }
        if (key == name) { return found; }
        at = value.find(';');
    }
    return std::nullopt;
}

/// Where a line of its own holds the boundary `first` ("--x") at `from` or behind it; npos: nowhere. What begins like
/// the boundary and goes on is none.
std::size_t find_boundary(std::string_view body, const std::string& first, std::size_t from) {
    for (std::size_t at = body.find(first, from); at != std::string_view::npos; at = body.find(first, at + 1)) {
        const std::string_view rest = body.substr(at + first.size());
        const std::size_t padding = std::min(rest.find_first_not_of(" \t"), rest.size());
        const bool begins_line = at == 0 || (at >= 2 && body.substr(at - 2, 2) == "\r\n");
        if (begins_line && (rest.starts_with("--") || rest.substr(padding).starts_with("\r\n"))) { return at; }
    }
    return std::string_view::npos;
}

ApiError other_type() {
    ApiError error;
    error.status = 415;
    error.message = "files come as multipart/form-data with a boundary (curl: -F file=@..)";
    error.code = "unsupported_content_type";
    return error;
}

tl::unexpected<ApiError> malformed(const std::string& what) {
    return bad_request("", "the body is not the multipart/form-data that it says it is: " + what);
}

}  // namespace

ApiResult<std::vector<FormPart>> read_form(std::string_view content_type, std::string_view body) {
    const std::string type = lower(trimmed(content_type.substr(0, content_type.find(';'))));
    const auto boundary = parameter(content_type, "boundary");
    if (type != "multipart/form-data" || !boundary || boundary->empty()) { return pass_on(other_type()); }
    if (boundary->size() > kBoundaryBytesMax) { return malformed("its boundary is longer than 70 characters"); }
    const std::string first = "--" + *boundary;
    std::size_t at = find_boundary(body, first, 0);  // a preamble may stand before it
    if (at == std::string_view::npos) { return malformed("its boundary is not in it"); }
    std::vector<FormPart> parts;
    while (true) {
        at += first.size();
        if (body.substr(at, 2) == "--") { return parts; }
        const auto line_end = body.find("\r\n", at);
        if (line_end == std::string_view::npos) { return malformed("it ends early"); }
        const auto head_end = body.find("\r\n\r\n", line_end);
        if (head_end == std::string_view::npos || head_end - line_end > kPartHeadBytesMax) {
            return malformed("a part has no end of its head");
        }
        if (parts.size() == kFormPartsMax) { return malformed("it has too many parts"); }
        FormPart part;
        std::string_view head = body.substr(line_end + 2, head_end > line_end + 2 ? head_end - line_end - 2 : 0);
        while (!head.empty()) {
            const auto end = head.find("\r\n");
            const std::string_view line = head.substr(0, end);
            head = end == std::string_view::npos ? std::string_view() : head.substr(end + 2);
            const auto colon = line.find(':');
            if (colon == std::string_view::npos || lower(trimmed(line.substr(0, colon))) != "content-disposition") {
                continue;
            }
            part.name = parameter(line.substr(colon + 1), "name").value_or("");
            part.filename = parameter(line.substr(colon + 1), "filename").value_or("");
        }
        if (part.name.empty() || part.name.size() > kNameBytesMax || part.filename.size() > kNameBytesMax) {
            return malformed("a part has no name, or one of over 512 bytes");
        }
        const std::size_t begin = head_end + 4;
        // An empty part's line end is the one of its head.
        const auto end = find_boundary(body, first, begin);
        if (end == std::string_view::npos) { return malformed("it ends early"); }
        part.bytes = body.substr(begin, end >= begin + 2 ? end - 2 - begin : 0);
        parts.push_back(std::move(part));
        at = end;
    }
}

}  // namespace gateway
