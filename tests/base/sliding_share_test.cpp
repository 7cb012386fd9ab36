#include "base/sliding_share.h"

#include <deque>
#include <random>
#include <utility>

#include "tests/support/catch.h"

using namespace std::chrono_literals;

TEST_CASE("a share is of what came within the window, give or take a thirtieth of it", "[base][property]") {
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    base::FakeClock clock;
    constexpr auto kWindow = 30s;
    base::SlidingShare share(kWindow);
    std::deque<std::pair<base::TimePoint, bool>> came;
    REQUIRE_FALSE(share.share(clock.now()).has_value());
    for (int i = 0; i < 2000; ++i) {
        // Now and then nothing comes for longer than anything is remembered.
        clock.advance(random() % 100 == 0 ? 90s : std::chrono::milliseconds(random() % 500));
        const bool is_good = random() % 3 != 0;
        share.note(is_good, clock.now());
        came.emplace_back(clock.now(), is_good);
        const auto of = [&](base::Duration within) {
            base::SlidingShare::Counts counts;
            for (const auto& [at, good] : came) {
                if (clock.now() - at >= within) { continue; }
                counts.good += good;
                ++counts.all;
            }
            return counts;
        };
        const base::SlidingShare::Counts least = of(kWindow - 1s);
        const base::SlidingShare::Counts most = of(kWindow);
        const base::SlidingShare::Counts counted = share.counts(clock.now());
        REQUIRE(counted.all >= least.all);
        REQUIRE(counted.all <= most.all);
        REQUIRE(counted.good >= least.good);
        REQUIRE(counted.good <= most.good);
        REQUIRE(*share.share(clock.now()) ==
                Approx(static_cast<double>(counted.good) / static_cast<double>(counted.all)));
    }
    clock.advance(31s);
    REQUIRE_FALSE(share.share(clock.now()).has_value());
}
