#include "base/parallel.h"

#include <atomic>
#include <vector>

#include "tests/support/catch.h"

TEST_CASE("parallel_for does every piece once, and is done when it returns", "[base]") {
    for (const std::size_t count : {std::size_t{0}, std::size_t{1}, std::size_t{2}, std::size_t{1000}}) {
        std::vector<std::atomic<int>> done(count);
        base::parallel_for(count, [&](std::size_t i) { ++done[i]; });
        for (const std::atomic<int>& times : done) {
            REQUIRE(times == 1);
        }
    }
}

TEST_CASE("parallel_for works on several pieces at a time where there are processors for it", "[base]") {
    if (base::processors() == 1) { return; }
    // Neither piece ends before both have begun.
    std::atomic<int> begun{0};
    base::parallel_for(2, [&](std::size_t) {
        ++begun;
        while (begun < 2) {
            std::this_thread::yield();
        }
    });
    REQUIRE(begun == 2);
}
