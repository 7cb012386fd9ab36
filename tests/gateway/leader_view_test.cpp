#include "gateway/cluster/leader_view.h"

#include <optional>
#include <set>

#include "tests/support/catch.h"

using gateway::LeaderView;

TEST_CASE("whoever answers leads, until it fails; then each is asked in turn", "[gateway][leader]") {
    LeaderView view(3);
    REQUIRE_FALSE(view.leader());
    REQUIRE(std::set{view.next(), view.next(), view.next()}.size() == 3u);
    REQUIRE(view.answered(1, 70));
    REQUIRE(view.leader() == std::optional<std::size_t>(1));
    view.failed(0);  // one that stands by
    view.failed(2);
    REQUIRE(view.next() == 1u);
    REQUIRE(view.next() == 1u);
    view.failed(1);
    REQUIRE_FALSE(view.leader());
    REQUIRE(view.next() == 2u);  // not the one that has just failed
}

TEST_CASE("an answer of a lower epoch than was seen is refused, whoever gave it", "[gateway][leader]") {
    LeaderView view(2);
    REQUIRE(view.answered(0, 70));
    REQUIRE(view.answered(1, 71));
    REQUIRE_FALSE(view.answered(0, 70));  // it was stopped, and woke
    REQUIRE(view.leader() == std::optional<std::size_t>(1));
    REQUIRE(view.epoch() == 71u);
    REQUIRE(view.answered(1, 75));
    REQUIRE_FALSE(view.answered(1, 74));  // on its way for long
    REQUIRE_FALSE(view.leader());
    REQUIRE(view.answered(0, 76));
    REQUIRE(view.leader() == std::optional<std::size_t>(0));
    REQUIRE(view.answered(0, 0));  // of a version that does not say
    REQUIRE(view.epoch() == 76u);
}
