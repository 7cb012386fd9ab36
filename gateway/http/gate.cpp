#include "gateway/http/gate.h"

#include <algorithm>
#include <array>

namespace gateway {
namespace {

using std::string_view;

tl::unexpected<HttpRefusal> refuse(unsigned status, std::string message) {
    return tl::unexpected<HttpRefusal>(HttpRefusal{status, std::move(message)});
}

bool is_digit(char c) {
    return c >= '0' && c <= '9';
}
bool is_alpha(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z');
}
bool is_token_char(char c) {
    return is_digit(c) || is_alpha(c) || string_view("!#$%&'*+-.^_`|~").find(c) != string_view::npos;
}
bool is_token(string_view text) {
    return !text.empty() && std::all_of(text.begin(), text.end(), is_token_char);
}

int hex_value(char c) {
    if (is_digit(c)) { return c - '0'; }
    if (c >= 'a' && c <= 'f') { return c - 'a' + 10; }
    if (c >= 'A' && c <= 'F') { return c - 'A' + 10; }
    return -1;
}

std::string lower(string_view text) {
    std::string result(text);
    for (char& c : result) {
        if (c >= 'A' && c <= 'Z') { c = static_cast<char>(c - 'A' + 'a'); }
    }
    return result;
}

string_view trim(string_view text) {
    while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) {
        text.remove_prefix(1);
    }
    while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) {
        text.remove_suffix(1);
    }
    return text;
}

/// RFC 3986: characters of a path or query.
bool is_target_char(char c) {
    return is_digit(c) || is_alpha(c) || string_view("-._~!$&'()*+,;=:@/%").find(c) != string_view::npos;
}

/// host[:port] as RFC 3986 has it, not empty, without user information.
bool is_host(string_view text) {
    if (text.empty() || text.size() > 300) { return false; }
    string_view rest;
    if (text.front() == '[') {
        const auto close = text.find(']');
        if (close == string_view::npos || close < 3) { return false; }
        const string_view address = text.substr(1, close - 1);
        if (!std::all_of(address.begin(), address.end(),
                         [](char c) { return hex_value(c) >= 0 || c == ':' || c == '.'; })) {
            return false;
        }
        rest = text.substr(close + 1);
    } else {
        const auto colon = text.find(':');
        const string_view name = text.substr(0, colon);
        const auto is_name_char = [](char c) {
            return is_digit(c) || is_alpha(c) || string_view("-._~!$&'()*+,;=").find(c) != string_view::npos;
        };
        if (name.empty() || !std::all_of(name.begin(), name.end(), is_name_char)) { return false; }
        rest = colon == string_view::npos ? string_view() : text.substr(colon);
    }
    if (rest.empty()) { return true; }
    if (rest.front() != ':') { return false; }
    rest.remove_prefix(1);
    if (rest.size() > 5 || !std::all_of(rest.begin(), rest.end(), is_digit)) { return false; }
    unsigned port = 0;
    for (const char c : rest) {
        port = port * 10 + static_cast<unsigned>(c - '0');
    }
    return port <= 65535;
}

tl::expected<std::string, HttpRefusal> decode_path(string_view path) {
    std::string result;
    result.reserve(path.size());
    for (std::size_t at = 0; at < path.size(); ++at) {
        if (path[at] != '%') {
            result.push_back(path[at]);
            continue;
        }
        if (at + 2 >= path.size() || hex_value(path[at + 1]) < 0 || hex_value(path[at + 2]) < 0) {
            return refuse(400, "broken percent encoding in the request target");
        }
        const int value = hex_value(path[at + 1]) * 16 + hex_value(path[at + 2]);
        if (value < 0x20 || value == 0x7f) { return refuse(400, "control character in the request target"); }
        result.push_back(static_cast<char>(value));
        at += 2;
    }
    return result;
}

/// Splits and checks the target; `authority` comes out where the target names one.
tl::expected<void, HttpRefusal> read_target(string_view target, RequestHead& head, string_view& authority) {
    if (target == "*") {
        if (head.method != "OPTIONS") { return refuse(400, "the request target * is for OPTIONS only"); }
        head.path = "*";
        head.sent_path = "*";
        return {};
    }
    if (!target.empty() && target.front() != '/') {
        string_view rest;
        const std::string start = lower(target.substr(0, 8));
        if (start.starts_with("http://")) {
            rest = target.substr(7);
        } else if (start.starts_with("https://")) {
            rest = target.substr(8);
        } else {
            return refuse(400, "the request target must be a path");
        }
        const auto end = rest.find_first_of("/?");
        authority = rest.substr(0, end);
        if (!is_host(authority)) { return refuse(400, "the request target has a bad host"); }
        target = end == string_view::npos ? string_view("/") : rest.substr(end);
        if (target.front() != '/') { return refuse(400, "the request target must be a path"); }
    }
    if (target.empty()) { return refuse(400, "the request target must be a path"); }
    const auto mark = target.find('?');
    const string_view path = target.substr(0, mark);
    const string_view query = mark == string_view::npos ? string_view() : target.substr(mark + 1);
    const auto is_query_char = [](char c) { return is_target_char(c) || c == '?'; };
    if (!std::all_of(path.begin(), path.end(), is_target_char) ||
        !std::all_of(query.begin(), query.end(), is_query_char)) {
        return refuse(400, "illegal character in the request target");
    }
    head.sent_path = path;
    auto decoded = decode_path(path);
    if (!decoded) { return tl::unexpected<HttpRefusal>(decoded.error()); }
    head.path = std::move(*decoded);
    head.query = query;
    return {};
}

tl::expected<void, HttpRefusal> read_request_line(string_view line, const HttpLimits& limits, RequestHead& head,
                                                  string_view& authority) {
    const auto first = line.find(' ');
    const auto last = line.rfind(' ');
    if (first == string_view::npos || first == last) { return refuse(400, "malformed request line"); }
    const string_view method = line.substr(0, first);
    const string_view target = line.substr(first + 1, last - first - 1);
    const string_view version = line.substr(last + 1);
    if (!is_token(method) || method.size() > 32) { return refuse(400, "malformed method"); }
    if (version.size() != 8 || !version.starts_with("HTTP/") || !is_digit(version[5]) || version[6] != '.' ||
        !is_digit(version[7])) {
        return refuse(400, "malformed HTTP version");
    }
    if (version != "HTTP/1.1" && version != "HTTP/1.0") {
        return refuse(505, "HTTP versions other than 1.0 and 1.1 are not spoken here");
    }
    head.method = method;
    head.http_1_0 = version == "HTTP/1.0";
    if (method == "CONNECT" || method == "TRACE") { return refuse(405, "method not allowed"); }
    if (target.size() > limits.target_bytes_max) { return refuse(414, "the request target is too long"); }
    return read_target(target, head, authority);
}

tl::expected<void, HttpRefusal> read_field(string_view line, RequestHead& head) {
    if (line.front() == ' ' || line.front() == '\t') { return refuse(400, "folded header line"); }
    const auto colon = line.find(':');
    if (colon == string_view::npos || !is_token(line.substr(0, colon))) { return refuse(400, "malformed header name"); }
    const string_view value = trim(line.substr(colon + 1));
    for (const char c : value) {
        const auto byte = static_cast<unsigned char>(c);
        if ((byte < 0x20 && c != '\t') || byte == 0x7f) { return refuse(400, "control character in a header"); }
    }
    head.fields.emplace_back(lower(line.substr(0, colon)), value);
    return {};
}

tl::expected<void, HttpRefusal> read_framing(const HttpLimits& limits, RequestHead& head) {
    const auto count = [&](string_view name) {
        return std::count_if(head.fields.begin(), head.fields.end(),
                             [&](const auto& field) { return field.first == name; });
    };
    const auto lengths = count("content-length");
    const auto encodings = count("transfer-encoding");
    if (encodings > 0) {
        if (head.http_1_0) { return refuse(400, "Transfer-Encoding in an HTTP/1.0 request"); }
        if (lengths > 0) { return refuse(400, "both Transfer-Encoding and Content-Length"); }
        if (encodings > 1 || lower(*head.field("transfer-encoding")) != "chunked") {
            return refuse(400, "Transfer-Encoding other than chunked");
        }
        head.chunked = true;
    }
    if (lengths > 1) { return refuse(400, "more than one Content-Length"); }
    if (lengths == 1) {
        const std::string& value = *head.field("content-length");
        if (value.empty() || value.size() > 19 || !std::all_of(value.begin(), value.end(), is_digit)) {
            return refuse(400, "malformed Content-Length");
        }
        for (const char c : value) {
            head.content_length = head.content_length * 10 + static_cast<std::uint64_t>(c - '0');
        }
        if (head.content_length > limits.body_bytes_max) {
            return refuse(413, "the body is larger than " + std::to_string(limits.body_bytes_max) + " bytes");
        }
    }
    return {};
}

tl::expected<void, HttpRefusal> read_connection(RequestHead& head) {
    head.keep_alive = !head.http_1_0;
    for (const auto& [name, value] : head.fields) {
        if (name == "expect") {
            if (lower(value) != "100-continue") { return refuse(417, "unknown expectation"); }
            head.expects_continue = !head.http_1_0;
        }
        if (name != "connection") { continue; }
        for (std::size_t at = 0; at <= value.size();) {
            const auto comma = std::min(value.find(',', at), value.size());
            const std::string option = lower(trim(string_view(value).substr(at, comma - at)));
            if (option == "close") { head.keep_alive = false; }
            if (option == "keep-alive" && head.http_1_0) { head.keep_alive = true; }
            at = comma + 1;
        }
    }
    return {};
}

}  // namespace

const std::string* RequestHead::field(string_view name) const {
    for (const auto& [key, value] : fields) {
        if (key == name) { return &value; }
    }
    return nullptr;
}

tl::expected<std::optional<std::size_t>, HttpRefusal> find_head_end(string_view received, const HttpLimits& limits) {
    std::size_t line_begin = 0;
    bool is_first_line = true;
    for (std::size_t at = 0; at < received.size(); ++at) {
        if (at >= limits.header_bytes_max) { return refuse(431, "the request header is too long"); }
        const auto byte = static_cast<unsigned char>(received[at]);
        if (byte == '\r') {
            if (at + 1 < received.size() && received[at + 1] != '\n') {
                return refuse(400, "carriage return without line feed");
            }
            continue;
        }
        if (byte == '\n') {
            if (at == 0 || received[at - 1] != '\r') { return refuse(400, "line feed without carriage return"); }
            if (at - 1 == line_begin && !is_first_line) { return at + 1; }
            if (at - 1 == line_begin) { return refuse(400, "empty request line"); }
            line_begin = at + 1;
            is_first_line = false;
            continue;
        }
        if ((byte < 0x20 && byte != '\t') || byte == 0x7f) {
            return refuse(400, "control character in the request header");
        }
        if (is_first_line && at - line_begin > limits.target_bytes_max + 64) {
            return refuse(414, "the request target is too long");
        }
    }
    return std::optional<std::size_t>{};
}

const std::string* RequestHead::only_field(string_view name) const {
    const std::string* found = nullptr;
    for (const auto& [key, value] : fields) {
        if (key != name) { continue; }
        if (found != nullptr) { return nullptr; }
        found = &value;
    }
    return found;
}

namespace {

/// Reads into `head`, which on a refusal holds what was read until then.
tl::expected<void, HttpRefusal> read_head(string_view head_text, const HttpLimits& limits, RequestHead& head) {
    if (head_text.size() > limits.header_bytes_max) { return refuse(431, "the request header is too long"); }
    string_view authority;
    bool is_first_line = true;
    while (true) {
        const auto end = head_text.find("\r\n");
        if (end == string_view::npos) { return refuse(400, "the request header has no end"); }
        const string_view line = head_text.substr(0, end);
        head_text.remove_prefix(end + 2);
        if (line.find_first_of("\r\n") != string_view::npos || line.find('\0') != string_view::npos) {
            return refuse(400, "malformed line end");
        }
        tl::expected<void, HttpRefusal> read;
        if (is_first_line) {
            read = read_request_line(line, limits, head, authority);
            is_first_line = false;
        } else if (line.empty()) {
            break;
        } else {
            if (head.fields.size() == limits.header_fields_max) { return refuse(431, "too many header fields"); }
            read = read_field(line, head);
        }
        if (!read) { return tl::unexpected<HttpRefusal>(read.error()); }
    }
    if (!head_text.empty()) { return refuse(400, "malformed request header"); }

    const auto hosts =
        std::count_if(head.fields.begin(), head.fields.end(), [](const auto& field) { return field.first == "host"; });
    if (hosts > 1 || (hosts == 0 && !head.http_1_0)) { return refuse(400, "exactly one Host header is needed"); }
    if (hosts == 1 && !is_host(*head.field("host"))) { return refuse(400, "malformed Host header"); }
    if (!authority.empty() && hosts == 1 && lower(authority) != lower(*head.field("host"))) {
        return refuse(400, "the request target and the Host header name different hosts");
    }
    if (auto framing = read_framing(limits, head); !framing) { return tl::unexpected<HttpRefusal>(framing.error()); }
    if (auto connection = read_connection(head); !connection) {
        return tl::unexpected<HttpRefusal>(connection.error());
    }
    return {};
}

}  // namespace

tl::expected<RequestHead, HttpRefusal> check_head(string_view head_text, const HttpLimits& limits) {
    RequestHead head;
    if (auto read = read_head(head_text, limits, head); !read) {
        HttpRefusal refusal = std::move(read.error());
        refusal.method = head.method;
        refusal.path = head.sent_path;
        if (const std::string* origin = head.only_field("origin")) { refusal.origin = *origin; }
        return tl::unexpected<HttpRefusal>(std::move(refusal));
    }
    return head;
}

}  // namespace gateway
