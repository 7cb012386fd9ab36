#include "net/in_process.h"

#include "tests/net/recorder.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using net_test::in;
using net_test::kLimit;
using net_test::message;
using net_test::Pair;
using net_test::pattern;
using net_test::Recorder;

namespace {

const base::SystemClock kClock;

Pair make_pair() {
    const auto network = net::InProcessNetwork::make();
    Pair pair;
    pair.left = *network->add("left", {}, kClock);
    pair.right = *network->add("right", {}, kClock);
    REQUIRE(pair.left->start(*pair.heard_left));
    REQUIRE(pair.right->start(*pair.heard_right));
    return pair;
}

}  // namespace

TEST_CASE("the in-process transport keeps the promises of a transport", "[net]") {
    net_test::check_transport(make_pair);
}

TEST_CASE("in-process: a name can be used once, and again after its transport is gone", "[net]") {
    const auto network = net::InProcessNetwork::make();
    auto first = network->add("a", {}, kClock);
    REQUIRE(first);
    const auto second = network->add("a", {}, kClock);
    REQUIRE(!second);
    CHECK(second.error().code == ErrorCode::failed_precondition);
    first->reset();
    CHECK(network->add("a", {}, kClock));
}

TEST_CASE("in-process: connecting to nobody is reported as a lost peer", "[net]") {
    Pair pair = make_pair();
    const auto peer = pair.left->connect("nobody");
    REQUIRE(peer);
    CHECK(pair.heard_left->wait_lost(*peer));
}

TEST_CASE("in-process: without a thread nothing happens before tick, and deadlines follow the clock", "[net]") {
    base::FakeClock clock;
    const auto network = net::InProcessNetwork::make();
    const net::InProcessOptions options{.own_thread = false};
    auto left = *network->add("left", options, clock);
    auto right = *network->add("right", options, clock);
    Recorder at_left;
    Recorder at_right;
    REQUIRE(left->start(at_left));
    REQUIRE(right->start(at_right));
    const auto peer = left->connect("right");
    REQUIRE(peer);
    const auto data = pattern(1000, 1);
    REQUIRE(left->send(*peer, message(1, "a", data), clock.now() + std::chrono::seconds(1), at_left.completion("a")));
    CHECK(at_right.received_.empty());
    SECTION("delivered by the receiver's tick") {
        CHECK(right->tick());
        CHECK(at_right.received_.size() == 1);
        CHECK(left->tick());
        CHECK(at_left.outcome("a"));
        CHECK(!left->tick());
        CHECK(!right->tick());
    }
    SECTION("a receiver that does not take it lets the send time out") {
        clock.advance(std::chrono::seconds(1));
        CHECK(left->tick());
        REQUIRE(!at_left.outcome("a"));
        CHECK(at_left.outcome("a").error().code == ErrorCode::deadline_exceeded);
        right->tick();
        CHECK(at_right.received_.empty());
    }
    left->stop();
    right->stop();
}

TEST_CASE("in-process: a full inbox refuses", "[net]") {
    base::FakeClock clock;
    const auto network = net::InProcessNetwork::make();
    auto left = *network->add("left", {.own_thread = false}, clock);
    auto right = *network->add("right", {.inbox_messages_max = 2, .own_thread = false}, clock);
    Recorder at_left;
    Recorder at_right;
    REQUIRE(left->start(at_left));
    REQUIRE(right->start(at_right));
    const auto peer = left->connect("right");
    const auto send = [&] {
        return left->send(*peer, message(1, "", nullptr), clock.now() + kLimit, at_left.completion("x"));
    };
    CHECK(send());
    CHECK(send());
    const auto third = send();
    REQUIRE(!third);
    CHECK(third.error().code == ErrorCode::resource_exhausted);
    right->tick();
    CHECK(send());
    left->stop();
    right->stop();
}
