#include "gateway/wake_timer.h"

#include <chrono>
#include <vector>

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;

/// A loop with a timer whose turns are written down; each returns `next`.
struct World {
    /// Runs what the loop has to do until there was a turn. False when it had nothing to wait for.
    bool run_until_turn() {
        const std::size_t before = turns.size();
        io.restart();
        while (turns.size() == before) {
            if (io.run_one_for(30s) == 0) { return false; }
        }
        return true;
    }
    /// Nothing is waited for: the loop could sleep for ever.
    bool sleeps_for_ever() {
        io.restart();
        io.poll();
        return io.stopped();
    }

    boost::asio::io_context io;
    base::FakeClock clock;
    base::TimePoint start = clock.now();
    std::vector<base::TimePoint> turns;
    std::optional<base::TimePoint> next;
    gateway::WakeTimer timer{io, clock, [this](base::TimePoint now) {
                                 turns.push_back(now);
                                 return next;
                             }};
};

}  // namespace

TEST_CASE("an event loop whose timer is not asked for anything has nothing to wait for", "[gateway][timer]") {
    World world;
    REQUIRE(world.sleeps_for_ever());
    world.timer.by(world.start);
    REQUIRE(world.turns.empty());  // never from inside
    REQUIRE(world.run_until_turn());
    REQUIRE(world.turns.size() == 1);
    REQUIRE(world.sleeps_for_ever());
}

TEST_CASE("the earliest turn that was asked for comes, and takes those after it with it", "[gateway][timer]") {
    World world;
    world.timer.by(world.start + 1h);
    world.timer.by(world.start);
    world.timer.by(world.start + 2h);
    REQUIRE(world.run_until_turn());
    REQUIRE(world.sleeps_for_ever());  // whoever wanted a later one says so in its turn
    world.next = world.start + 1h;
    world.timer.by(world.start);
    REQUIRE(world.run_until_turn());
    REQUIRE_FALSE(world.sleeps_for_ever());
    world.next.reset();
    REQUIRE(world.run_until_turn());
    REQUIRE(world.turns.size() == 3);
    REQUIRE(world.sleeps_for_ever());
}

TEST_CASE("a clock that jumps is noticed", "[gateway][timer]") {
    World world;
    world.timer.by(world.start + 1h);
    world.clock.advance(2h);
    REQUIRE(world.run_until_turn());
    REQUIRE(world.turns.front() == world.start + 2h);
}

TEST_CASE("a timer that was stopped, or is gone, gives no turn", "[gateway][timer]") {
    World world;
    world.timer.by(world.start);
    world.timer.stop();
    REQUIRE_FALSE(world.run_until_turn());
    world.timer.by(world.start);
    REQUIRE(world.sleeps_for_ever());
    {
        gateway::WakeTimer gone{world.io, world.clock, [&](base::TimePoint now) {
                                    world.turns.push_back(now);
                                    return std::optional<base::TimePoint>();
                                }};
        gone.by(world.start);
    }
    REQUIRE_FALSE(world.run_until_turn());
}
