#include "caching/semantic/nearby.h"

#include <cmath>
#include <vector>

#include "caching/semantic/budget.h"
#include "tests/support/catch.h"

using caching::EntryId;
using caching::Nearby;

namespace {

Nearby at(std::uint64_t id, std::uint64_t meaning, double similarity, double apart = 0) {
    return {.id = EntryId{id}, .meaning = meaning, .similarity = similarity, .apart = apart};
}

}  // namespace

TEST_CASE("the nearest answer may be right, and the one that has most of what is near", "[caching]") {
    CHECK(caching::likely_meanings({}).empty());
    CHECK(caching::likely_meanings({at(1, 7, 0.9), at(2, 7, 0.8)}) == std::vector<std::uint64_t>{7});
    // One that stands alone among many of another answer.
    CHECK(caching::likely_meanings({at(1, 7, 0.90), at(2, 8, 0.89), at(3, 8, 0.88), at(4, 8, 0.87)}) ==
          std::vector<std::uint64_t>{7, 8});
    // Those far below have no say, however many.
    std::vector<Nearby> far{at(1, 7, 0.95)};
    for (std::uint64_t id = 2; id < 24; ++id) {
        far.push_back(at(id, 8, 0.6));
    }
    CHECK(caching::likely_meanings(far) == std::vector<std::uint64_t>{7});
}

TEST_CASE("what is near says how likely an answer is", "[caching]") {
    const std::vector<Nearby> near{at(1, 7, 0.90, 0.1), at(2, 8, 0.85, -0.2), at(3, 7, 0.80), at(4, 9, 0.5)};
    const auto of_nearest = caching::evidence_of(near, 7);
    CHECK(of_nearest.similarity == Approx(0.90));
    CHECK(of_nearest.rival == Approx(0.85));
    CHECK(of_nearest.apart == Approx(0.1));
    CHECK(of_nearest.rival_apart == Approx(-0.2));
    CHECK(of_nearest.support == Approx(0.5));
    CHECK(of_nearest.mean == Approx((0.90 + 0.80 + 0.85) / 3));  // a third one counts as the rival
    const auto of_other = caching::evidence_of(near, 8);
    CHECK(of_other.similarity == Approx(0.85));
    CHECK(of_other.rival == Approx(0.90));
    CHECK(of_other.mean == Approx((0.85 + 0.90 + 0.90) / 3));
    const double all = 1 + std::exp(-1.0) + std::exp(-2.0) + std::exp(-8.0);
    CHECK(of_nearest.vote == Approx((1 + std::exp(-2.0)) / all));
    CHECK(of_other.vote == Approx(std::exp(-1.0) / all));
    const auto alone = caching::evidence_of({at(1, 7, 0.9)}, 7);
    CHECK(alone.rival == 0);
    CHECK(alone.vote == Approx(1.0));
    CHECK(caching::nearest_of(near, 7).id == EntryId{1});
}

TEST_CASE("answers that were nearly served correct what hits are expected to cost", "[caching]") {
    caching::ErrorBudget budget(0.01);
    for (int i = 0; i < 100; ++i) {
        budget.semantic_hit(0.01);
    }
    CHECK(budget.expected_wrong() == Approx(1.0));
    for (int i = 0; i < 100; ++i) {
        budget.near_miss(i % 10 < 2, 0.2);  // as expected
    }
    CHECK(budget.expected_wrong() == Approx(1.0).margin(0.01));
    for (int i = 0; i < 200; ++i) {
        budget.near_miss(i % 10 < 6, 0.2);  // three times as often
    }
    CHECK(budget.expected_wrong() > 1.7);
    const double before = budget.expected_wrong();
    for (int i = 0; i < 100; ++i) {
        budget.near_miss(true, 0.9);  // nobody would have served these
    }
    CHECK(budget.expected_wrong() == before);
    for (int i = 0; i < 3000; ++i) {
        budget.near_miss(false, 0.2);
    }
    CHECK(budget.expected_wrong() == Approx(1.0).margin(0.05));  // never cheaper than expected
}
