#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include <tl/expected.hpp>

namespace gateway {

/// Bounds of one HTTP request.
struct HttpLimits {
    std::size_t header_bytes_max = 32 * 1024;  // request line and header fields, with line ends
    std::size_t target_bytes_max = 8 * 1024;
    std::size_t header_fields_max = 100;
    std::uint64_t body_bytes_max = 32ull * 1024 * 1024;
};

/// A request that is refused at the door. The connection is closed after it: where the next request begins is unknown.
struct HttpRefusal {
    unsigned status;  // 400 401 403 405 411 413 414 417 431 505
    std::string message;
    // Of the request, as far as its head was read; else empty.
    std::string method = {};
    std::string path = {};    // as sent, without its query
    std::string origin = {};  // the value of its one Origin field
    std::string code = {};    // beside the message, where the status does not say it all
};

/// The head of a request that passed the gate.
struct RequestHead {
    std::string method;
    std::string path;                                         // percent-decoded, begins with '/'; "*" for OPTIONS *
    std::string sent_path;                                    // the same before decoding
    std::string query;                                        // as sent, without '?'
    std::vector<std::pair<std::string, std::string>> fields;  // names in lower case, values trimmed
    bool http_1_0 = false;
    bool keep_alive = true;
    bool expects_continue = false;
    bool chunked = false;
    std::uint64_t content_length = 0;  // 0 when chunked

    /// The value of the first field of that (lower case) name; nullptr when there is none.
    const std::string* field(std::string_view name) const;
    /// The value of the field where it is given exactly once; else nullptr.
    const std::string* only_field(std::string_view name) const;
    bool has_body() const { return chunked || content_length > 0; }
};

/// Looks for the end of the head in what has arrived. Offset one past the empty line; empty when more is needed.
/// Refuses as early as it can: a line end without carriage return, control characters, a line or a head too long.
tl::expected<std::optional<std::size_t>, HttpRefusal> find_head_end(std::string_view received,
                                                                    const HttpLimits& limits);

/// The strict gate: what RFC 9112 lets servers tolerate but other parsers read differently is refused (request
/// smuggling). `head` is whole, with its empty line. Pure.
tl::expected<RequestHead, HttpRefusal> check_head(std::string_view head, const HttpLimits& limits);

}  // namespace gateway
