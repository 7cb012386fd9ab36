#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/result.h"
#include "cli/model/stop.h"

namespace cli::model {

struct HttpLimits {
    std::chrono::milliseconds connect{10'000};
    std::chrono::seconds stall{30};  // slower than 1 kB/s for so long: given up; HF_HUB_DOWNLOAD_TIMEOUT
    std::uint32_t redirects_max = 5;
    std::size_t header_bytes_max = std::size_t{64} << 10;
    std::size_t error_bytes_max = std::size_t{4} << 10;  // of the body of an answer that is no success
};

struct HttpRequest {
    std::string url{};
    std::string token{};            // sent as a bearer to the first host only, and never without TLS beyond loopback
    std::uint64_t first_byte = 0;   // > 0: asks for the bytes from there on
    std::chrono::seconds whole{0};  // the longest that all of it may take; 0: no such bound, the stall's holds
};

/// What an answer says before its body.
struct HttpHead {
    long status = 0;
    std::map<std::string, std::string> headers{};  // names in lower case; the last of a name
    std::string host{};                            // that gave this answer

    /// Empty when there is no such header.
    std::string header(const std::string& name) const;
    /// The number in a header. Empty when there is none.
    std::optional<std::uint64_t> number(const std::string& name) const;
};

struct HttpAnswer {
    HttpHead head{};
    std::string error_text{};  // the beginning of the body of an answer that is no success
};

/// Takes a successful answer (status 200 to 299). An error ends the transfer and is handed on.
struct HttpSink {
    std::function<base::Result<void>(const HttpHead&)> head;  // once, before the body
    std::function<base::Result<void>(std::span<const std::byte>)> body;
};

/// GET over HTTP and HTTPS, with certificates checked. Follows redirects itself: bounded, never from HTTPS to HTTP, and
/// the token stays with the host it was meant for. One thread.
class HttpClient {
public:
    HttpClient(HttpLimits limits, StopAsked stop_asked);
    ~HttpClient();
    HttpClient(const HttpClient&) = delete;
    HttpClient& operator=(const HttpClient&) = delete;

    /// Any answer that is no redirect, whatever its status.
    /// Error: unavailable (no such host, refused, broken), deadline_exceeded (no connection in time, stalled),
    /// data_loss (fewer bytes than announced), failed_precondition (a certificate; too many redirects or a bad one),
    /// resource_exhausted (headers), cancelled; and the sink's.
    base::Result<HttpAnswer> get(const HttpRequest& request, const HttpSink& sink);

private:
    struct Transfer;
    base::Result<HttpAnswer> get_once(const HttpRequest& request, const HttpSink& sink);

    struct Handle;
    HttpLimits limits_;
    StopAsked stop_asked_;
    std::unique_ptr<Handle> handle_;
};

/// An address taken apart. Only http and https. Error: invalid_argument.
struct UrlParts {
    std::string scheme{};
    std::string host{};
    std::string port{};  // also where it is the scheme's
    bool is_loopback() const;
    bool same_place(const UrlParts& other) const {
        return scheme == other.scheme && host == other.host && port == other.port;
    }
};
base::Result<UrlParts> parse_url(const std::string& url);
/// `path` with everything escaped that an address does not carry as it is; slashes stay.
std::string escape_path(std::string_view path);

}  // namespace cli::model
