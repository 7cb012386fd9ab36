// Who reaches the port of the TLS transport and is not of the cluster, or is and does not keep to the protocol.
#include <algorithm>
#include <list>
#include <random>

#include "tests/net/tls_node.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using net::MessageKind;
using net::TlsFrame;
using net_test::in;
using net_test::Insider;
using net_test::kLimit;
using net_test::message;
using net_test::pattern;
using net_test::Socket;
using net_test::tls_options;
using net_test::TlsNode;
using std::chrono::milliseconds;
using std::chrono::seconds;
using Type = net::TlsFrame::Type;

namespace {

const base::HashKey kOtherKey = *base::parse_hash_key(std::string(32, '7'));

/// Two honest nodes, of which the left is attacked.
struct Cluster {
    explicit Cluster(const net::TlsOptions& options = tls_options()) : left(options), right(options) {}

    /// Both ways, over a connection that is made now if there is none.
    void check_honest() {
        ++rounds;
        const auto peer = right.transport->connect(left.transport->address());
        REQUIRE(peer);
        const std::string name = "honest " + std::to_string(rounds);
        const auto data = pattern(100'000, rounds);
        REQUIRE(right.transport->send(*peer, message(9, name, data), in(kLimit), right.heard.completion(name)));
        REQUIRE(left.heard.wait([&](net_test::Recorder& self) {
            return std::any_of(self.received_.begin(), self.received_.end(),
                               [&](const auto& received) { return received.header == name && received.outcome; });
        }));
        CHECK(left.heard.look([&](net_test::Recorder& self) {
            return std::any_of(self.received_.begin(), self.received_.end(), [&](const auto& received) {
                return received.header == name && received.payload == *data;
            });
        }));
        CHECK(right.heard.outcome(name));
    }

    TlsNode left;
    TlsNode right;
    unsigned rounds = 0;
};

std::string hello_bytes(const std::string& whom, const std::string& own) {
    const auto opened = base::open_address({}, whom, base::AddressKind::tls);
    return net::write_hello({base::raw(opened->life), 1, own});
}

}  // namespace

TEST_CASE("TLS hostile: garbage and plain text end a connection and nothing else", "[net][hostile]") {
    Cluster cluster;
    cluster.check_honest();
    std::vector<std::string> pieces{
        std::string(100, '\0'),
        std::string(9, '\xff'),
        "GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + std::string(80, '\0'),
        std::string("\x16\x03\x03\xff\xff\x01\xff\xff\xff", 9),            // a record and a hello of 16 MiB
        std::string("\x17\x03\x03\x40\x00", 5) + std::string(16384, 'x'),  // data before the handshake
        std::string("\x15\x03\x03\x00\x02\x02\x28", 7),                    // an alert
    };
    std::mt19937_64 random{5};
    for (int i = 0; i < 40; ++i) {
        std::string bytes(random() % 300 + 1, '\0');
        for (char& byte : bytes) {
            byte = static_cast<char>(random());
        }
        pieces.push_back(bytes);
    }
    for (const std::string& piece : pieces) {
        Socket stranger(cluster.left.port());
        stranger.write(piece);
        stranger.end_writing();
        CHECK(stranger.wait_closed());
    }
    cluster.check_honest();
    CHECK(cluster.right.heard.look([](net_test::Recorder& self) { return self.lost_.empty(); }));
}

TEST_CASE("TLS hostile: TLS 1.2, no certificate, another key and another protocol are refused", "[net][hostile]") {
    Cluster cluster;
    const auto refused = [&](const auto& change) {
        auto options = tls_options();
        net::SslContext context = *net::make_ssl_context(options);
        change(*context);
        Socket socket(cluster.left.port());
        SSL* const ssl = SSL_new(context.get());
        SSL_set_fd(ssl, socket.descriptor());
        SSL_set_connect_state(ssl);
        // A client of TLS 1.3 may believe for a moment that it is in: it learns with the first bytes that it is not.
        char byte = 0;
        const bool is_in = SSL_do_handshake(ssl) == 1 && SSL_read(ssl, &byte, 1) > 0;
        SSL_free(ssl);
        return !is_in;
    };
    CHECK(refused([](SSL_CTX& context) {
        SSL_CTX_set_min_proto_version(&context, TLS1_2_VERSION);
        SSL_CTX_set_max_proto_version(&context, TLS1_2_VERSION);
    }));
    CHECK(refused([](SSL_CTX& context) { SSL_CTX_set_alpn_protos(&context, nullptr, 0); }));
    CHECK(refused([](SSL_CTX& context) {
        SSL_CTX_set_alpn_protos(&context, reinterpret_cast<const unsigned char*>("\x02h2"), 3);
    }));
    const net::SslContext other = *net::make_ssl_context(tls_options(kOtherKey));
    CHECK(refused([&](SSL_CTX& context) {
        SSL_CTX_use_certificate(&context, SSL_CTX_get0_certificate(other.get()));
        SSL_CTX_use_PrivateKey(&context, SSL_CTX_get0_privatekey(other.get()));
        SSL_CTX_set_cert_verify_callback(&context, [](X509_STORE_CTX*, void*) { return 1; }, nullptr);
    }));
    {
        // No certificate at all.
        net::SslContext bare(SSL_CTX_new(TLS_client_method()));
        SSL_CTX_set_alpn_protos(bare.get(), reinterpret_cast<const unsigned char*>("\x0bsluice-kv/1"), 12);
        Socket socket(cluster.left.port());
        SSL* const ssl = SSL_new(bare.get());
        SSL_set_fd(ssl, socket.descriptor());
        SSL_set_connect_state(ssl);
        char byte = 0;
        CHECK_FALSE((SSL_do_handshake(ssl) == 1 && SSL_read(ssl, &byte, 1) > 0));
        SSL_free(ssl);
    }
    // A worker of another cluster that knows where we are: it takes us for nobody of its own.
    TlsNode stranger(tls_options(kOtherKey));
    const std::string ours = net_test::with_port(stranger.transport->address(), cluster.left.port(), kOtherKey);
    const auto peer = stranger.transport->connect(ours);
    REQUIRE(peer);
    REQUIRE(
        stranger.transport->send(*peer, message(1, "hear me", nullptr), in(kLimit), stranger.heard.completion("x")));
    REQUIRE(stranger.heard.wait_lost(*peer));
    cluster.check_honest();
    CHECK(cluster.left.heard.look([](net_test::Recorder& self) { return self.received_.size() == 1; }));
}

TEST_CASE("TLS hostile: half-open connections lock nobody out, and end", "[net][hostile]") {
    net::TlsOptions options = tls_options();
    options.strangers_max = 24;
    options.strangers_per_address_max = 16;
    options.handshake_timeout = seconds(2);
    Cluster cluster(options);
    std::list<Socket> held;
    for (int i = 0; i < 100; ++i) {
        held.emplace_back(cluster.left.port());
        if (i % 2 == 0) { held.back().write(std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11)); }
    }
    cluster.check_honest();
    for (Socket& socket : held) {
        CHECK(socket.wait_closed());
    }
    cluster.check_honest();
}

TEST_CASE("TLS hostile: who has the key but greets wrongly is thrown out", "[net][hostile]") {
    Cluster cluster;
    const std::string whom = cluster.left.transport->address();
    const std::string own = base::seal_address({}, base::Incarnation{7}, "127.0.0.1:1", base::AddressKind::tls);
    const std::string good = hello_bytes(whom, own);
    std::vector<std::string> hellos{
        std::string(),
        good.substr(0, 10),
        good.substr(0, good.size() - 1),
        std::string(1024, 'x'),
        hello_bytes(whom, base::seal_address({}, base::Incarnation{7}, "of UCX")),
        hello_bytes(whom, base::seal_address(kOtherKey, base::Incarnation{7}, "127.0.0.1:1", base::AddressKind::tls)),
        std::string(8, '\x01') + good.substr(8),  // for another life
    };
    for (const std::string& hello : hellos) {
        CAPTURE(hello.size());
        Insider insider(cluster.left.port());
        REQUIRE(insider.is_in());
        insider.say({.type = Type::hello, .header_bytes = static_cast<std::uint32_t>(hello.size())}, hello);
        CHECK(insider.is_thrown_out());
    }
    for (const TlsFrame& first :
         {TlsFrame{.type = Type::message}, TlsFrame{.type = Type::hello_ack}, TlsFrame{.type = Type::ping},
          TlsFrame{.type = Type::bulk, .number = 1, .payload_bytes = 1},
          TlsFrame{.type = Type::data, .payload_bytes = 4}, TlsFrame{.type = Type::refuse}}) {
        Insider insider(cluster.left.port());
        insider.say(first);
        CHECK(insider.is_thrown_out());
    }
    cluster.check_honest();
    CHECK(cluster.left.heard.look([](net_test::Recorder& self) { return self.received_.size() == 1; }));
}

TEST_CASE("TLS hostile: frames that have no place in an open connection end it", "[net][hostile]") {
    Cluster cluster;
    const std::string whom = cluster.left.transport->address();
    const TlsFrame bulk{.type = Type::bulk, .kind = MessageKind{3}, .number = 1, .payload_bytes = 100};
    std::vector<std::vector<TlsFrame>> wrongs{
        {{.type = Type::hello, .header_bytes = 0}},
        {{.type = Type::hello_ack}},
        {{.type = Type::data, .payload_bytes = 1}},
        {{.type = Type::abort}},
        {bulk, bulk},
        {bulk, {.type = Type::abort}},  // nobody has refused it
        {bulk, {.type = Type::data, .payload_bytes = 101}},
        {{.type = Type::bulk, .kind = MessageKind{3}, .number = 2, .payload_bytes = 100}},
        {{.type = Type::bulk, .number = 1, .payload_bytes = 0xffffffff}},
        {{.type = Type::message, .header_bytes = 0xffffffff}},
        {{.type = Type::message, .payload_bytes = 0xffffffff}},
        {{.type = Type{77}}},
        {{.type = Type::bye}},
    };
    std::uint64_t life = 100;
    for (const auto& wrong : wrongs) {
        CAPTURE(static_cast<int>(wrong.back().type), wrong.size());
        Insider insider(cluster.left.port());
        insider.greet(whom, ++life);
        REQUIRE(insider.hear().type == Type::hello_ack);
        for (const TlsFrame& frame : wrong) {
            insider.say(frame);
        }
        CHECK(insider.is_thrown_out());
    }
    cluster.check_honest();
    // Targets that were given for what never came are given back.
    REQUIRE(cluster.left.heard.wait([](net_test::Recorder& self) { return self.under_way_.empty(); }));
}

TEST_CASE("TLS hostile: random frames of somebody inside never end the process", "[net][hostile][fuzz]") {
    Cluster cluster;
    const std::string whom = cluster.left.transport->address();
    std::mt19937_64 random{3};
    for (std::uint64_t round = 1; round <= 40; ++round) {
        Insider insider(cluster.left.port());
        insider.greet(whom, 1000 + round);
        std::string bytes;
        std::uint32_t bulks = 0;
        for (int i = 0; i < 60; ++i) {
            TlsFrame frame{.type = static_cast<Type>(random() % 11)};
            frame.kind = MessageKind{static_cast<std::uint16_t>(random() % 3)};
            if (random() % 2 == 0) { frame.header_bytes = static_cast<std::uint32_t>(random() % 40); }
            frame.payload_bytes = static_cast<std::uint32_t>(random() % 200);
            if (frame.type == Type::bulk) { frame.number = ++bulks; }
            const auto head = net::write_frame(frame);
            bytes.append(reinterpret_cast<const char*>(head.data()), head.size());
            bytes.append(frame.header_bytes + (frame.type == Type::bulk ? 0 : frame.payload_bytes), 'r');
        }
        insider.say_bytes(bytes);
        insider.socket().close();
    }
    cluster.check_honest();
    REQUIRE(cluster.left.heard.wait([](net_test::Recorder& self) { return self.under_way_.empty(); }));
    CHECK(cluster.left.heard.stray_payloads_ == 0);
}

TEST_CASE("TLS hostile: a payload that never comes ends with its target's deadline", "[net][hostile]") {
    const bool is_bulk = GENERATE(true, false);
    CAPTURE(is_bulk);
    Cluster cluster;
    cluster.left.heard.set_payload_timeout(milliseconds(200));
    Insider insider(cluster.left.port());
    insider.greet(cluster.left.transport->address(), 5);
    REQUIRE(insider.hear().type == Type::hello_ack);
    if (is_bulk) {
        insider.say({.type = Type::bulk, .kind = MessageKind{3}, .number = 1, .payload_bytes = 100'000});
        insider.say({.type = Type::data, .payload_bytes = 50'000}, std::string(20'000, 'd'));
    } else {
        insider.say({.type = Type::message, .kind = MessageKind{3}, .payload_bytes = 1000}, "a few");
    }
    CHECK(insider.is_thrown_out());
    REQUIRE(cluster.left.heard.wait([](net_test::Recorder& self) { return !self.lost_.empty(); }));
    REQUIRE(cluster.left.heard.received_.size() == 1);
    REQUIRE(cluster.left.heard.received_.front().outcome);
    CHECK(cluster.left.heard.received_.front().outcome->error().code == ErrorCode::deadline_exceeded);
    cluster.left.heard.set_payload_timeout(seconds(30));
    cluster.check_honest();
}

TEST_CASE("TLS hostile: who asks without end and reads no answer is cut off, or waited for", "[net][hostile]") {
    net::TlsOptions options = tls_options();
    options.silence_timeout = seconds(3);
    Cluster cluster(options);
    cluster.left.heard.refuse(true);
    Insider insider(cluster.left.port());
    insider.greet(cluster.left.transport->address(), 5);
    REQUIRE(insider.hear().type == Type::hello_ack);
    // Every one is refused, and the refusals are not read; memory for them is bounded, so the connection ends, or the
    // sockets are full and silence ends it. Sending fails when it has.
    std::string all;
    for (std::uint32_t number = 1; number <= 4096; ++number) {
        for (const TlsFrame& frame : {TlsFrame{.type = Type::bulk, .number = number, .payload_bytes = 1},
                                      TlsFrame{.type = Type::data, .payload_bytes = 1}, TlsFrame{.type = Type::ping}}) {
            const auto head = net::write_frame(frame);
            all.append(reinterpret_cast<const char*>(head.data()), head.size());
            if (frame.type == Type::data) { all += 'x'; }
        }
    }
    insider.say_bytes(all);
    cluster.left.heard.refuse(false);
    cluster.check_honest();
}

TEST_CASE("TLS hostile: one life has one connection, the newest, and the peers are bounded", "[net][hostile]") {
    net::TlsOptions options = tls_options();
    options.peers_max = 4;
    Cluster cluster(options);
    const std::string whom = cluster.left.transport->address();
    Insider first(cluster.left.port());
    first.greet(whom, 5, 1);
    REQUIRE(first.hear().type == Type::hello_ack);
    Insider second(cluster.left.port());
    second.greet(whom, 5, 2);
    REQUIRE(second.hear().type == Type::hello_ack);
    CHECK(first.is_thrown_out());
    Insider late(cluster.left.port());  // begun before the second, heard after it
    late.greet(whom, 5, 1);
    CHECK(late.is_thrown_out());
    std::list<Insider> others;
    for (std::uint64_t life = 10; life < 13; ++life) {
        others.emplace_back(cluster.left.port());
        others.back().greet(whom, life);
        REQUIRE(others.back().hear().type == Type::hello_ack);
    }
    Insider fifth(cluster.left.port());
    fifth.greet(whom, 20);
    CHECK(fifth.is_thrown_out());
    CHECK(cluster.left.transport->connect(cluster.right.transport->address()).error().code ==
          ErrorCode::resource_exhausted);
    others.clear();
    REQUIRE(cluster.left.heard.wait([](net_test::Recorder& self) { return self.lost_.size() == 4; }));
    cluster.check_honest();
}
