#include "gateway/http/cors.h"

#include <algorithm>

namespace gateway {
namespace {

constexpr std::size_t kRequestedFieldsBytesMax = 4096;
constexpr std::string_view kMaxAgeSeconds = "600";  // a changed list is in effect ten minutes later at the latest

bool is_alphanumeric(char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
}

std::string lower(std::string text) {
    std::transform(text.begin(), text.end(), text.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return text;
}

/// scheme://host[:port] in the form that browsers send: lower case, without the scheme's own port.
base::Result<std::string> read_origin(const std::string& text) {
    const auto refuse = [&](const std::string& why) {
        return base::fail(base::ErrorCode::invalid_argument,
                          "gateway.cors_origins: '" + text + "' " + why +
                              "; give origins as browsers send them, like https://chat.example.org or "
                              "http://localhost:3000, or * for every page");
    };
    std::string origin = lower(text);
    const auto mark = origin.find("://");
    if (mark == std::string::npos || mark == 0) { return refuse("has no scheme"); }
    const std::string scheme = origin.substr(0, mark);
    if (!std::all_of(scheme.begin(), scheme.end(),
                     [](char c) { return is_alphanumeric(c) || c == '+' || c == '-' || c == '.'; })) {
        return refuse("has a malformed scheme");
    }
    const std::string host = origin.substr(mark + 3);
    if (host.empty()) { return refuse("has no host"); }
    if (host.find('*') != std::string::npos) { return refuse("is a pattern, and origins are compared as a whole"); }
    if (host.find('/') != std::string::npos) { return refuse("has a path"); }
    if (!std::all_of(host.begin(), host.end(), [](char c) {
            return is_alphanumeric(c) || std::string_view("-._~[]:").find(c) != std::string_view::npos;
        })) {
        return refuse("has a malformed host");
    }
    for (const auto& [of, port] : {std::pair("http", ":80"), std::pair("https", ":443")}) {
        if (scheme == of && host.ends_with(port)) { origin.resize(origin.size() - std::string_view(port).size()); }
    }
    return origin;
}

/// A list of field names, which may be said back.
bool is_field_list(std::string_view text) {
    return !text.empty() && text.size() <= kRequestedFieldsBytesMax &&
           std::all_of(text.begin(), text.end(), [](char c) {
               return is_alphanumeric(c) || std::string_view("!#$%&'*+-.^_`|~, ").find(c) != std::string_view::npos;
           });
}

}  // namespace

base::Result<Cors> Cors::make(const std::vector<std::string>& origins) {
    Cors cors;
    for (const std::string& text : origins) {
        if (text == "*") {
            cors.any_ = true;
            continue;
        }
        auto origin = read_origin(text);
        if (!origin) { return base::pass_on(origin); }
        cors.origins_.push_back(std::move(*origin));
    }
    return cors;
}

Cors::Allowed Cors::allowed(std::string_view origin) const {
    if (origin.empty()) { return Allowed::no; }
    if (std::find(origins_.begin(), origins_.end(), origin) != origins_.end()) { return Allowed::by_name; }
    return any_ ? Allowed::anyone : Allowed::no;
}

HttpFields Cors::answer_fields(std::string_view origin) const {
    HttpFields fields;
    const Allowed how = allowed(origin);
    if (how == Allowed::anyone) { fields.emplace_back("Access-Control-Allow-Origin", "*"); }
    if (how == Allowed::by_name) {
        fields.emplace_back("Access-Control-Allow-Origin", origin);
        fields.emplace_back("Access-Control-Allow-Credentials", "true");
    }
    if (how != Allowed::no) {
        // Named, not "*": that is no wildcard for requests with credentials.
        fields.emplace_back(
            "Access-Control-Expose-Headers",
            "x-request-id, openai-processing-ms, x-sluice-kv, x-sluice-tools, Retry-After, x-should-retry, "
            "x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, "
            "x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens");
    }
    // What one page may read a cache must not give to another, nor the answer without these fields to any.
    if (!origins_.empty()) { fields.emplace_back("Vary", "Origin"); }
    return fields;
}

HttpFields Cors::preflight_fields(const RequestHead& head, std::string_view methods) const {
    HttpFields fields;
    const std::string* origin = head.only_field("origin");
    if (head.method != "OPTIONS" || head.only_field("access-control-request-method") == nullptr || origin == nullptr ||
        allowed(*origin) == Allowed::no) {
        return fields;
    }
    fields.emplace_back("Access-Control-Allow-Methods", methods);
    // Said back and not "*", which leaves out Authorization.
    if (const std::string* asked = head.only_field("access-control-request-headers");
        asked != nullptr && is_field_list(*asked)) {
        fields.emplace_back("Access-Control-Allow-Headers", *asked);
    }
    // A page of the wide web may talk to a server of a private network, such as this machine's, only where it agrees.
    if (const std::string* network = head.only_field("access-control-request-private-network");
        network != nullptr && *network == "true") {
        fields.emplace_back("Access-Control-Allow-Private-Network", "true");
    }
    fields.emplace_back("Access-Control-Max-Age", kMaxAgeSeconds);
    fields.emplace_back("Vary", "Access-Control-Request-Method, Access-Control-Request-Headers");
    return fields;
}

}  // namespace gateway
