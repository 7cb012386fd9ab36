#include "net/fault.h"

#include <bit>

#include "net/in_process.h"
#include "tests/net/recorder.h"
// Last, see there.
#include "tests/support/catch.h"

using base::ErrorCode;
using net_test::kLimit;
using net_test::message;
using net_test::pattern;
using net_test::Recorder;
using std::chrono::milliseconds;

namespace {

/// A sender whose messages are hurt by a plan, and a receiver, on a clock that stands still.
struct World {
    explicit World(const std::string& plan_text) {
        auto plan = *net::parse_fault_plan(plan_text);
        plan.own_thread = false;
        const net::InProcessOptions options{.own_thread = false};
        left = net::make_fault_transport(*network->add("left", options, clock), plan, clock);
        right = *network->add("right", options, clock);
        REQUIRE(left->start(at_left));
        REQUIRE(right->start(at_right));
        peer = *left->connect("right");
    }
    ~World() {
        left->stop();
        right->stop();
    }
    void send(unsigned kind, const std::string& header) {
        const auto sent =
            left->send(peer, message(kind, header, data), clock.now() + kLimit, at_left.completion(header));
        if (!sent) { refused.push_back(header); }
    }
    void settle() {
        bool did = true;
        while (did) {
            did = left->tick();
            did = right->tick() || did;
        }
    }
    std::vector<std::string> headers() {
        settle();
        std::vector<std::string> all;
        for (const Recorder::Received& received : at_right.received_) {
            all.push_back(received.header);
        }
        return all;
    }

    base::FakeClock clock;
    std::shared_ptr<net::InProcessNetwork> network = net::InProcessNetwork::make();
    std::shared_ptr<std::vector<std::byte>> data = pattern(1000, 1);
    std::unique_ptr<net::Transport> left;
    std::unique_ptr<net::Transport> right;
    Recorder at_left;
    Recorder at_right;
    net::PeerId peer{};
    std::vector<std::string> refused;
};

using Headers = std::vector<std::string>;

}  // namespace

TEST_CASE("a fault plan is read from text", "[net]") {
    const auto plan = net::parse_fault_plan("seed=7;drop:kind=3,probability=0.25;cut:nth=5;delay:ms=50,probability=1");
    REQUIRE(plan);
    CHECK(plan->seed == 7);
    REQUIRE(plan->rules.size() == 3);
    CHECK(plan->rules[0].fault == net::FaultKind::drop);
    CHECK(plan->rules[0].message_kind == net::MessageKind{3});
    CHECK(plan->rules[0].probability == 0.25);
    CHECK(plan->rules[1].nth == 5);
    CHECK(plan->rules[2].delay == milliseconds(50));
    CHECK(net::parse_fault_plan("")->rules.empty());
    for (const char* bad : {"explode", "drop:probability=2", "drop:nth", "drop:nth=x", "seed=", "drop:color=1"}) {
        CAPTURE(bad);
        REQUIRE(!net::parse_fault_plan(bad));
        CHECK(net::parse_fault_plan(bad).error().code == ErrorCode::invalid_argument);
    }
}

TEST_CASE("dropped: the n-th message of a kind vanishes and its send succeeds", "[net]") {
    World world("drop:kind=2,nth=2");
    world.send(2, "a");
    world.send(1, "b");
    world.send(2, "c");
    world.send(2, "d");
    CHECK(world.headers() == Headers{"a", "b", "d"});
    CHECK(world.at_left.outcome("c"));
}

TEST_CASE("delayed: it leaves when the clock says so", "[net]") {
    World world("delay:nth=1,ms=50");
    world.send(1, "a");
    world.send(1, "b");
    CHECK(world.headers() == Headers{"b"});
    world.clock.advance(milliseconds(49));
    CHECK(world.headers() == Headers{"b"});
    world.clock.advance(milliseconds(1));
    CHECK(world.headers() == Headers{"b", "a"});
    CHECK(world.at_left.outcome("a"));
}

TEST_CASE("reordered: it leaves after the next one, or alone after a while", "[net]") {
    World world("reorder:nth=1,ms=20");
    world.send(1, "a");
    SECTION("after the next") {
        world.send(1, "b");
        CHECK(world.headers() == Headers{"b", "a"});
    }
    SECTION("alone") {
        CHECK(world.headers().empty());
        world.clock.advance(milliseconds(20));
        CHECK(world.headers() == Headers{"a"});
    }
}

TEST_CASE("duplicated: it comes twice and completes once", "[net]") {
    World world("duplicate:nth=1");
    world.send(1, "a");
    CHECK(world.headers() == Headers{"a", "a"});
    for (const Recorder::Received& received : world.at_right.received_) {
        CHECK(received.payload == *world.data);
    }
    CHECK(world.at_left.completions_["a"].size() == 1);
}

TEST_CASE("corrupted: exactly one bit of header or payload differs, and the caller's bytes stay", "[net]") {
    const auto seed = GENERATE(range(0, 30));
    CAPTURE(seed);
    World world("seed=" + std::to_string(seed) + ";corrupt:nth=1");
    world.send(1, "header");
    world.settle();
    REQUIRE(world.at_right.received_.size() == 1);
    const Recorder::Received& received = world.at_right.received_.front();
    int bits = 0;
    for (std::size_t i = 0; i < 6; ++i) {
        bits += std::popcount(static_cast<unsigned>(static_cast<unsigned char>(received.header[i] ^ "header"[i])));
    }
    const auto original = pattern(1000, 1);
    for (std::size_t i = 0; i < 1000; ++i) {
        bits += std::popcount(std::to_integer<unsigned>(received.payload[i] ^ (*original)[i]));
    }
    CHECK(bits == 1);
    CHECK(*world.data == *original);
}

TEST_CASE("cut: the connection is lost on both sides", "[net]") {
    World world("cut:nth=2");
    world.send(1, "a");
    world.settle();
    world.send(1, "b");
    CHECK(world.headers() == Headers{"a"});
    CHECK(world.refused == Headers{"b"});
    CHECK(world.at_left.has_lost(world.peer));
    CHECK(world.at_right.lost_.size() == 1);
}

TEST_CASE("the same seed hurts the same messages", "[net]") {
    const auto run = [](const std::string& seed) {
        World world("seed=" + seed + ";drop:probability=0.5");
        for (int i = 0; i < 64; ++i) {
            world.send(1, std::to_string(i));
        }
        return world.headers();
    };
    CHECK(run("1") == run("1"));
    CHECK(run("1") != run("2"));
}

TEST_CASE("what is held when the transport stops completes as cancelled", "[net]") {
    World world("delay:nth=1,ms=50");
    world.send(1, "a");
    world.left->stop();
    REQUIRE(!world.at_left.outcome("a"));
    CHECK(world.at_left.outcome("a").error().code == ErrorCode::cancelled);
}

TEST_CASE("the fault decorator without rules, with a thread of its own, changes nothing", "[net]") {
    const base::SystemClock clock;
    net_test::check_transport([&] {
        const auto network = net::InProcessNetwork::make();
        net_test::Pair pair;
        pair.left = net::make_fault_transport(*network->add("left", {}, clock), {}, clock);
        pair.right = net::make_fault_transport(*network->add("right", {}, clock), {}, clock);
        REQUIRE(pair.left->start(*pair.heard_left));
        REQUIRE(pair.right->start(*pair.heard_right));
        return pair;
    });
}
