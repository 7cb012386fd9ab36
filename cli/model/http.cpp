#include "cli/model/http.h"

#include <arpa/inet.h>
#include <curl/curl.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <charconv>
#include <cstdlib>
#include <string_view>
#include <utility>

#include "base/check.h"

namespace cli::model {
namespace {

using base::ErrorCode;
using base::Result;

constexpr long kSlowBytesPerSecond = 1000;

struct Url {
    CURLU* handle = curl_url();
    Url() = default;
    Url(const Url&) = delete;
    Url& operator=(const Url&) = delete;
    ~Url() { curl_url_cleanup(handle); }

    std::string part(CURLUPart which, unsigned int flags) const {
        char* text = nullptr;
        if (curl_url_get(handle, which, &text, flags) != CURLUE_OK) { return {}; }
        std::string result(text);
        curl_free(text);
        return result;
    }
};

std::string lower(std::string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    return result;
}

std::string_view trim(std::string_view text) {
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.back())) != 0) {
        text.remove_suffix(1);
    }
    while (!text.empty() && std::isspace(static_cast<unsigned char>(text.front())) != 0) {
        text.remove_prefix(1);
    }
    return text;
}

/// Where a redirect leads. Error: failed_precondition.
Result<std::string> redirect_target(const std::string& from, const std::string& location) {
    const Url url;
    if (location.empty() || curl_url_set(url.handle, CURLUPART_URL, from.c_str(), 0) != CURLUE_OK ||
        curl_url_set(url.handle, CURLUPART_URL, location.c_str(), 0) != CURLUE_OK) {
        return base::fail(ErrorCode::failed_precondition,
                          "a redirect leads nowhere: '" + location.substr(0, 200) + "'");
    }
    const std::string target = url.part(CURLUPART_URL, 0);
    const auto before = parse_url(from);
    const auto after = parse_url(target);
    if (!before || !after || (before->scheme == "https" && after->scheme != "https")) {
        return base::fail(ErrorCode::failed_precondition,
                          "a redirect that leaves HTTPS is not followed: '" + target.substr(0, 200) + "'");
    }
    return target;
}

ErrorCode code_of(CURLcode code) {
    switch (code) {
        case CURLE_OPERATION_TIMEDOUT:
            return ErrorCode::deadline_exceeded;
        case CURLE_PARTIAL_FILE:
            return ErrorCode::data_loss;
        case CURLE_PEER_FAILED_VERIFICATION:
        case CURLE_SSL_CACERT_BADFILE:
        case CURLE_SSL_CERTPROBLEM:
            return ErrorCode::failed_precondition;
        case CURLE_UNSUPPORTED_PROTOCOL:
        case CURLE_URL_MALFORMAT:
            return ErrorCode::invalid_argument;
        default:
            return ErrorCode::unavailable;
    }
}

bool is_redirect(long status) {
    return status == 301 || status == 302 || status == 303 || status == 307 || status == 308;
}

}  // namespace

struct HttpClient::Handle {
    CURL* easy = curl_easy_init();
    ~Handle() { curl_easy_cleanup(easy); }
};

/// What the callbacks of one request write to.
struct HttpClient::Transfer {
    const HttpLimits& limits;
    const HttpSink& sink;
    const StopAsked& stop_asked;
    HttpAnswer answer{};
    std::size_t header_bytes = 0;
    bool head_given = false;
    std::optional<base::Error> problem{};

    bool is_success() const { return answer.head.status >= 200 && answer.head.status < 300; }

    /// False: the transfer has to end.
    bool give_head() {
        if (head_given || !is_success()) { return true; }
        head_given = true;
        if (const auto taken = sink.head(answer.head); !taken) {
            problem = taken.error();
            return false;
        }
        return true;
    }

    static std::size_t on_header(char* data, std::size_t size, std::size_t count, void* self) {
        auto& transfer = *static_cast<Transfer*>(self);
        const std::string_view line(data, size * count);
        transfer.header_bytes += line.size();
        if (transfer.header_bytes > transfer.limits.header_bytes_max) {
            transfer.problem = base::Error{
                ErrorCode::resource_exhausted,
                "an answer with more than " + std::to_string(transfer.limits.header_bytes_max) + " bytes of headers"};
            return 0;
        }
        if (line.starts_with("HTTP/")) {  // also after an interim answer
            transfer.answer.head.headers.clear();
            const auto space = line.find(' ');
            long status = 0;
            if (space != std::string_view::npos) {
                std::from_chars(line.data() + space + 1, line.data() + line.size(), status);
            }
            transfer.answer.head.status = status;
        } else if (const auto colon = line.find(':'); colon != std::string_view::npos) {
            transfer.answer.head.headers[lower(line.substr(0, colon))] = trim(line.substr(colon + 1));
        }
        return line.size();
    }

    static std::size_t on_body(char* data, std::size_t size, std::size_t count, void* self) {
        auto& transfer = *static_cast<Transfer*>(self);
        const std::size_t bytes = size * count;
        if (!transfer.is_success()) {
            std::string& text = transfer.answer.error_text;
            text.append(data, std::min(bytes, transfer.limits.error_bytes_max - text.size()));
            return text.size() < transfer.limits.error_bytes_max ? bytes : 0;  // more is not needed
        }
        if (!transfer.give_head()) { return 0; }
        if (const auto taken = transfer.sink.body(std::as_bytes(std::span(data, bytes))); !taken) {
            transfer.problem = taken.error();
            return 0;
        }
        return bytes;
    }

    static int on_progress(void* self, curl_off_t, curl_off_t, curl_off_t, curl_off_t) {
        auto& transfer = *static_cast<Transfer*>(self);
        if (!transfer.stop_asked()) { return 0; }
        transfer.problem = base::Error{ErrorCode::cancelled, "interrupted"};
        return 1;
    }
};

HttpClient::HttpClient(HttpLimits limits, StopAsked stop_asked)
    : limits_(limits), stop_asked_(std::move(stop_asked)), handle_(std::make_unique<Handle>()) {
    CHECK(handle_->easy != nullptr);
}

HttpClient::~HttpClient() = default;

Result<HttpAnswer> HttpClient::get(const HttpRequest& request, const HttpSink& sink) {
    HttpRequest next = request;
    for (std::uint32_t redirects = 0;; ++redirects) {
        auto answer = get_once(next, sink);
        if (!answer || !is_redirect(answer->head.status)) { return answer; }
        if (redirects == limits_.redirects_max) {
            return base::fail(ErrorCode::failed_precondition,
                              "more than " + std::to_string(limits_.redirects_max) + " redirects from " + request.url);
        }
        const auto target = redirect_target(next.url, answer->head.header("location"));
        if (!target) { return base::pass_on(target); }
        if (!parse_url(*target)->same_place(*parse_url(next.url))) { next.token.clear(); }
        next.url = *target;
    }
}

Result<HttpAnswer> HttpClient::get_once(const HttpRequest& request, const HttpSink& sink) {
    const auto parts = parse_url(request.url);
    if (!parts) { return base::pass_on(parts); }
    Transfer transfer{.limits = limits_, .sink = sink, .stop_asked = stop_asked_};
    transfer.answer.head.host = parts->host;
    CURL* easy = handle_->easy;
    curl_easy_reset(easy);  // connections are kept
    curl_slist* headers = nullptr;
    if (!request.token.empty() && (parts->scheme == "https" || parts->is_loopback())) {
        headers = curl_slist_append(headers, ("Authorization: Bearer " + request.token).c_str());
    }
    std::array<char, CURL_ERROR_SIZE> message{};
    const std::string range = std::to_string(request.first_byte) + "-";
    curl_easy_setopt(easy, CURLOPT_URL, request.url.c_str());
    curl_easy_setopt(easy, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(easy, CURLOPT_USERAGENT, "sluice");
    curl_easy_setopt(easy, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(easy, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(easy, CURLOPT_ERRORBUFFER, message.data());
    curl_easy_setopt(easy, CURLOPT_CONNECTTIMEOUT_MS, static_cast<long>(limits_.connect.count()));
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_LIMIT, kSlowBytesPerSecond);
    curl_easy_setopt(easy, CURLOPT_LOW_SPEED_TIME, static_cast<long>(limits_.stall.count()));
    curl_easy_setopt(easy, CURLOPT_TIMEOUT, static_cast<long>(request.whole.count()));
    curl_easy_setopt(easy, CURLOPT_HEADERFUNCTION, Transfer::on_header);
    curl_easy_setopt(easy, CURLOPT_HEADERDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_WRITEFUNCTION, Transfer::on_body);
    curl_easy_setopt(easy, CURLOPT_WRITEDATA, &transfer);
    curl_easy_setopt(easy, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(easy, CURLOPT_XFERINFOFUNCTION, Transfer::on_progress);
    curl_easy_setopt(easy, CURLOPT_XFERINFODATA, &transfer);
    if (request.first_byte > 0) { curl_easy_setopt(easy, CURLOPT_RANGE, range.c_str()); }
    for (const char* name : {"SSL_CERT_FILE", "CURL_CA_BUNDLE"}) {
        const char* file = std::getenv(name);
        if (file != nullptr && *file != '\0') { curl_easy_setopt(easy, CURLOPT_CAINFO, file); }
    }
    const CURLcode code = curl_easy_perform(easy);
    curl_slist_free_all(headers);
    if (transfer.problem) { return tl::unexpected(*transfer.problem); }
    const bool has_enough = code == CURLE_WRITE_ERROR && transfer.answer.error_text.size() == limits_.error_bytes_max;
    if (code != CURLE_OK && !has_enough) {
        const char* text = message[0] != '\0' ? message.data() : curl_easy_strerror(code);
        return base::fail(code_of(code), parts->host + ": " + text);
    }
    if (!transfer.give_head()) { return tl::unexpected(*transfer.problem); }  // a body of no bytes
    return std::move(transfer.answer);
}

std::string HttpHead::header(const std::string& name) const {
    const auto at = headers.find(name);
    return at == headers.end() ? std::string() : at->second;
}

std::optional<std::uint64_t> HttpHead::number(const std::string& name) const {
    const std::string text = header(name);
    std::uint64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size()) { return std::nullopt; }
    return value;
}

bool UrlParts::is_loopback() const {
    in_addr address{};
    const bool is_local = inet_pton(AF_INET, host.c_str(), &address) == 1 && host.starts_with("127.");
    return is_local || host == "localhost" || host == "[::1]";
}

Result<UrlParts> parse_url(const std::string& url) {
    const Url parsed;
    if (curl_url_set(parsed.handle, CURLUPART_URL, url.c_str(), 0) == CURLUE_OK) {
        UrlParts parts{parsed.part(CURLUPART_SCHEME, 0), lower(parsed.part(CURLUPART_HOST, 0)),
                       parsed.part(CURLUPART_PORT, CURLU_DEFAULT_PORT)};
        if ((parts.scheme == "http" || parts.scheme == "https") && !parts.host.empty()) { return parts; }
    }
    return base::fail(ErrorCode::invalid_argument, "'" + url.substr(0, 200) + "' is no address of HTTP or HTTPS");
}

std::string escape_path(std::string_view path) {
    constexpr std::string_view kDigits = "0123456789ABCDEF";
    std::string escaped;
    for (const char c : path) {
        const auto byte = static_cast<unsigned char>(c);
        if (std::isalnum(byte) != 0 || std::string_view("-._~/").find(c) != std::string_view::npos) {
            escaped += c;
        } else {
            escaped += {'%', kDigits[byte >> 4], kDigits[byte & 15]};
        }
    }
    return escaped;
}

}  // namespace cli::model
