#include "gateway/explain/explain_route.h"

#include <charconv>
#include <chrono>
#include <cstdint>
#include <optional>
#include <string>

#include "gateway/explain/explain_json.h"

namespace gateway {
namespace {

constexpr std::int64_t kSinceDefaultS = 600;
constexpr std::int64_t kSinceMaxS = 24 * 3600;
constexpr std::size_t kShownBytesMax = 100;  // of what a client sent, in messages

ApiError not_found(std::string message) {
    ApiError error{.status = 404, .message = std::move(message)};
    error.code = "not_found";
    return error;
}

ApiResult<std::int64_t> since_of(std::string_view query) {
    constexpr std::string_view kName = "since=";
    std::int64_t seconds = kSinceDefaultS;
    while (!query.empty()) {
        const auto end = query.find('&');
        const std::string_view pair = query.substr(0, end);
        query = end == std::string_view::npos ? std::string_view() : query.substr(end + 1);
        if (!pair.starts_with(kName)) { continue; }
        const std::string_view value = pair.substr(kName.size());
        const auto [at, error] = std::from_chars(value.data(), value.data() + value.size(), seconds);
        if (error != std::errc() || at != value.data() + value.size() || seconds < 1 || seconds > kSinceMaxS) {
            return bad_request("since", "since must be a whole number of seconds from 1 to " +
                                            std::to_string(kSinceMaxS) + ", not '" +
                                            std::string(value.substr(0, kShownBytesMax)) + "'");
        }
    }
    return seconds;
}

ApiError not_here() {
    ApiError error;
    error.status = 403;
    error.message =
        "timelines are told on this machine only (loopback, without a proxy), or where the setting "
        "explain.from_anywhere is true";
    error.code = "permission_denied";
    return error;
}

}  // namespace

bool is_from_here(const HttpRequest& request) {
    for (const std::string_view field : {"forwarded", "x-forwarded-for", "x-real-ip", "via"}) {
        if (request.head.field(field) != nullptr) { return false; }
    }
    return request.client.starts_with("127.") || request.client == "::/64";  // of ::1, as client_name() writes it
}

ApiResult<std::string> answer_explain(const HttpRequest& request, std::string_view route, const ExplainOptions& options,
                                      const TimelineBook& book) {
    if (!options.from_anywhere && !is_from_here(request)) { return pass_on(not_here()); }
    if (!book.is_on()) { return pass_on(not_found("nothing is recorded: the setting explain.requests_max is 0")); }
    std::string_view id = route.substr(kExplainPath.size());
    if (id.starts_with('/')) { id.remove_prefix(1); }
    if (id.empty()) {
        const auto since = since_of(request.head.query);
        if (!since) { return pass_on(since.error()); }
        return summary_json(book.summary(std::chrono::seconds(*since)));
    }
    const auto found = book.find(id);
    if (!found) {
        return pass_on(not_found("no timeline of '" + std::string(id.substr(0, kShownBytesMax)) +
                                 "' is kept: the last " + std::to_string(options.requests_max) +
                                 " requests are, and the last " + std::to_string(options.misses_max) +
                                 " that missed a target (explain.requests_max, explain.misses_max); a request that "
                                 "still runs has none yet"));
    }
    return timeline_json(*found);
}

}  // namespace gateway
