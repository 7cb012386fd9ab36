// The TLS transport over a network that cuts, delays, changes, repeats and stalls.
#include <algorithm>

#include "tests/net/tls_node.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using net_test::in;
using net_test::kLimit;
using net_test::message;
using net_test::pattern;
using net_test::Proxy;
using net_test::Recorder;
using net_test::Socket;
using net_test::tls_options;
using net_test::TlsNode;
using net_test::with_port;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

/// A client whose connection to the server goes through the proxy.
struct Line {
    explicit Line(Proxy::Harm harm, const net::TlsOptions& options = tls_options())
        : server(options), client(options), proxy(server.port(), harm) {
        const auto made = client.transport->connect(with_port(server.transport->address(), proxy.port()));
        REQUIRE(made);
        peer = *made;
    }
    void send(const std::string& name, const std::shared_ptr<std::vector<std::byte>>& data) {
        // It may be lost already: then that is what is recorded.
        const auto sent =
            client.transport->send(peer, message(1, name, data), in(kLimit), client.heard.completion(name));
        if (!sent) { client.heard.completion(name)(sent); }
    }
    /// Around the proxy.
    void check_direct() {
        const auto direct = client.transport->connect(server.transport->address());
        REQUIRE(direct);
        CHECK(*direct != peer);
        const auto data = pattern(50'000, 77);
        REQUIRE(
            client.transport->send(*direct, message(2, "direct", data), in(kLimit), client.heard.completion("direct")));
        REQUIRE(server.heard.wait([](Recorder& self) {
            return !self.received_.empty() && self.received_.back().header == "direct" && self.received_.back().outcome;
        }));
        CHECK(server.heard.look([&](Recorder& self) { return self.received_.back().payload == *data; }));
    }

    TlsNode server;
    TlsNode client;
    Proxy proxy;
    net::PeerId peer{};
};

/// Whether every payload that is said to have come is `data`.
bool came_whole(const Recorder& heard, const std::vector<std::byte>& data) {
    return std::all_of(heard.received_.begin(), heard.received_.end(), [&](const Recorder::Received& received) {
        return !received.outcome || !received.outcome->has_value() || received.payload == data;
    });
}

}  // namespace

TEST_CASE("TLS network: a connection that is cut anywhere ends on both sides, and a new one works", "[net]") {
    // In the client's hello, in its certificate, in its greeting, in a header, in a payload.
    const std::size_t cut =
        GENERATE(values<std::size_t>({0, 3, 100, 600, 1000, 1300, 1500, 2000, 20'000, 100'003, 1'000'000}));
    CAPTURE(cut);
    Line line({.cut_after = cut});
    const auto data = pattern(std::size_t{1} << 20, 1);
    for (int i = 0; i < 4; ++i) {
        line.send(std::to_string(i), data);
    }
    REQUIRE(line.client.heard.wait_lost(line.peer));
    for (int i = 0; i < 4; ++i) {
        static_cast<void>(line.client.heard.outcome(std::to_string(i)));
        CHECK(line.client.heard.look([i](Recorder& self) { return self.completions_[std::to_string(i)].size() == 1; }));
    }
    CHECK(data.use_count() == 1);
    REQUIRE(line.server.heard.wait([](Recorder& self) { return self.under_way_.empty(); }));
    CHECK(
        line.server.heard.look([&](Recorder& self) { return self.received_.size() <= 4 && came_whole(self, *data); }));
    line.check_direct();
}

TEST_CASE("TLS network: a byte that is changed on the way ends the connection and reaches nobody", "[net]") {
    const std::size_t at = GENERATE(values<std::size_t>({5, 300, 900, 1200, 2500, 30'000, 500'000}));
    CAPTURE(at);
    Line line({.flip_at = at});
    const auto data = pattern(std::size_t{1} << 20, 1);
    for (int i = 0; i < 2; ++i) {
        line.send(std::to_string(i), data);
    }
    REQUIRE(line.client.heard.wait_lost(line.peer));
    REQUIRE(line.server.heard.wait([](Recorder& self) { return self.under_way_.empty(); }));
    CHECK(line.server.heard.look([&](Recorder& self) { return came_whole(self, *data); }));
    line.check_direct();
}

TEST_CASE("TLS network: what comes in small pieces arrives whole", "[net]") {
    Line line({.piece = GENERATE(values<std::size_t>({7, 1000}))});
    const auto data = pattern(30'000, 3);
    line.send("a", data);
    line.send("b", nullptr);
    line.send("c", pattern(100, 4));
    REQUIRE(line.server.heard.wait_received(3));
    for (const auto& received : line.server.heard.received_) {
        if (received.header == "a") { CHECK(received.payload == *data); }
        if (received.header == "c") { CHECK(received.payload == *pattern(100, 4)); }
    }
}

TEST_CASE("TLS network: what was held up arrives when the network goes on", "[net]") {
    Line line({.stall_after = 100'000});
    const auto data = pattern(std::size_t{1} << 20, 3);
    line.send("a", data);
    REQUIRE(line.server.heard.wait([](Recorder& self) { return !self.received_.empty(); }));
    line.proxy.release();
    REQUIRE(line.server.heard.wait_received(1));
    CHECK(line.server.heard.received_.front().payload == *data);
    CHECK(line.client.heard.outcome("a"));
}

TEST_CASE("TLS network: a network that stalls is noticed by both sides without anything being sent", "[net]") {
    net::TlsOptions options = tls_options();
    options.silence_timeout = seconds(3);
    Line line({.stall_after = 8000}, options);
    line.send("opens", nullptr);
    REQUIRE(line.server.heard.wait_received(1));
    const net::PeerId there = line.server.heard.received_.front().from;
    REQUIRE(line.client.heard.outcome("opens"));
    line.send("fills", pattern(60'000, 1));  // and from here on nothing passes, and nothing is closed
    REQUIRE(line.client.heard.wait_lost(line.peer));
    REQUIRE(line.server.heard.wait_lost(there));
    REQUIRE(line.server.heard.wait([](Recorder& self) { return self.under_way_.empty(); }));
}

TEST_CASE("TLS network: a connection over which nothing is sent lives on questions and answers", "[net]") {
    net::TlsOptions options = tls_options();
    options.silence_timeout = seconds(9);
    Line line({}, options);
    line.send("a", nullptr);
    REQUIRE(line.server.heard.wait_received(1));
    REQUIRE(line.client.heard.outcome("a"));
    for (int grown = 0; grown < 2; ++grown) {
        const std::size_t said = line.proxy.said().size();
        const base::TimePoint limit = in(kLimit);
        while (line.proxy.said().size() == said) {
            REQUIRE(std::chrono::steady_clock::now() < limit);
            std::this_thread::sleep_for(milliseconds(20));
        }
    }
    line.send("b", nullptr);
    REQUIRE(line.server.heard.wait_received(2));
    CHECK(line.server.heard.look([](Recorder& self) {
        return self.received_.back().from == self.received_.front().from && self.lost_.empty();
    }));
}

TEST_CASE("TLS network: what was said once and is said again reaches nobody", "[net]") {
    std::string said;
    std::uint16_t port = 0;
    Line line({});
    line.send("once", pattern(2000, 1));
    REQUIRE(line.server.heard.wait_received(1));
    said = line.proxy.said();
    port = line.server.port();
    REQUIRE(said.size() > 2000);
    Socket again(port);
    again.write(said);
    CHECK(again.wait_closed());
    // And the second half of it, into a connection that is open: as a network that repeats segments might.
    Socket half(port);
    half.write(said.substr(said.size() / 2));
    CHECK(half.wait_closed());
    line.send("twice", nullptr);
    REQUIRE(line.server.heard.wait_received(2));
    CHECK(line.server.heard.received_.size() == 2);
    CHECK(line.server.heard.received_.back().header == "twice");
}

TEST_CASE("TLS network: an address that another worker has taken over since is nobody's", "[net]") {
    TlsNode client;
    std::string former;
    net::TlsOptions options = tls_options();
    {
        const TlsNode gone(options);
        former = gone.transport->address();
        options.port_first = options.port_last = gone.port();
    }
    TlsNode next(options);
    const auto peer = client.transport->connect(former);
    REQUIRE(peer);
    REQUIRE(
        client.transport->send(*peer, message(1, "for the former", nullptr), in(kLimit), client.heard.completion("x")));
    REQUIRE(client.heard.wait_lost(*peer));
    next.transport->stop();
    CHECK(next.heard.received_.empty());
}
