// Where computing from the front and loading from the end meet, and when that is done.
#include "kv_transfer/rate/both_ends.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"

using kv_transfer::choose_kv_way;
using kv_transfer::KvWay;
using kv_transfer::KvWaySeconds;
using kv_transfer::Meeting;
using kv_transfer::meeting_of;

TEST_CASE("both ends meet where no other block would be sooner", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, 200u));
    CAPTURE(seed);
    test_support::Random random{seed};
    const std::uint32_t begin = (random() % 50);
    const std::uint32_t end = begin + (random() % 120);
    // Later blocks take longer to compute; loading has a beginning that costs, and levels of different speed.
    const double first = (random() % 100);
    const double growth = (random() % 5);
    const double setup = (random() % 300);
    std::vector<double> load(end + 1);
    for (double& seconds : load) {
        seconds = (random() % 2) == 0 ? 0 : (random() % 200);
    }
    const auto computing = [&](std::uint32_t from, std::uint32_t to) {
        double seconds = 0;
        for (std::uint32_t block = from; block < to; ++block) {
            seconds += first + growth * block;
        }
        return seconds;
    };
    const auto loading = [&](std::uint32_t from, std::uint32_t to) {
        double seconds = setup;
        for (std::uint32_t block = from; block < to; ++block) {
            seconds += load[block];
        }
        return seconds;
    };
    double least = std::numeric_limits<double>::infinity();
    for (std::uint32_t block = begin; block <= end; ++block) {
        least = std::min(least,
                         std::max(block > begin ? computing(begin, block) : 0, block < end ? loading(block, end) : 0));
    }
    const Meeting meeting = meeting_of(begin, end, computing, loading);
    REQUIRE(meeting.block >= begin);
    REQUIRE(meeting.block <= end);
    REQUIRE(meeting.seconds == least);
    REQUIRE(meeting.seconds == std::max(meeting.block > begin ? computing(begin, meeting.block) : 0,
                                        meeting.block < end ? loading(meeting.block, end) : 0));
}

TEST_CASE("the quickest way is taken, and loading alone where it is in time", "[kv_transfer]") {
    CHECK(choose_kv_way({.load = 1, .compute = 1, .both = 0.5}, std::nullopt) == KvWay::both);
    CHECK(choose_kv_way({.load = 1, .compute = 9, .both = 0.9}, std::nullopt) == KvWay::load);
    CHECK(choose_kv_way({.load = 9, .compute = 1, .both = 0.9}, std::nullopt) == KvWay::compute);
    // Steps are others', too: what comes in time anyway is only loaded.
    CHECK(choose_kv_way({.load = 1, .compute = 1, .both = 0.5}, 1.2) == KvWay::load);
    CHECK(choose_kv_way({.load = 2, .compute = 1, .both = 0.7}, 2.5) == KvWay::load);
    CHECK(choose_kv_way({.load = 1, .compute = 1, .both = 0.5}, 1.05) == KvWay::both);  // too near
    CHECK(choose_kv_way({.load = 2, .compute = 1, .both = 0.9}, -1.0) == KvWay::compute);
}
