#include "gateway/http/site_check.h"

#include <algorithm>
#include <array>
#include <boost/asio/ip/address.hpp>
#include <utility>

namespace gateway {
namespace {

using std::string_view;

constexpr std::size_t kShownBytesMax = 100;  // of what a client sent, in messages
constexpr std::array<string_view, 4> kProbePaths = {"/health", "/ready", "/live", "/metrics"};

std::string lower(string_view text) {
    std::string result(text);
    std::transform(result.begin(), result.end(), result.begin(),
                   [](char c) { return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c; });
    return result;
}

/// Without its port and a closing point, in lower case; of an IPv6 address without brackets.
std::string name_of(string_view host) {
    if (host.starts_with('[')) { return lower(host.substr(1, host.find(']') - 1)); }
    std::string name = lower(host.substr(0, host.find(':')));
    if (name.ends_with('.')) { name.pop_back(); }
    return name;
}

bool is_this_machine(const std::string& name) {
    if (name == "localhost") { return true; }
    boost::system::error_code error;
    const auto address = boost::asio::ip::make_address(name, error);
    return !error && address.is_loopback();
}

bool is_host_name(const std::string& text) {
    boost::system::error_code error;
    boost::asio::ip::make_address(text, error);
    return !error || (!text.empty() && text.size() <= 253 && std::all_of(text.begin(), text.end(), [](char c) {
        return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || string_view("-._").find(c) != string_view::npos;
    }));
}

/// Whether the page's scheme://host[:port] is the host that it asks. The scheme may differ: a proxy may have had TLS.
bool is_same_site(string_view origin, string_view host) {
    const auto without = [](string_view text, string_view end) {
        return std::string(text.ends_with(end) ? text.substr(0, text.size() - end.size()) : text);
    };
    for (const auto& [scheme, port] : {std::pair<string_view, string_view>("http://", ":80"), {"https://", ":443"}}) {
        if (!origin.starts_with(scheme)) { continue; }
        const std::string page = without(lower(origin.substr(scheme.size())), port);
        return !page.empty() && page == without(lower(host), port);
    }
    return false;
}

bool changes_nothing(string_view method) {
    return method == "GET" || method == "HEAD" || method == "OPTIONS";
}

}  // namespace

base::Result<SiteCheck> SiteCheck::make(const std::vector<std::string>& hosts, bool on_loopback, Cors cors) {
    SiteCheck check;
    check.on_loopback_ = on_loopback;
    check.checks_hosts_ = on_loopback || !hosts.empty();
    check.checks_origins_ = true;
    check.cors_ = std::move(cors);
    for (const std::string& text : hosts) {
        if (text == "*") {
            check.checks_hosts_ = false;
            continue;
        }
        std::string name = lower(text);
        if (name.starts_with('[') && name.ends_with(']')) { name = name.substr(1, name.size() - 2); }
        if (!is_host_name(name)) {
            return base::fail(base::ErrorCode::invalid_argument,
                              "gateway.hosts: '" + text +
                                  "' is no host; give names as clients use them, without scheme and port, like "
                                  "llm.example.org, or * for every name");
        }
        if (name.ends_with('.')) { name.pop_back(); }
        check.hosts_.push_back(std::move(name));
    }
    return check;
}

bool SiteCheck::answers_to(const RequestHead& head, string_view host) const {
    if (!checks_hosts_) { return true; }
    const std::string name = name_of(host);
    if (is_this_machine(name) || std::find(hosts_.begin(), hosts_.end(), name) != hosts_.end()) { return true; }
    return !on_loopback_ && (head.method == "GET" || head.method == "HEAD") &&
           std::find(kProbePaths.begin(), kProbePaths.end(), head.path) != kProbePaths.end();
}

std::optional<HttpRefusal> SiteCheck::refusal(const RequestHead& head) const {
    const std::string* host = head.field("host");  // none: HTTP/1.0, and no browser
    if (host != nullptr && !answers_to(head, *host)) {
        return HttpRefusal{403, "this server does not answer to the host '" + host->substr(0, kShownBytesMax) +
                                    "'; if that is a name of its, the setting gateway.hosts must list it"};
    }
    if (!checks_origins_ || changes_nothing(head.method)) { return std::nullopt; }
    for (const auto& [name, origin] : head.fields) {
        if (name != "origin" || cors_.allows(origin) || (host != nullptr && is_same_site(origin, *host))) { continue; }
        return HttpRefusal{403, "pages of '" + origin.substr(0, kShownBytesMax) +
                                    "' may not ask this server; if they shall, the setting gateway.cors_origins must "
                                    "list them"};
    }
    return std::nullopt;
}

}  // namespace gateway
