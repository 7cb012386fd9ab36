// How much of a hand-off's front its receiver computes: the decision alone, and whole hand-offs over wires that change,
// on a virtual clock, beside who knows the wire.
#include "kv_transfer/rate/front.h"

#include <array>
#include <random>
#include <vector>

#include "kv_transfer/rate/both_ends.h"
#include "kv_transfer/rate/known_ways.h"
#include "kv_transfer/rate/played_front.h"
// Last, see there.
#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"

using kv_transfer::ChangingWire;
using kv_transfer::front_to_take;
using kv_transfer::FrontQuestion;
using kv_transfer::PlayedFront;
using kv_transfer::PlayedFrontOutcome;
using Split = kv_transfer::PlayedFront::Split;

namespace {

constexpr double kGbit = 1e9 / 8;

/// 4,000 tokens left, 1,000 a second come and as many can be computed.
FrontQuestion question() {
    FrontQuestion question;
    question.tokens_left = question.tokens_free = 4000;
    question.wire = question.wire_low = 1000;
    question.computing = 1000;
    return question;
}

/// 9,400 tokens of an 8B's KV (1.2 GB), 5,000 tokens a second computed, as `bench rates` has them.
PlayedFront handoff(Split split) {
    PlayedFront handoff;
    handoff.split = split;
    handoff.tokens = 9400;
    handoff.token_bytes = 131072;
    handoff.frame_bytes = 4 << 20;
    for (const kv_transfer::KnownWay& known : kv_transfer::controller_ways()) {
        if (!known.way.is_lossy) { handoff.ways.push_back(known.way); }
    }
    handoff.computing = 5000;
    return handoff;
}

ChangingWire random_wire(std::mt19937_64& random) {
    ChangingWire wire;
    wire.step_s = std::array{0.05, 0.1, 0.2, 0.4}[random() % 4];
    for (int step = 0; step < 40; ++step) {
        wire.rates.push_back((0.1 + 9.9 * static_cast<double>(random() >> 11) / 0x1p53) * kGbit);
    }
    return wire;
}

}  // namespace

TEST_CASE("a front is taken piece by piece where the wire is what is waited for", "[kv_transfer][front]") {
    FrontQuestion asked = question();
    CHECK(front_to_take(asked) == 62 * 16);  // half of a share of 125 blocks
    asked.tokens_left = asked.tokens_free = 8000;
    CHECK(front_to_take(asked) == 64 * 16);
    asked.tokens_left = asked.tokens_free = 1000;
    CHECK(front_to_take(asked) == 15 * 16);  // half of 31 blocks
    asked.tokens_left = asked.tokens_free = 300;
    CHECK(front_to_take(asked) == 8 * 16);
    asked.tokens_free = 40;  // what is behind has come
    CHECK(front_to_take(asked) == 2 * 16);
    asked.tokens_left = asked.tokens_free = 30;  // 15 ms would be saved
    CHECK(front_to_take(asked) == 0);
}

TEST_CASE("no front is taken of what is not known, nor where it saves little, nor where prefill computes", "[front]") {
    FrontQuestion asked = question();
    SECTION("the wire") {
        asked.wire = asked.wire_low = 0;
    }
    SECTION("what steps take") {
        asked.computing = 0;
    }
    SECTION("the wire is much quicker") {
        asked.wire = asked.wire_low = 10000;
    }
    SECTION("prefill computes for as long") {
        asked.ready_s = 5;
    }
    SECTION("all is in time") {
        asked.left_s = 10;
    }
    CHECK(front_to_take(asked) == 0);
}

TEST_CASE("what has begun goes on, until the rest comes sooner", "[front]") {
    FrontQuestion asked = question();
    asked.wire = asked.wire_low = 10000;
    asked.has_begun = true;
    CHECK(front_to_take(asked) > 0);
    asked.tokens_left = asked.tokens_free = 100;  // of which 9 would be computed
    CHECK(front_to_take(asked) == 0);
    asked = question();
    asked.has_begun = true;
    asked.left_s = 10;  // the wire got quicker: steps are others', too
    CHECK(front_to_take(asked) == 0);
}

TEST_CASE("a wire that may fall is met by both ends before it is too late", "[front]") {
    FrontQuestion asked = question();  // alone 4 s
    asked.left_s = 6;
    CHECK(front_to_take(asked) == 0);
    asked.wire_low = 10;  // 3.96 s by both ends, then
    CHECK(front_to_take(asked) == 0);
    asked.left_s = 4.48;
    CHECK(front_to_take(asked) == 0);
    asked.wire_low = 0.01;  // 4 s, and begun at the next look it would be late
    CHECK(front_to_take(asked) > 0);
    asked.left_s = -1;  // late already: as soon as possible
    CHECK(front_to_take(asked) > 0);
}

TEST_CASE("what is taken is whole blocks of what is free, and never more than a slower wire would have taken",
          "[front][property]") {
    std::mt19937_64 random{5};
    const auto drawn = [&](double most) { return most * static_cast<double>(random() >> 11) / 0x1p53; };
    for (int i = 0; i < 20000; ++i) {
        FrontQuestion asked;
        asked.block_tokens = std::array{1u, 16u, 32u}[random() % 3];
        asked.tokens_left = static_cast<std::uint32_t>(random() % 20000);
        asked.tokens_free = asked.tokens_left == 0 ? 0 : static_cast<std::uint32_t>(random() % asked.tokens_left);
        asked.wire = drawn(20000);
        asked.wire_low = drawn(asked.wire);
        asked.computing = drawn(8000);
        asked.has_begun = random() % 2 == 0;
        asked.ready_s = random() % 2 == 0 ? 0 : drawn(3);
        if (random() % 2 == 0) { asked.left_s = drawn(5) - 0.5; }
        const std::uint32_t taken = front_to_take(asked);
        CAPTURE(i, asked.tokens_left, asked.tokens_free, asked.wire, asked.computing, taken);
        REQUIRE(taken % asked.block_tokens == 0);
        REQUIRE(taken <= asked.tokens_free);
        REQUIRE(taken <= kv_transfer::kFrontBlocksMax * asked.block_tokens);
        if (taken == 0) { continue; }
        asked.wire *= 0.7;
        asked.wire_low *= 0.7;
        REQUIRE(front_to_take(asked) >= taken);
    }
}

TEST_CASE("a wire that changes carries what its steps carry", "[front]") {
    const ChangingWire wire{{100, 300}, 0.5};
    CHECK(wire.bytes_until(0.5) == Approx(50));
    CHECK(wire.bytes_until(1.25) == Approx(50 + 150 + 25));
    CHECK(wire.seconds(0, 50) == Approx(0.5));
    CHECK(wire.seconds(0.25, 25 + 150 + 10) == Approx(0.25 + 0.5 + 0.1));
    std::mt19937_64 random{3};
    for (int i = 0; i < 200; ++i) {
        const ChangingWire drawn = random_wire(random);
        const double begin = static_cast<double>(random() % 1000) / 100;
        const double bytes = static_cast<double>(random() % 1'000'000'000);
        const double end = begin + drawn.seconds(begin, bytes);
        REQUIRE(drawn.bytes_until(end) - drawn.bytes_until(begin) == Approx(bytes).margin(10));
    }
}

TEST_CASE("over a steady wire both ends come near to what is possible, and nobody computes in vain", "[front]") {
    for (const double gbits : {0.1, 0.5, 1.0, 2.0, 5.0, 10.0}) {
        for (const bool is_known : {true, false}) {
            CAPTURE(gbits, is_known);
            const ChangingWire wire{{gbits * kGbit}, 1};
            PlayedFront moves = handoff(Split::moves);
            if (is_known) { moves.wire_known = gbits * kGbit; }
            const PlayedFrontOutcome both = kv_transfer::play_front(moves, wire);
            const double alone = kv_transfer::play_front(handoff(Split::none), wire).seconds;
            const double least = kv_transfer::least_front_seconds(moves, wire);
            CAPTURE(both.seconds, alone, least);
            CHECK(both.seconds >= least);
            // Of a wire that is not known nothing is computed until a frame has told, and the first ones are large.
            CHECK(both.seconds <= 1.15 * least + (is_known ? 0.1 : 0.6));
            CHECK(both.seconds <= alone + 0.05);
            // In time alone: the wire does it.
            moves.due_s = 2 * alone + 1;
            if (is_known) { CHECK(kv_transfer::play_front(moves, wire).tokens_computed == 0); }
        }
    }
}

TEST_CASE("over wires that change, what can be in time is, and a split that was fixed is late more often",
          "[front][property]") {
    std::mt19937_64 random{1};
    int late = 0;
    int late_fixed = 0;
    int late_alone = 0;
    constexpr int kHandoffs = 400;
    for (int i = 0; i < kHandoffs; ++i) {
        const ChangingWire wire = random_wire(random);
        PlayedFront asked = handoff(Split::moves);
        asked.wire_known = wire.rates[random() % wire.rates.size()];  // as it was some time ago
        const double least = kv_transfer::least_front_seconds(asked, wire);
        asked.due_s = 1.4 * least;  // the oracle, to whom frames and pieces are of no size, has some to spare
        late += kv_transfer::play_front(asked, wire).seconds > *asked.due_s ? 1 : 0;
        asked.split = Split::fixed;
        late_fixed += kv_transfer::play_front(asked, wire).seconds > *asked.due_s ? 1 : 0;
        asked.split = Split::none;
        late_alone += kv_transfer::play_front(asked, wire).seconds > *asked.due_s ? 1 : 0;
    }
    CAPTURE(late, late_fixed, late_alone);
    CHECK(late <= kHandoffs / 100);
    CHECK(late_fixed > kHandoffs / 3);
    CHECK(late_alone >= late_fixed);
}
