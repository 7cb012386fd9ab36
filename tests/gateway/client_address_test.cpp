#include "gateway/http/client_address.h"

#include <string>
#include <vector>

#include "gateway/http/exchange.h"

#include "tests/support/catch.h"

namespace {

using boost::asio::ip::make_address;
using gateway::ForwardedField;

std::string client(const gateway::TrustedProxies& proxies, const std::string& peer, const gateway::HttpFields& fields) {
    gateway::RequestHead head;
    head.fields = fields;
    return proxies.client_of(make_address(peer), head).to_string();
}

gateway::TrustedProxies make(const std::vector<std::string>& networks,
                             ForwardedField field = ForwardedField::x_forwarded_for) {
    return gateway::TrustedProxies::make(networks, field).value();
}

}  // namespace

TEST_CASE("a client is its IPv4 address, or the network of its IPv6 address", "[gateway][http]") {
    REQUIRE(gateway::client_name(make_address("192.0.2.1")) == "192.0.2.1");
    REQUIRE(gateway::client_name(make_address("::ffff:192.0.2.1")) == "192.0.2.1");
    REQUIRE(gateway::client_name(make_address("2001:db8:1:2:3:4:5:6")) ==
            gateway::client_name(make_address("2001:db8:1:2::9")));
    REQUIRE(gateway::client_name(make_address("2001:db8:1:2::9")) !=
            gateway::client_name(make_address("2001:db8:1:3::9")));
}

TEST_CASE("only proxies that are trusted say whom a request comes from", "[gateway][http]") {
    const auto proxies = make({"10.0.0.0/8", "192.0.2.9", "fd00::/8", "::1"});
    const auto by = [&](const std::string& peer, const std::string& value) {
        return client(proxies, peer, {{"x-forwarded-for", value}});
    };
    REQUIRE(by("203.0.113.5", "198.51.100.1") == "203.0.113.5");
    REQUIRE(by("10.1.2.3", "198.51.100.1") == "198.51.100.1");
    REQUIRE(by("::ffff:10.1.2.3", "198.51.100.1") == "198.51.100.1");
    REQUIRE(by("fd00::7", "2001:db8::1") == "2001:db8::1");
    // The last that is no proxy: what stands before it the client may have written.
    REQUIRE(by("10.1.2.3", "1.1.1.1, 198.51.100.1, 192.0.2.9") == "198.51.100.1");
    REQUIRE(by("10.1.2.3", "garbage,198.51.100.1") == "198.51.100.1");
    REQUIRE(by("10.1.2.3", "10.9.9.9") == "10.9.9.9");  // a proxy's own request
    REQUIRE(by("10.1.2.3", "198.51.100.1:4711") == "198.51.100.1");
    REQUIRE(by("10.1.2.3", "[2001:db8::1]:4711") == "2001:db8::1");
    REQUIRE(client(proxies, "10.1.2.3", {{"x-forwarded-for", "1.1.1.1"}, {"x-forwarded-for", "198.51.100.1"}}) ==
            "198.51.100.1");
    REQUIRE(client(proxies, "10.1.2.3", {{"forwarded", "for=198.51.100.1"}}) == "10.1.2.3");
    REQUIRE(client(proxies, "10.1.2.3", {}) == "10.1.2.3");
    REQUIRE(client({}, "10.1.2.3", {{"x-forwarded-for", "198.51.100.1"}}) == "10.1.2.3");
}

TEST_CASE("what is no address is counted for the proxy that sent it", "[gateway][http]") {
    const auto proxies = make({"10.0.0.0/8"});
    for (const std::string value :
         {"", ",", "unknown", "198.51.100", "198.51.100.1:", "198.51.100.1:x", "198.51.100.256", "[198.51.100.1]",
          "[2001:db8::1", "2001:db8::1]", "fe80::1%eth0", "1.1.1.1 2.2.2.2", "198.51.100.1:123456", "198.51.100.1,"}) {
        CAPTURE(value);
        REQUIRE(client(proxies, "10.1.2.3", {{"x-forwarded-for", value}}) == "10.1.2.3");
    }
}

TEST_CASE("the standard's field is read where it is the one", "[gateway][http]") {
    const auto proxies = make({"10.0.0.0/8"}, ForwardedField::forwarded);
    const auto by = [&](const std::string& value) { return client(proxies, "10.1.2.3", {{"forwarded", value}}); };
    REQUIRE(by("for=198.51.100.1") == "198.51.100.1");
    REQUIRE(by("For=\"[2001:db8::1]:4711\";proto=https;by=10.0.0.1") == "2001:db8::1");
    REQUIRE(by("for=1.1.1.1, proto=http;for=198.51.100.1, for=10.0.0.9") == "198.51.100.1");
    for (const std::string value :
         {"for=_hidden", "for=unknown", "proto=https", "for=1.1.1.1;for=2.2.2.2", "for", "for=", "for=\"1.1.1.1"}) {
        CAPTURE(value);
        REQUIRE(by(value) == "10.1.2.3");
    }
    REQUIRE(client(proxies, "10.1.2.3", {{"x-forwarded-for", "198.51.100.1"}}) == "10.1.2.3");
}

TEST_CASE("a proxy that is no address is refused at the start, naming the setting", "[gateway][http]") {
    for (const std::string text : {"", "proxy.example", "10.0.0.1/8", "10.0.0.0/33", "10.0.0", "*"}) {
        CAPTURE(text);
        const auto made = gateway::TrustedProxies::make({text}, ForwardedField::x_forwarded_for);
        REQUIRE_FALSE(made);
        REQUIRE(made.error().message.find("gateway.trusted_proxies") != std::string::npos);
    }
}
