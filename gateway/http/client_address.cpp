#include "gateway/http/client_address.h"

#include <algorithm>
#include <optional>

namespace gateway {
namespace {

namespace ip = boost::asio::ip;
using std::string_view;

constexpr std::size_t kHopsMax = 32;  // read of a field; longer chains end there
constexpr unsigned kClientBitsV6 = 64;

string_view trim(string_view text) {
    const auto first = text.find_first_not_of(" \t");
    if (first == string_view::npos) { return {}; }
    return text.substr(first, text.find_last_not_of(" \t") - first + 1);
}

bool is_port(string_view text) {
    return !text.empty() && text.size() <= 5 &&
           std::all_of(text.begin(), text.end(), [](char c) { return c >= '0' && c <= '9'; });
}

ip::address without_mapping(const ip::address& address) {
    if (address.is_v6() && address.to_v6().is_v4_mapped()) {
        return ip::make_address_v4(ip::v4_mapped, address.to_v6());
    }
    return address;
}

/// An address, alone or with a port: 192.0.2.1, 192.0.2.1:80, 2001:db8::1, [2001:db8::1], [2001:db8::1]:80.
std::optional<ip::address> read_address(string_view text) {
    string_view port;
    if (text.starts_with('[')) {
        const auto close = text.find(']');
        if (close == string_view::npos) { return std::nullopt; }
        port = text.substr(close + 1);
        text = text.substr(1, close - 1);
        if (text.find(':') == string_view::npos) { return std::nullopt; }
    } else if (const auto colon = text.find(':'); colon != string_view::npos && text.rfind(':') == colon) {
        port = text.substr(colon);
        text = text.substr(0, colon);
    }
    if (!port.empty() && (port.front() != ':' || !is_port(port.substr(1)))) { return std::nullopt; }
    if (text.find('%') != string_view::npos) { return std::nullopt; }  // a zone means something on one machine only
    boost::system::error_code error;
    const ip::address address = ip::make_address(std::string(text), error);
    if (error) { return std::nullopt; }
    return without_mapping(address);
}

/// The node of one element of Forwarded (RFC 7239), which may stand in quotes.
std::optional<ip::address> read_forwarded(string_view element) {
    std::optional<ip::address> found;
    while (!element.empty()) {
        const auto end = element.find(';');  // no address holds one, and whoever quotes one gets nothing
        const string_view pair = trim(element.substr(0, end));
        element = end == string_view::npos ? string_view() : element.substr(end + 1);
        const auto equals = pair.find('=');
        if (equals == string_view::npos) { return std::nullopt; }
        const string_view name = pair.substr(0, equals);
        if (name.size() != 3 || (name[0] | 0x20) != 'f' || (name[1] | 0x20) != 'o' || (name[2] | 0x20) != 'r') {
            continue;
        }
        if (found) { return std::nullopt; }
        string_view value = pair.substr(equals + 1);
        if (value.size() >= 2 && value.front() == '"' && value.back() == '"') {
            value = value.substr(1, value.size() - 2);
        }
        found = read_address(value);
        if (!found) { return std::nullopt; }
    }
    return found;
}

}  // namespace

std::string client_name(const ip::address& given) {
    const ip::address address = without_mapping(given);
    if (address.is_v4()) { return address.to_string(); }
    ip::address_v6::bytes_type bytes = address.to_v6().to_bytes();
    std::fill(bytes.begin() + kClientBitsV6 / 8, bytes.end(), static_cast<unsigned char>(0));
    return ip::address_v6(bytes).to_string() + "/64";
}

base::Result<TrustedProxies> TrustedProxies::make(const std::vector<std::string>& networks, ForwardedField field) {
    TrustedProxies proxies;
    proxies.field_ = field;
    for (const std::string& text : networks) {
        boost::system::error_code error;
        const ip::address address = ip::make_address(text, error);
        if (!error && address.is_v4()) {
            proxies.v4_.emplace_back(address.to_v4(), 32);
            continue;
        }
        if (!error) {
            proxies.v6_.emplace_back(address.to_v6(), 128);
            continue;
        }
        const auto v4 = ip::make_network_v4(text, error);
        if (!error && v4 == v4.canonical()) {
            proxies.v4_.push_back(v4);
            continue;
        }
        const auto v6 = ip::make_network_v6(text, error);
        if (!error && v6 == v6.canonical()) {
            proxies.v6_.push_back(v6);
            continue;
        }
        return base::fail(base::ErrorCode::invalid_argument,
                          "gateway.trusted_proxies: '" + text +
                              "' is neither an address nor a network; give them like 10.0.0.7, 10.0.0.0/8 or fd00::/8");
    }
    return proxies;
}

bool TrustedProxies::trusts(const ip::address& given) const {
    const ip::address address = without_mapping(given);
    if (address.is_v4()) {
        return std::any_of(v4_.begin(), v4_.end(), [&](const ip::network_v4& network) {
            return ip::network_v4(address.to_v4(), network.prefix_length()).canonical() == network;
        });
    }
    return std::any_of(v6_.begin(), v6_.end(), [&](const ip::network_v6& network) {
        return ip::network_v6(address.to_v6(), network.prefix_length()).canonical() == network;
    });
}

ip::address TrustedProxies::client_of(const ip::address& peer, const RequestHead& head) const {
    ip::address client = without_mapping(peer);
    const string_view name = field_ == ForwardedField::forwarded ? "forwarded" : "x-forwarded-for";
    std::size_t hops = 0;
    for (auto field = head.fields.rbegin(); field != head.fields.rend(); ++field) {
        if (field->first != name) { continue; }
        string_view rest = field->second;
        while (true) {
            if (!trusts(client) || ++hops > kHopsMax) { return client; }
            const auto comma = rest.rfind(',');
            const string_view last = trim(comma == string_view::npos ? rest : rest.substr(comma + 1));
            const auto address = field_ == ForwardedField::forwarded ? read_forwarded(last) : read_address(last);
            if (!address) { return client; }
            client = *address;
            if (comma == string_view::npos) { break; }
            rest = rest.substr(0, comma);
        }
    }
    return client;
}

}  // namespace gateway
