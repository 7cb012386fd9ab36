#include "scheduler/planner/search.h"

#include <algorithm>

#include "tests/support/catch.h"

using scheduler::planner::Candidate;
using scheduler::planner::Evaluation;
using scheduler::planner::search;
using scheduler::planner::SearchSpace;

namespace {

SearchSpace one_kind() {
    SearchSpace space;
    space.gpus.push_back({"g", 2, 8, {{.tensor = 1, .pipeline = 1}, {.tensor = 2, .pipeline = 1}}});
    space.step_tokens = {512};
    return space;
}

/// A GPU prefills 6 requests a second or decodes 2; whoever does both gets `mixed`. Two GPUs together do a tenth less.
Evaluation rates(const Candidate& candidate, double mixed) {
    const auto worth = [](const scheduler::planner::Split& split) {
        return split.tensor * (split.tensor > 1 ? 0.9 : 1);
    };
    const double prefill = 6 * candidate.prefill_count * worth(candidate.prefill);
    const double decode = 2 * candidate.decode_count * worth(candidate.decode);
    double goodput = std::min(prefill, decode);
    if (candidate.kind == Candidate::Kind::colocated) { goodput = mixed * worth(candidate.prefill); }
    if (candidate.kind == Candidate::Kind::prefill_alone) { goodput = prefill; }
    if (candidate.kind == Candidate::Kind::decode_alone) { goodput = decode; }
    return {goodput, goodput, goodput, ""};
}

}  // namespace

TEST_CASE("the ratio of the pools is that of the phases", "[scheduler][planner]") {
    const auto found = search(one_kind(), [](const Candidate& candidate) { return rates(candidate, 1); });
    REQUIRE(found);
    const Candidate& best = found->rows[0].candidate;
    REQUIRE(best.kind == Candidate::Kind::split);
    REQUIRE(best.prefill_count == 1);
    REQUIRE(best.decode_count == 3);
    REQUIRE(best.gpus() == 4);
    REQUIRE(found->rows[0].goodput_per_cost == Approx(6 / 8.0));
    REQUIRE(best.text() == "1 prefill TP1, 3 decode TP1, steps of 512");
}

TEST_CASE("colocated is always there and wins where it is better", "[scheduler][planner]") {
    const auto found = search(one_kind(), [](const Candidate& candidate) { return rates(candidate, 1.6); });
    REQUIRE(found->rows[0].candidate.text() == "mixed TP1, steps of 512");
}

TEST_CASE("low affinity keeps a unit inside its node", "[scheduler][planner]") {
    SearchSpace space = one_kind();
    space.gpus[0].per_node = 3;
    space.has_high_affinity = false;
    const auto found = search(space, [](const Candidate& candidate) { return rates(candidate, 0.1); });
    for (const auto& row : found->rows) {
        REQUIRE(row.candidate.gpus() <= 3);
    }
    REQUIRE(found->rows[0].candidate.decode_count == 2);
}

TEST_CASE("a rate is served for the least cost, GPUs are used for the most goodput", "[scheduler][planner]") {
    SearchSpace space = one_kind();
    space.rate = 2.0;
    // Four GPUs for six a second are more than is needed; two colocated ones at 1.2 do it.
    const auto cheap = search(space, [](const Candidate& candidate) { return rates(candidate, 1.2); });
    REQUIRE(cheap->rows[0].cost == Approx(4));
    REQUIRE(cheap->rows[0].goodput >= 2);
    space.rate.reset();
    space.gpus_max = 8;
    const auto most = search(space, [](const Candidate& candidate) { return rates(candidate, 1.2); });
    REQUIRE(most->rows[0].units * most->rows[0].candidate.gpus() <= 8);
    REQUIRE(most->rows[0].goodput == Approx(12));
}

TEST_CASE("a machine has no more units than compute at once on it", "[scheduler][planner]") {
    SearchSpace space = one_kind();
    space.gpus[0].splits = {{.tensor = 1, .pipeline = 1}};
    space.gpus[0].workers_at_once = 2;
    space.gpus_max = 5;
    const auto most = search(space, [](const Candidate& candidate) { return rates(candidate, 3.5); });
    REQUIRE(most->rows[0].candidate.kind == Candidate::Kind::colocated);
    REQUIRE(most->rows[0].units == 2);
    REQUIRE(most->rows[0].is_cut);
    REQUIRE(most->rows[0].goodput == Approx(7));
    // A rate that it does not bear: what bears most of it is first, and says so. One that it bears is served as ever.
    space.gpus_max.reset();
    space.rate = 50;
    const auto short_of = search(space, [](const Candidate& candidate) { return rates(candidate, 3.5); });
    REQUIRE(short_of->rows[0].is_cut);
    for (const auto& row : short_of->rows) {
        REQUIRE(row.goodput <= short_of->rows[0].goodput);
    }
    space.rate = 3;
    const auto served = search(space, [](const Candidate& candidate) { return rates(candidate, 3.5); });
    REQUIRE_FALSE(served->rows[0].is_cut);
    REQUIRE(served->rows[0].goodput >= 3);
}

TEST_CASE("of two kinds the cheaper for the goodput is chosen; a model that fits nowhere is refused",
          "[scheduler][planner]") {
    SearchSpace space = one_kind();
    space.gpus.push_back({"cheap", 0.5, 8, {{.tensor = 1, .pipeline = 1}}});
    const auto found = search(space, [](const Candidate& candidate) {
        Evaluation evaluation = rates(candidate, 1);
        evaluation.goodput *= candidate.gpu == 1 ? 0.5 : 1;
        return evaluation;
    });
    REQUIRE(found->rows[0].candidate.gpu == 1);
    space.gpus.clear();
    REQUIRE(search(space, [](const Candidate&) { return Evaluation{}; }).error().code ==
            base::ErrorCode::resource_exhausted);
}
