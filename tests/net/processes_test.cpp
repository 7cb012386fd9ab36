// What holds for every transport between processes, with real ones that are killed and stopped.
#include <signal.h>

#include "tests/net/carriers.h"
#include "tests/net/child.h"
#include "tests/net/recorder.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using net_test::Child;
using net_test::in;
using net_test::kLimit;
using net_test::message;
using net_test::Pair;
using net_test::pattern;
using net_test::Recorder;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

const base::SystemClock kClock;

std::string any_carrier() {
    const auto* const carrier = GENERATE(values({"ucx", "tls"}));
    return carrier;
}

/// One started transport of this process.
struct Here {
    explicit Here(const std::string& carrier) : transport(net_test::make_carrier(carrier, kClock, seconds(1))) {
        REQUIRE(transport->start(heard));
    }
    ~Here() { transport->stop(); }
    Recorder heard;
    std::unique_ptr<net::Transport> transport;
};

Pair make_pair(const std::string& carrier) {
    Pair pair;
    pair.left = net_test::make_carrier(carrier, kClock);
    pair.right = net_test::make_carrier(carrier, kClock);
    REQUIRE(pair.left->start(*pair.heard_left));
    REQUIRE(pair.right->start(*pair.heard_right));
    return pair;
}

}  // namespace

TEST_CASE("between processes: a transport talks to itself", "[net]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    Here here(carrier);
    const auto peer = here.transport->connect(here.transport->address());
    REQUIRE(peer);
    const auto data = pattern(1u << 20, 3);
    REQUIRE(here.transport->send(*peer, message(1, "self", data), in(kLimit), here.heard.completion("self")));
    REQUIRE(here.heard.wait_received(1));
    CHECK(here.heard.received_.front().payload == *data);
    CHECK(here.heard.outcome("self"));
}

TEST_CASE("between processes: two transports that connect to each other at the same time both get through", "[net]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    Pair pair = make_pair(carrier);
    const auto to_right = pair.left->connect(pair.right->address());
    const auto to_left = pair.right->connect(pair.left->address());
    REQUIRE(to_right);
    REQUIRE(to_left);
    const auto data = pattern(1u << 20, 4);
    REQUIRE(pair.left->send(*to_right, message(1, "r", data), in(kLimit), pair.heard_left->completion("r")));
    REQUIRE(pair.right->send(*to_left, message(1, "l", data), in(kLimit), pair.heard_right->completion("l")));
    REQUIRE(pair.heard_right->wait_received(1));
    REQUIRE(pair.heard_left->wait_received(1));
    CHECK(pair.heard_right->received_.front().payload == *data);
    CHECK(pair.heard_left->received_.front().payload == *data);
}

TEST_CASE("between processes: two processes exchange messages both ways", "[net]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    Child child(SLUICE_NET_PEER, {carrier, "sink"});
    Here here(carrier);
    const auto peer = here.transport->connect(net_test::from_hex(child.read_line()));
    REQUIRE(peer);
    const auto data = pattern(std::size_t{4} << 20, 1);
    for (int i = 0; i < 10; ++i) {
        REQUIRE(here.transport->send(*peer, message(1, "", data), in(kLimit), here.heard.completion("x")));
        REQUIRE(here.heard.wait_received(static_cast<std::size_t>(i) + 1));
        CHECK(here.heard.received_.back().header == std::to_string(data->size()));
    }
}

TEST_CASE("between processes: a killed receiver ends the sends and is lost", "[net]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    Child child(SLUICE_NET_PEER, {carrier, "sink"});
    Here here(carrier);
    const auto peer = here.transport->connect(net_test::from_hex(child.read_line()));
    REQUIRE(peer);
    REQUIRE(here.transport->send(*peer, message(1, "", nullptr), in(kLimit), here.heard.completion("first")));
    REQUIRE(here.heard.wait_received(1));
    child.signal(SIGSTOP);  // so that the payloads are certainly under way when it dies
    const auto data = pattern(std::size_t{4} << 20, 1);
    for (int i = 0; i < 4; ++i) {
        REQUIRE(
            here.transport->send(*peer, message(1, "", data), in(kLimit), here.heard.completion(std::to_string(i))));
    }
    child.kill();
    REQUIRE(here.heard.wait_lost(*peer));
    for (int i = 0; i < 4; ++i) {
        const auto outcome = here.heard.outcome(std::to_string(i));
        REQUIRE(!outcome);
        CHECK(outcome.error().code == ErrorCode::unavailable);
    }
    CHECK(data.use_count() == 1);
}

TEST_CASE("between processes: a stopped receiver lets a send end at its deadline, and is lost", "[net]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    Child child(SLUICE_NET_PEER, {carrier, "sink"});
    Here here(carrier);
    const std::string address = net_test::from_hex(child.read_line());
    const auto peer = here.transport->connect(address);
    REQUIRE(peer);
    REQUIRE(here.transport->send(*peer, message(1, "", nullptr), in(kLimit), here.heard.completion("first")));
    REQUIRE(here.heard.wait_received(1));
    child.signal(SIGSTOP);
    const auto data = pattern(std::size_t{4} << 20, 1);
    REQUIRE(here.transport->send(*peer, message(1, "", data), in(milliseconds(200)), here.heard.completion("late")));
    const auto outcome = here.heard.outcome("late");
    REQUIRE(!outcome);
    CHECK(outcome.error().code == ErrorCode::deadline_exceeded);
    REQUIRE(here.heard.wait_lost(*peer));
    CHECK(data.use_count() == 1);

    // When it wakes up, a new connection works.
    child.signal(SIGCONT);
    const auto again = here.transport->connect(address);
    REQUIRE(again);
    REQUIRE(here.transport->send(*again, message(5, "", data), in(kLimit), here.heard.completion("again")));
    REQUIRE(here.heard.wait([](Recorder& self) { return self.received_.back().kind == net::MessageKind{6}; }));
}

TEST_CASE("between processes: a killed or stopped sender ends the payloads under way", "[net]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    const bool stop = GENERATE(false, true);
    CAPTURE(stop);
    Here here(carrier);
    here.heard.set_payload_timeout(stop ? base::Duration(milliseconds(300)) : base::Duration(kLimit));
    Child child(SLUICE_NET_PEER, {carrier, "source", net_test::to_hex(here.transport->address())});
    REQUIRE(here.heard.wait_received(3));
    const net::PeerId from = here.heard.received_.front().from;
    child.signal(SIGSTOP);
    if (!stop) { child.kill(); }
    // A stopped process that has nothing under way is not noticed here: that is for whoever uses the transport.
    REQUIRE(here.heard.wait([&](Recorder& self) { return self.under_way_.empty(); }));
    if (!stop) {
        REQUIRE(here.heard.wait_lost(from));
        CHECK(here.heard.under_way_.empty());
    }
    for (const Recorder::Received& received : here.heard.received_) {
        if (received.outcome->has_value()) { CHECK(received.payload.size() == std::size_t{4} << 20); }
    }
}

TEST_CASE("between processes: an address behind which nobody is any more ends with a lost peer", "[net]") {
    const std::string carrier = any_carrier();
    CAPTURE(carrier);
    std::string address;
    {
        Child child(SLUICE_NET_PEER, {carrier, "sink"});
        address = net_test::from_hex(child.read_line());
        child.kill();
    }
    Here here(carrier);
    const auto peer = here.transport->connect(address);
    REQUIRE(peer);
    static_cast<void>(here.transport->send(*peer, message(1, "", nullptr), in(kLimit), here.heard.completion("x")));
    REQUIRE(here.heard.wait_lost(*peer));
}
