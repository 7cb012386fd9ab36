#include "net/by_host.h"

#include <unistd.h>

#include "base/seal.h"
#include "net/in_process.h"
#include "tests/net/recorder.h"
// Last, see there.
#include "tests/support/catch.h"

using base::AddressKind;
using base::ErrorCode;
using net_test::in;
using net_test::kLimit;
using net_test::message;
using net_test::Pair;
using net_test::pattern;
using net_test::Recorder;

namespace {

const base::SystemClock kClock;
const net::HostId kHere{std::byte{1}};
const net::HostId kThere{std::byte{2}};

/// In the places of UCX and TLS: two networks of one process.
struct Networks {
    std::shared_ptr<net::InProcessNetwork> local = net::InProcessNetwork::make();
    std::shared_ptr<net::InProcessNetwork> remote = net::InProcessNetwork::make();

    std::unique_ptr<net::Transport> node(const std::string& name, std::uint64_t life, const net::HostId& host,
                                         bool has_local = true, bool has_remote = true) const {
        std::unique_ptr<net::Transport> near;
        std::unique_ptr<net::Transport> far;
        if (has_local) { near = std::move(*local->add("local " + name, {}, kClock)); }
        if (has_remote) { far = std::move(*remote->add("remote " + name, {}, kClock)); }
        return net::make_by_host_transport({.life = base::Incarnation{life}, .host = host}, std::move(near),
                                           std::move(far));
    }
};

/// By which of the two the peer is reached.
bool is_remote(net::PeerId peer) {
    return net::raw(peer) % 2 == 1;
}

}  // namespace

TEST_CASE("by host: one transport made of two keeps the promises of a transport", "[net]") {
    const bool is_one_host = GENERATE(true, false);
    CAPTURE(is_one_host);
    net_test::check_transport([&] {
        const Networks networks;
        Pair pair;
        pair.left = networks.node("left", 1, kHere);
        pair.right = networks.node("right", 2, is_one_host ? kHere : kThere);
        REQUIRE(pair.left->start(*pair.heard_left));
        REQUIRE(pair.right->start(*pair.heard_right));
        return pair;
    });
}

TEST_CASE("by host: peers of the host are reached by the one, others by the other", "[net]") {
    const Networks networks;
    const auto left = networks.node("left", 1, kHere);
    const auto near = networks.node("near", 2, kHere);
    const auto far = networks.node("far", 3, kThere);
    Recorder heard[3];
    REQUIRE(left->start(heard[0]));
    REQUIRE(near->start(heard[1]));
    REQUIRE(far->start(heard[2]));
    const auto to_near = left->connect(near->address());
    const auto to_far = left->connect(far->address());
    REQUIRE(to_near);
    REQUIRE(to_far);
    CHECK_FALSE(is_remote(*to_near));
    CHECK(is_remote(*to_far));
    CHECK(left->name() == "auto");
    REQUIRE(left->send(*to_near, message(1, "near", pattern(10, 1)), in(kLimit), heard[0].completion("near")));
    REQUIRE(left->send(*to_far, message(2, "far", pattern(20, 2)), in(kLimit), heard[0].completion("far")));
    REQUIRE(heard[1].wait_received(1));
    REQUIRE(heard[2].wait_received(1));
    CHECK(heard[1].received_.front().header == "near");
    CHECK(heard[2].received_.front().header == "far");
    CHECK(heard[0].outcome("near"));
    CHECK(heard[0].outcome("far"));
    left->stop();
    near->stop();
    far->stop();
}

TEST_CASE("by host: who has one of the two uses what the other side's book says about it", "[net]") {
    const Networks networks;
    const auto both = networks.node("both", 1, kThere);
    const auto near = networks.node("near", 2, kHere, true, false);
    const auto far = networks.node("far", 3, kHere, false, true);
    Recorder heard[3];
    REQUIRE(both->start(heard[0]));
    REQUIRE(near->start(heard[1]));
    REQUIRE(far->start(heard[2]));
    const auto by_local = near->connect(both->address());
    const auto by_remote = far->connect(both->address());
    REQUIRE(by_local);
    REQUIRE(by_remote);
    CHECK_FALSE(is_remote(*by_local));
    CHECK(is_remote(*by_remote));
    CHECK(near->name() == "inprocess");
    // An address that names only what is not there, and one that nobody sealed.
    const auto tls = base::seal_address({}, base::Incarnation{9}, "127.0.0.1:1", AddressKind::tls);
    CHECK(near->connect(tls).error().code == ErrorCode::failed_precondition);
    const auto ucx = base::seal_address({}, base::Incarnation{9}, "x");
    CHECK(far->connect(ucx).error().code == ErrorCode::failed_precondition);
    for (const std::string& bad : {std::string(), std::string(9, 'x'), both->address() + "x", std::string(400, '\xff'),
                                   base::seal_address({}, base::Incarnation{9}, "no book", AddressKind::book)}) {
        CHECK_FALSE(near->connect(bad));
        CHECK_FALSE(both->connect(bad));
    }
    both->stop();
    near->stop();
    far->stop();
}

TEST_CASE("by host: a peer of this host that is not to be had is tried over the network the next time", "[net]") {
    const Networks networks;
    const auto left = networks.node("left", 1, kHere);
    Recorder heard;
    REQUIRE(left->start(heard));
    // It says that it shares memory with us; behind that name is nobody.
    const auto right = networks.node("right", 2, kThere);
    Recorder heard_right;
    REQUIRE(right->start(heard_right));
    const std::string address = base::seal_address(
        {}, base::Incarnation{2}, net::write_address_book({kHere, "local nobody", "remote right"}), AddressKind::book);
    const auto first = left->connect(address);
    if (first) {
        CHECK_FALSE(is_remote(*first));
        REQUIRE(heard.wait_lost(*first));
        const auto second = left->connect(address);
        REQUIRE(second);
        CHECK(is_remote(*second));
        REQUIRE(left->send(*second, message(1, "here", nullptr), in(kLimit), heard.completion("x")));
        REQUIRE(heard_right.wait_received(1));
    }
    CHECK(first);
    left->stop();
    right->stop();
}

TEST_CASE("by host: a host is the same for its processes and says nothing without the key", "[net]") {
    const base::HashKey key = base::random_hash_key();
    CHECK(net::this_host(key) == net::this_host(key));
    CHECK(net::this_host(key) != net::this_host(base::random_hash_key()));
}
