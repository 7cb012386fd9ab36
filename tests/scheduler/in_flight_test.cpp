#include "scheduler/in_flight.h"

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "tests/support/catch.h"

using base::Epoch;
using base::RequestId;
using scheduler::InFlight;
using scheduler::PendingLoad;
using namespace std::chrono_literals;

namespace {

scheduler::PlacedRequest make_placed(std::uint64_t request, std::uint32_t epoch = 0, std::uint32_t prefill_slot = 0,
                                     std::uint32_t decode_slot = 1) {
    return {.request = RequestId{request},
            .epoch = Epoch{epoch},
            .prefill_slot = prefill_slot,
            .decode_slot = decode_slot,
            .uncached_tokens = 80,
            .prompt_tokens = 100,
            .decode_blocks = 8,
            .ttft_seconds = 0.5,
            .tpot_seconds = 0.01};
}

constexpr PendingLoad kPrefillLoad{.prefill_requests = 1, .prefill_tokens = 80};
constexpr PendingLoad kDecodeLoad{.decode_sequences = 1, .decode_context_tokens = 100, .decode_blocks = 8};

}  // namespace

TEST_CASE("a placement is load until the workers' reports show it", "[scheduler][in_flight]") {
    const base::FakeClock clock;
    InFlight in_flight({});
    in_flight.add(make_placed(1), clock.now());
    REQUIRE(in_flight.pending(0) == kPrefillLoad);
    REQUIRE(in_flight.pending(1) == kDecodeLoad);

    in_flight.heartbeat(0, {}, clock.now());  // may have left before the request came
    REQUIRE(in_flight.pending(0) == kPrefillLoad);
    in_flight.heartbeat(0, {}, clock.now());
    REQUIRE(in_flight.pending(0) == PendingLoad{});

    for (int i = 0; i < 5; ++i) {
        in_flight.heartbeat(1, {}, clock.now());
    }
    REQUIRE(in_flight.pending(1) == kDecodeLoad);  // its KV is not there before the first token
    REQUIRE(in_flight.first_token(RequestId{1}, Epoch{0}, clock.now()).has_value());
    in_flight.heartbeat(1, {}, clock.now());
    REQUIRE(in_flight.pending(1) == kDecodeLoad);
    in_flight.heartbeat(1, {}, clock.now());
    REQUIRE(in_flight.pending(1) == PendingLoad{});
    REQUIRE(in_flight.placements() == 1);
    REQUIRE(in_flight.ended(RequestId{1}, Epoch{0}, clock.now())->first_token_told);
    REQUIRE(in_flight.placements() == 0);
}

TEST_CASE("the first token ends the prefill part and the end ends both", "[scheduler][in_flight]") {
    const base::FakeClock clock;
    InFlight in_flight({});
    in_flight.add(make_placed(1), clock.now());
    REQUIRE(in_flight.first_token(RequestId{1}, Epoch{0}, clock.now())->ttft_seconds == 0.5);
    REQUIRE(in_flight.pending(0) == PendingLoad{});
    REQUIRE(in_flight.pending(1) == kDecodeLoad);
    REQUIRE_FALSE(in_flight.first_token(RequestId{1}, Epoch{0}, clock.now()).has_value());  // told twice
    REQUIRE(in_flight.ended(RequestId{1}, Epoch{0}, clock.now()).has_value());
    REQUIRE(in_flight.pending(1) == PendingLoad{});
    REQUIRE_FALSE(in_flight.ended(RequestId{1}, Epoch{0}, clock.now()).has_value());
}

TEST_CASE("a later epoch replaces a placement and late words about the old one do nothing", "[scheduler][in_flight]") {
    const base::FakeClock clock;
    InFlight in_flight({});
    in_flight.add(make_placed(1, 0, 0, 1), clock.now());
    in_flight.add(make_placed(1, 1, 0, 2), clock.now());
    REQUIRE(in_flight.placed(RequestId{1})->epoch == Epoch{1});
    REQUIRE(in_flight.pending(0) == kPrefillLoad);
    REQUIRE(in_flight.pending(1) == PendingLoad{});
    REQUIRE(in_flight.pending(2) == kDecodeLoad);
    REQUIRE_FALSE(in_flight.first_token(RequestId{1}, Epoch{0}, clock.now()).has_value());
    REQUIRE_FALSE(in_flight.ended(RequestId{1}, Epoch{0}, clock.now()).has_value());
    in_flight.heartbeat(0, {}, clock.now());
    REQUIRE(in_flight.pending(0) ==
            kPrefillLoad);  // the old placement's place in the worker's list counts no heartbeat
    REQUIRE(in_flight.placements() == 1);
}

TEST_CASE("a worker's end takes what was sent to it, and its slot begins anew", "[scheduler][in_flight]") {
    const base::FakeClock clock;
    InFlight in_flight({});
    in_flight.add(make_placed(1), clock.now());
    in_flight.worker_gone(0);
    REQUIRE(in_flight.pending(0) == PendingLoad{});
    REQUIRE(in_flight.pending(1) == kDecodeLoad);
    in_flight.add(make_placed(2, 0, 0, 0), clock.now());  // the next life in slot 0
    REQUIRE(in_flight.first_token(RequestId{1}, Epoch{0}, clock.now()).has_value());
    REQUIRE(in_flight.ended(RequestId{1}, Epoch{0}, clock.now()).has_value());
    REQUIRE(in_flight.pending(0) == PendingLoad{1, 80, 1, 100, 8});
    REQUIRE(in_flight.ended(RequestId{2}, Epoch{0}, clock.now()).has_value());
    REQUIRE(in_flight.pending(0) == PendingLoad{});
}

TEST_CASE("what a gateway never releases stops counting", "[scheduler][in_flight]") {
    base::FakeClock clock;
    InFlight in_flight({.pending_min = 10s, .remembered = 60s});
    in_flight.add(make_placed(1), clock.now());
    auto slow = make_placed(2);
    slow.ttft_seconds = 5;  // counts for 20 s
    in_flight.add(slow, clock.now());
    clock.advance(10s);
    in_flight.heartbeat(1, {}, clock.now());
    REQUIRE(in_flight.pending(1) == kDecodeLoad);
    clock.advance(10s);
    in_flight.heartbeat(1, {}, clock.now());
    REQUIRE(in_flight.pending(1) == PendingLoad{});
    in_flight.expire(clock.now());
    REQUIRE(in_flight.placements() == 2);
    clock.advance(40s);
    in_flight.expire(clock.now());
    REQUIRE(in_flight.placements() == 0);
    REQUIRE(in_flight.pending(0) == PendingLoad{});
}

TEST_CASE("the number of placements is bounded: the oldest are forgotten", "[scheduler][in_flight]") {
    const base::FakeClock clock;
    InFlight in_flight({.placements_max = 3});
    for (std::uint64_t request = 1; request <= 5; ++request) {
        in_flight.add(make_placed(request), clock.now());
    }
    REQUIRE(in_flight.placements() == 3);
    REQUIRE(in_flight.placed(RequestId{2}) == nullptr);
    REQUIRE(in_flight.placed(RequestId{3}) != nullptr);
    REQUIRE(in_flight.pending(0).prefill_requests == 3);
    in_flight.heartbeat(0, {}, clock.now());
    in_flight.heartbeat(0, {}, clock.now());
    REQUIRE(in_flight.pending(0) == PendingLoad{});
}

namespace {

constexpr scheduler::GatewayLife kOne{1};
constexpr scheduler::GatewayLife kTwo{2};

scheduler::PlacedRequest placed_for(scheduler::GatewayLife gateway, std::uint64_t request) {
    scheduler::PlacedRequest placed = make_placed(request);
    placed.gateway = gateway;
    return placed;
}

}  // namespace

TEST_CASE("what was placed for a gateway ends with it, and nobody else ends it", "[scheduler][in_flight]") {
    base::FakeClock clock;
    InFlight in_flight({.gateway_lease = 10s});
    in_flight.add(placed_for(kOne, 1), clock.now());
    in_flight.add(placed_for(kTwo, 2), clock.now());
    REQUIRE_FALSE(in_flight.ended(RequestId{2}, Epoch{0}, clock.now(), kOne).has_value());
    REQUIRE_FALSE(in_flight.first_token(RequestId{2}, Epoch{0}, clock.now(), kOne).has_value());
    REQUIRE_FALSE(in_flight.ended(RequestId{2}, Epoch{0}, clock.now()).has_value());
    clock.advance(9s);
    in_flight.heard(kTwo, clock.now());
    in_flight.expire(clock.now());
    REQUIRE(in_flight.placements() == 2);
    clock.advance(1s);
    in_flight.expire(clock.now());
    REQUIRE(in_flight.placed(RequestId{1}) == nullptr);
    REQUIRE(in_flight.pending(0) == kPrefillLoad);
    REQUIRE(in_flight.pending(1) == kDecodeLoad);
    REQUIRE(in_flight.ended(RequestId{2}, Epoch{0}, clock.now(), kTwo).has_value());
    REQUIRE(in_flight.pending(0) == PendingLoad{});
}

TEST_CASE("a gateway that never releases cannot take the room of the others", "[scheduler][in_flight]") {
    const base::FakeClock clock;
    InFlight in_flight({.placements_max = 4});
    in_flight.add(placed_for(kOne, 1), clock.now());
    for (std::uint64_t request = 100; request < 200; ++request) {
        in_flight.add(placed_for(kTwo, request), clock.now());
    }
    REQUIRE(in_flight.placements() == 4);
    REQUIRE(in_flight.placed(RequestId{1}) != nullptr);
    REQUIRE(in_flight.placed(RequestId{199}) != nullptr);
}

TEST_CASE("gateways with placements are bounded: the one that was silent longest loses its own",
          "[scheduler][in_flight]") {
    base::FakeClock clock;
    InFlight in_flight({.gateways_max = 3});
    for (std::uint64_t gateway = 1; gateway <= 50; ++gateway) {
        in_flight.add(placed_for(scheduler::GatewayLife{gateway}, gateway), clock.now());
        clock.advance(1s);
        in_flight.heard(kOne, clock.now());
    }
    REQUIRE(in_flight.placements() == 3);
    REQUIRE(in_flight.placed(RequestId{1}) != nullptr);
    REQUIRE(in_flight.placed(RequestId{50}) != nullptr);
}

TEST_CASE("who has changed is told once, and no report that says what was expected", "[scheduler][in_flight]") {
    base::FakeClock clock;
    InFlight in_flight({});
    const auto changed = [&in_flight] {
        const auto slots = in_flight.take_changed();
        std::vector<std::uint32_t> sorted(slots.begin(), slots.end());
        std::sort(sorted.begin(), sorted.end());
        return sorted;
    };
    using Slots = std::vector<std::uint32_t>;
    in_flight.add(make_placed(1), clock.now());
    REQUIRE(changed() == Slots{0, 1});
    REQUIRE(changed().empty());
    in_flight.heartbeat(0, {.requests_running = 1, .prefill_tokens_queued = 60}, clock.now());
    REQUIRE(changed() == Slots{0});
    in_flight.heartbeat(1, {}, clock.now());  // it has nothing yet, as was expected
    REQUIRE(changed().empty());
    in_flight.heartbeat(0, {.requests_running = 1, .prefill_tokens_queued = 60}, clock.now());
    REQUIRE(changed() == Slots{0});  // no longer pending, and where it stands now
    clock.advance(100ms);
    REQUIRE(in_flight.first_token(RequestId{1}, Epoch{0}, clock.now()).has_value());
    REQUIRE(changed() == Slots{0, 1});
    in_flight.heartbeat(0, {}, clock.now());
    REQUIRE(changed().empty());
    in_flight.heartbeat(1, {.requests_running = 1, .decode_sequences = 1, .decode_context_tokens = 100}, clock.now());
    REQUIRE(changed().empty());
    in_flight.heartbeat(1, {.requests_running = 1, .decode_sequences = 1, .decode_context_tokens = 101}, clock.now());
    REQUIRE(changed() == Slots{1});
    REQUIRE(in_flight.ended(RequestId{1}, Epoch{0}, clock.now()).has_value());
    REQUIRE(changed() == Slots{0, 1});

    in_flight.add(make_placed(2), clock.now());
    REQUIRE(changed() == Slots{0, 1});
    REQUIRE(in_flight.ended(RequestId{2}, Epoch{0}, clock.now()).has_value());  // without a token
    REQUIRE(changed() == Slots{0, 1});
}
