// What TLS has beside the promises of every transport.
#include "net/tls.h"

#include "tests/net/tls_node.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using net_test::in;
using net_test::kLimit;
using net_test::message;
using net_test::Pair;
using net_test::pattern;
using net_test::Recorder;
using net_test::tls_options;
using net_test::TlsNode;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

const base::SystemClock kClock;

Pair make_pair(const net::TlsOptions& options) {
    Pair pair;
    for (auto* side : {&pair.left, &pair.right}) {
        auto made = net::make_tls_transport(options, kClock);
        REQUIRE(made);
        *side = std::move(*made);
    }
    REQUIRE(pair.left->start(*pair.heard_left));
    REQUIRE(pair.right->start(*pair.heard_right));
    return pair;
}

}  // namespace

TEST_CASE("TLS keeps the promises of a transport", "[net]") {
    net_test::check_transport([] { return make_pair(tls_options()); });
}

TEST_CASE("TLS keeps them over IPv6", "[net]") {
    net::TlsOptions options = tls_options();
    options.host = "::1";
    if (const auto made = net::make_tls_transport(options, kClock); !made) {
        WARN("SKIPPED: no IPv6 here: " << made.error().message);
        return;
    }
    net_test::check_transport([&] { return make_pair(options); });
}

TEST_CASE("TLS: keys are changed again and again, and everything arrives", "[net]") {
    net::TlsOptions options = tls_options();
    options.records_per_key = 3;
    Pair pair = make_pair(options);
    const auto to_right = pair.left->connect(pair.right->address());
    REQUIRE(to_right);
    const auto data = pattern(std::size_t{2} << 20, 4);
    for (int i = 0; i < 4; ++i) {
        REQUIRE(pair.left->send(*to_right, message(1, "r", data), in(kLimit), pair.heard_left->completion("r")));
    }
    REQUIRE(pair.heard_right->wait_received(4));
    const net::PeerId back = pair.heard_right->received_.front().from;
    REQUIRE(pair.right->send(back, message(1, "l", data), in(kLimit), pair.heard_right->completion("l")));
    REQUIRE(pair.heard_left->wait_received(1));
    for (const auto& received : pair.heard_right->received_) {
        CHECK(received.payload == *data);
    }
    CHECK(pair.heard_left->received_.front().payload == *data);
}

TEST_CASE("TLS: small messages pass a large one that is on its way", "[net]") {
    Pair pair = make_pair(tls_options());
    const auto peer = pair.left->connect(pair.right->address());
    REQUIRE(peer);
    const auto data = pattern(pair.left->limits().payload_bytes_max, 1);
    for (int i = 0; i < 8; ++i) {
        REQUIRE(pair.left->send(*peer, message(1, "large", data), in(kLimit), pair.heard_left->completion("large")));
    }
    REQUIRE(
        pair.left->send(*peer, message(2, "small", pattern(100, 2)), in(kLimit), pair.heard_left->completion("small")));
    REQUIRE(pair.heard_right->wait_received(9));
    // All eight were waiting when it came; it was not the last to be heard.
    CHECK(pair.heard_right->received_.back().header == "large");
    for (const auto& received : pair.heard_right->received_) {
        CHECK(received.payload == (received.header == "large" ? *data : *pattern(100, 2)));
    }
}

TEST_CASE("TLS: a refused large payload ends the send with cancelled or success, and later ones come", "[net]") {
    Pair pair = make_pair(tls_options());
    const auto peer = pair.left->connect(pair.right->address());
    REQUIRE(peer);
    const auto data = pattern(pair.left->limits().payload_bytes_max, 1);
    pair.heard_right->refuse(true);
    for (int i = 0; i < 200; ++i) {  // more than the answers that may wait
        const std::string name = "no " + std::to_string(i);
        REQUIRE(pair.left->send(*peer, message(1, "", data), in(kLimit), pair.heard_left->completion(name)));
        const auto outcome = pair.heard_left->outcome(name);
        CHECK((outcome || outcome.error().code == ErrorCode::cancelled));
    }
    REQUIRE(pair.heard_right->wait([](Recorder& self) { return self.refused_ == 200; }));
    pair.heard_right->refuse(false);
    REQUIRE(pair.left->send(*peer, message(1, "yes", data), in(kLimit), pair.heard_left->completion("yes")));
    REQUIRE(pair.heard_right->wait_received(1));
    CHECK(pair.heard_right->received_.back().payload == *data);
    CHECK(data.use_count() == 1);
}

TEST_CASE("TLS: ports are taken in turn from the range, and none left is said", "[net]") {
    const TlsNode first;
    net::TlsOptions options = tls_options();
    options.port_first = first.port();
    options.port_last = first.port();
    const auto none = net::make_tls_transport(options, kClock);
    REQUIRE_FALSE(none);
    CHECK(none.error().code == ErrorCode::unavailable);
    CHECK(none.error().message.find(std::to_string(first.port())) != std::string::npos);
    options.port_last = static_cast<std::uint16_t>(std::min(65535, first.port() + 50));
    const TlsNode second(options);
    CHECK(second.port() > first.port());
    CHECK(second.port() <= options.port_last);
}

TEST_CASE("TLS: where to listen and how to be reached have to make sense", "[net]") {
    net::TlsOptions options = tls_options();
    options.host = "0.0.0.0";
    const auto everywhere = net::make_tls_transport(options, kClock);
    REQUIRE_FALSE(everywhere);
    CHECK(everywhere.error().code == ErrorCode::invalid_argument);
    options.advertised_host = "localhost";
    CHECK_FALSE(net::make_tls_transport(options, kClock));
    options.advertised_host = "127.0.0.1";
    TlsNode named(options);
    TlsNode other;
    const auto peer = other.transport->connect(named.transport->address());
    REQUIRE(peer);
    REQUIRE(other.transport->send(*peer, message(1, "x", nullptr), in(kLimit), other.heard.completion("x")));
    REQUIRE(named.heard.wait_received(1));
    options = tls_options();
    options.private_key_pem.clear();
    CHECK(net::make_tls_transport(options, kClock).error().code == ErrorCode::invalid_argument);
}

TEST_CASE("TLS: it connects to no address that does not carry the cluster's MAC", "[net]") {
    TlsNode here;
    const std::string address = here.transport->address();
    std::string flipped = address;
    flipped[10] = static_cast<char>(flipped[10] ^ 1);
    for (const std::string& bad : {std::string(9, 'x'), std::string(), address.substr(0, address.size() - 1), flipped,
                                   base::seal_address({}, base::Incarnation{1}, "127.0.0.1:1")}) {
        const auto refused = here.transport->connect(bad);
        REQUIRE_FALSE(refused);
        CHECK(refused.error().code == ErrorCode::permission_denied);
    }
    for (const char* bad : {"localhost:7000", "127.0.0.1", "127.0.0.1:0", "example.org:1"}) {
        const auto sealed = base::seal_address({}, base::Incarnation{1}, bad, base::AddressKind::tls);
        CHECK(here.transport->connect(sealed).error().code == ErrorCode::invalid_argument);
    }
}

TEST_CASE("TLS: more sends than there is room for are refused at once, and the others end", "[net]") {
    net::TlsOptions options = tls_options();
    options.sends_inflight_max = 8;
    TlsNode here(options);
    net_test::Proxy nowhere(here.port(), {.stall_after = 0});
    const auto peer = here.transport->connect(net_test::with_port(here.transport->address(), nowhere.port()));
    REQUIRE(peer);
    for (int i = 0; i < 8; ++i) {
        REQUIRE(here.transport->send(*peer, message(1, "", pattern(1000, 1)), in(kLimit),
                                     here.heard.completion(std::to_string(i))));
    }
    const auto full = here.transport->send(*peer, message(1, "", nullptr), in(kLimit), here.heard.completion("full"));
    REQUIRE_FALSE(full);
    CHECK(full.error().code == ErrorCode::resource_exhausted);
    here.transport->disconnect(*peer);
    REQUIRE(here.heard.wait_lost(*peer));
    for (int i = 0; i < 8; ++i) {
        CHECK(here.heard.outcome(std::to_string(i)).error().code == ErrorCode::unavailable);
    }
    CHECK(here.heard.completions_["full"].empty());
}

TEST_CASE("TLS: sends that wait for a connection end at their deadline", "[net]") {
    TlsNode here;
    net_test::Proxy nowhere(here.port(), {.stall_after = 0});
    const auto peer = here.transport->connect(net_test::with_port(here.transport->address(), nowhere.port()));
    REQUIRE(peer);
    REQUIRE(here.transport->send(*peer, message(1, "", nullptr), in(milliseconds(100)), here.heard.completion("x")));
    CHECK(here.heard.outcome("x").error().code == ErrorCode::deadline_exceeded);
    REQUIRE(here.heard.wait_lost(*peer));  // after the time to connect
}
