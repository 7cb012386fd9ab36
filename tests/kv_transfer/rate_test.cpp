// The rate controller and what it knows of a wire, on a virtual clock. What it does to whole hand-offs over all kinds
// of wires: tests/bench/kv_rates_test.cpp.
#include <cstdlib>
#include <random>

#include "kv_transfer/rate/known_ways.h"
#include "kv_transfer/rate/played_handoff.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_transfer::Bandwidth;
using kv_transfer::choose_way;
using kv_transfer::RateAnswer;
using kv_transfer::RateQuestion;
using kv_transfer::WayToSend;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr double kGbit = 1e9 / 8;
constexpr std::uint64_t kMegabyte = 1'000'000;

std::vector<WayToSend> ways() {
    std::vector<WayToSend> ways;
    for (const kv_transfer::KnownWay& known : kv_transfer::controller_ways()) {
        ways.push_back(known.way);
    }
    return ways;
}

RateQuestion question(double gbits) {
    RateQuestion question;
    question.bytes_left = 100 * kMegabyte;
    question.frame_bytes = 4 * kMegabyte;
    question.wire = question.wire_low = gbits * kGbit;
    return question;
}

}  // namespace

TEST_CASE("a steady wire is known after one sample, by every estimator", "[kv_transfer][rate]") {
    Bandwidth wire;
    REQUIRE_FALSE(wire.is_known());
    CHECK(wire.expected() == 0);
    for (int i = 0; i < 3; ++i) {
        wire.add(kMegabyte, milliseconds(8));
        for (const double rate : {wire.last(), wire.harmonic(), wire.fast(), wire.slow(), wire.expected()}) {
            CHECK(rate == Approx(kGbit));
        }
        CHECK(wire.low() < 0.5 * kGbit);  // it may be one that changes
    }
    for (int i = 0; i < 60; ++i) {
        wire.add(125 * kMegabyte / 2, milliseconds(500));
    }
    CHECK(wire.low() > 0.99 * kGbit);
}

TEST_CASE("small messages make one sample together", "[kv_transfer][rate]") {
    Bandwidth wire;
    for (int i = 0; i < 31; ++i) {
        wire.add(1024, std::chrono::microseconds(100));
    }
    REQUIRE_FALSE(wire.is_known());
    wire.add(1024, std::chrono::microseconds(100));
    REQUIRE(wire.last() == Approx(1024 / 100e-6));
}

TEST_CASE("a wire that falls is believed at once, one that rises slowly", "[kv_transfer][rate]") {
    Bandwidth wire;
    for (int i = 0; i < 10; ++i) {
        wire.add(125 * kMegabyte, seconds(1));
    }
    wire.add(125 * kMegabyte / 10, seconds(1));
    CHECK(wire.expected() < 0.15 * kGbit);  // the fast mean has forgotten the rest
    CHECK(wire.low() < 0.02 * kGbit);       // it was wrong by nine times
    wire.add(125 * kMegabyte / 10, milliseconds(100));
    CHECK(wire.last() == Approx(kGbit));
    CHECK(wire.expected() < 0.6 * kGbit);
}

TEST_CASE("the meter counts the time that the wire was busy, not what lies between", "[kv_transfer][rate]") {
    kv_transfer::WireMeter meter;
    const base::TimePoint begin{seconds(10)};
    meter.landed(begin, begin + milliseconds(80), 10 * kMegabyte);
    CHECK(meter.bandwidth().last() == Approx(kGbit));
    // Given to the wire together: the second one waits for the first.
    meter.landed(begin + seconds(5), begin + seconds(5) + milliseconds(80), 10 * kMegabyte);
    meter.landed(begin + seconds(5), begin + seconds(5) + milliseconds(160), 10 * kMegabyte);
    CHECK(meter.bandwidth().last() == Approx(kGbit));
    CHECK(meter.bandwidth().expected() == Approx(kGbit));
    meter.landed(begin, begin, 1);  // nonsense of a clock counts for nothing
    CHECK(meter.bandwidth().last() == Approx(kGbit));
}

TEST_CASE("what is long has more time on the wire, what is short none", "[kv_transfer][rate]") {
    CHECK(kv_transfer::slow_wire_time(0) == base::Duration{});
    CHECK(kv_transfer::slow_wire_time(kv_transfer::kWireSlowest - 1) == base::Duration{});
    CHECK(kv_transfer::slow_wire_time(4 * kv_transfer::kWireSlowest) == seconds(4));
}

TEST_CASE("nothing is coded where the wire outruns the coder", "[kv_transfer][rate]") {
    for (const bool allow_lossy : {false, true}) {
        RateQuestion fast = question(100);
        fast.allow_lossy = allow_lossy;
        CHECK(choose_way(ways(), fast).way == 0);
    }
}

TEST_CASE("without permission nothing is lost, however late it is", "[kv_transfer][rate]") {
    RateQuestion slow = question(0.1);
    CHECK(choose_way(ways(), slow).way == 1);
    slow.left = milliseconds(1);
    CHECK(choose_way(ways(), slow).way == 1);
    slow.left = -seconds(1);
    CHECK(choose_way(ways(), slow).way == 1);
}

TEST_CASE("loss is only as much as the deadline needs", "[kv_transfer][rate]") {
    RateQuestion slow = question(1);  // raw 0.8 s, exact 0.53 s
    slow.allow_lossy = true;
    std::size_t before = 0;
    for (const int left_ms : {5000, 1000, 500, 400, 300, 200, 150}) {
        slow.left = milliseconds(left_ms);
        const RateAnswer answer = choose_way(ways(), slow);
        CAPTURE(left_ms, answer.way);
        CHECK(answer.way >= before);
        CHECK(answer.takes <= *slow.left);
        before = answer.way;
        CHECK((answer.way <= 1) == (left_ms >= 1000));
    }
    CHECK(before >= 5);
    slow.left = milliseconds(10);  // nothing is in time: as soon as possible
    CHECK(choose_way(ways(), slow).way == ways().size() - 1);
}

TEST_CASE("a wire that may fall is not trusted with a large frame", "[kv_transfer][rate]") {
    RateQuestion shaky = question(1);
    shaky.allow_lossy = true;
    shaky.left = milliseconds(700);
    const std::size_t steady = choose_way(ways(), shaky).way;
    shaky.wire_low = 0.1 * kGbit;
    CHECK(choose_way(ways(), shaky).way > steady);
}

TEST_CASE("what waits on the wire counts", "[kv_transfer][rate]") {
    RateQuestion queued = question(1);
    queued.allow_lossy = true;
    queued.left = milliseconds(1000);
    CHECK(choose_way(ways(), queued).way == 1);
    queued.bytes_ahead = 80 * kMegabyte;  // 640 ms of others
    CHECK(choose_way(ways(), queued).way > 4);
}

TEST_CASE("computing comes before loss where it is in time, and both ends work where neither is",
          "[kv_transfer][rate]") {
    RateQuestion slow = question(0.1);  // exact 5.3 s
    slow.allow_lossy = true;
    slow.recompute_rate = 1e8;  // 1 s
    slow.left = seconds(2);
    RateAnswer answer = choose_way(ways(), slow);
    CHECK(answer.recompute);
    CHECK_FALSE(ways()[answer.way].is_lossy);
    CHECK(answer.takes < seconds(1));

    slow.left = seconds(60);  // time enough: nobody is bothered
    CHECK_FALSE(choose_way(ways(), slow).recompute);

    slow.left = seconds(2);
    slow.recompute_rate = 1e7;  // 10 s
    answer = choose_way(ways(), slow);
    CHECK(ways()[answer.way].is_lossy);
    CHECK_FALSE(answer.recompute);

    slow.left.reset();
    slow.allow_lossy = false;
    answer = choose_way(ways(), slow);
    CHECK(answer.recompute);
    CHECK(answer.takes < std::chrono::duration<double>(kv_transfer::seconds_to_send(ways()[1], 100e6, 4e6, slow.wire)));
    slow.recompute_with_frames = false;  // one or the other
    CHECK_FALSE(choose_way(ways(), slow).recompute);
}

TEST_CASE("a played hand-off takes what its slowest stage takes", "[kv_transfer][rate]") {
    kv_transfer::PlayedHandoff handoff;
    handoff.kv_bytes = 100 * kMegabyte;
    handoff.frame_bytes = 10 * kMegabyte;
    handoff.ways = {{.wire_share = 0.5, .encode_rate = 1e9, .decode_rate = 1e9, .is_lossy = false}};
    handoff.wire_s = [](double, double bytes, std::uint64_t) { return bytes / kGbit; };
    const auto policy = [](auto, const RateQuestion&) { return RateAnswer{}; };
    const auto outcome = kv_transfer::play_handoff(handoff, policy);
    CHECK(outcome.seconds == Approx(kv_transfer::seconds_to_send(handoff.ways[0], 100e6, 10e6, kGbit)).epsilon(0.01));
    CHECK(outcome.wire_bytes == Approx(50e6));
    // The other side computes from its end: they meet, and nobody waits for a frame that is computed sooner.
    handoff.recompute_rate = 1e8;
    const auto both =
        kv_transfer::play_handoff(handoff, [](auto, const RateQuestion&) { return RateAnswer{0, true, {}}; });
    CHECK(both.seconds < 0.36);  // alone it takes 0.42 s and 1 s
    CHECK(both.kv_bytes_computed >= 25 * kMegabyte);
    CHECK(both.kv_bytes_by_way[0] + both.kv_bytes_computed >= 100 * kMegabyte);
}

TEST_CASE("play ends and counts every byte, whatever the policy says", "[kv_transfer][rate][property]") {
    const auto seed = GENERATE(range(0u, 60u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    kv_transfer::PlayedHandoff handoff;
    handoff.kv_bytes = 1 + random() % (50 * kMegabyte);
    handoff.frame_bytes = 1 + random() % (8 * kMegabyte);
    if (handoff.kv_bytes / handoff.frame_bytes > 10000) { handoff.frame_bytes = handoff.kv_bytes / 1000 + 1; }
    handoff.ways = ways();
    handoff.wire_s = [&](double, double bytes, std::uint64_t) {
        return bytes / (1e6 * static_cast<double>(1 + random() % 1000));
    };
    handoff.recompute_rate = random() % 2 == 0 ? 0 : 1e6 * static_cast<double>(1 + random() % 100);
    handoff.frames_ahead = 1 + random() % 4;
    const auto outcome = kv_transfer::play_handoff(handoff, [&](auto known, const RateQuestion& asked) {
        return RateAnswer{random() % known.size(), asked.recompute_rate > 0 && random() % 4 == 0, {}};
    });
    CHECK(outcome.seconds < 1e6);
    std::uint64_t bytes = outcome.kv_bytes_computed;
    for (const std::uint64_t sent : outcome.kv_bytes_by_way) {
        bytes += sent;
    }
    CHECK(bytes >= handoff.kv_bytes);
    if (handoff.recompute_rate <= 0) { CHECK(bytes == handoff.kv_bytes); }
}
