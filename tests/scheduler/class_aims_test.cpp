#include "scheduler/class_aims.h"

#include <algorithm>
#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using scheduler::AimedClass;
using scheduler::ClassAims;

namespace {

void judge(ClassAims& aims, const char* name, int met, int missed, base::TimePoint now) {
    for (int i = 0; i < met + missed; ++i) {
        aims.judged(aims.find(name), i < met, now);
    }
}

}  // namespace

TEST_CASE("a class that misses less than it may gives way to one that misses more", "[scheduler][aims]") {
    const base::FakeClock clock;
    const auto now = clock.now();
    ClassAims aims({});
    aims.set({{"loose", {0.5, 0}}, {"strict", {0.95, 0}}});
    REQUIRE(aims.find("other") == AimedClass::none);
    const auto fraction = [&](const char* name) { return aims.fraction(aims.find(name), now); };
    REQUIRE(fraction("loose") == 1);  // nothing is known
    judge(aims, "strict", 90, 10, now);
    judge(aims, "loose", 9, 0, now);
    REQUIRE(aims.burn(aims.find("strict"), now) == Approx(2));
    REQUIRE(aims.burn(aims.find("loose"), now) == 0);  // nine say nothing
    judge(aims, "loose", 91, 0, now);
    REQUIRE(fraction("loose") == 0.5);
    REQUIRE(fraction("strict") == 1);
    REQUIRE(aims.fraction(AimedClass::none, now) == 1);
    judge(aims, "loose", 0, 80, now);
    REQUIRE(fraction("loose") > 0.5);  // it is not far ahead any more
    REQUIRE(fraction("loose") < 1);
    judge(aims, "loose", 0, 20, now);
    REQUIRE(fraction("loose") == 1);  // just where it is meant to be
    judge(aims, "strict", 1000, 0, now);
    judge(aims, "loose", 1000, 0, now);
    REQUIRE(fraction("loose") == 1);  // nobody misses too much
}

TEST_CASE("nobody gives way to a class of a lower priority, or to one whose aim was taken back", "[scheduler][aims]") {
    const base::FakeClock clock;
    const auto now = clock.now();
    ClassAims aims({});
    aims.set({{"loose", {0.5, 1}}, {"strict", {0.95, 0}}});
    judge(aims, "strict", 50, 50, now);
    judge(aims, "loose", 100, 0, now);
    REQUIRE(aims.fraction(aims.find("loose"), now) == 1);
    aims.set({{"loose", {0.5, 1}}, {"strict", {0.95, 1}}});
    REQUIRE(aims.fraction(aims.find("loose"), now) == 0.5);
    aims.set({{"loose", {0.5, 1}}});
    REQUIRE(aims.fraction(aims.find("loose"), now) == 1);
    REQUIRE(aims.fraction(aims.find("strict"), now) == 1);
    aims.set({{"loose", {0.5, 1}}, {"strict", {0.95, 1}}});
    REQUIRE(aims.fraction(aims.find("loose"), now) == 0.5);  // what was known of it is
}

TEST_CASE("who misses more than it may never gives way, and nobody does while all miss no more than that",
          "[scheduler][aims][property]") {
    const auto seed = GENERATE(range(0u, 50u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    base::FakeClock clock;
    ClassAims aims({.window = 60s, .fraction_min = 0.4});
    const std::vector<std::string> names{"a", "b", "c"};
    ClassAims::Aims set;
    for (const std::string& name : names) {
        set[name] = {0.5 + static_cast<double>(random() % 51) / 100, static_cast<std::int32_t>(random() % 2)};
    }
    aims.set(set);
    for (int i = 0; i < 3000; ++i) {
        clock.advance(std::chrono::milliseconds(random() % 200));
        aims.judged(aims.find(names[random() % 3]), random() % 10 < 5 + seed % 6, clock.now());
        double worst = 0;
        for (const std::string& name : names) {
            worst = std::max(worst, aims.burn(aims.find(name), clock.now()));
        }
        for (const std::string& name : names) {
            const double fraction = aims.fraction(aims.find(name), clock.now());
            REQUIRE(fraction >= 0.4);
            REQUIRE(fraction <= 1);
            if (worst <= 1 || aims.burn(aims.find(name), clock.now()) >= 1) { REQUIRE(fraction == 1); }
        }
    }
}
