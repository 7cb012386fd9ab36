// Placement of requests with targets: who is refused, who is tried all the same, and what streams leave of a worker's
// time.
#include "scheduler/place.h"

#include <limits>

#include "tests/scheduler/builders.h"
#include "tests/scheduler/place_cluster.h"
#include "tests/support/catch.h"

namespace {

using scheduler::Role;
using scheduler_test::Cluster;
using scheduler_test::learned;

}  // namespace

TEST_CASE("a decode worker that keeps the TPOT target comes before one that takes over sooner",
          "[scheduler][place][slo]") {
    Cluster cluster{{learned({.id = 1, .role = Role::prefill}),
                     learned({.id = 2, .role = Role::decode, .decode_sequences = 12}),
                     learned({.id = 3, .role = Role::decode})}};
    cluster.workers[2].costs.transfer = {2, 1e-8};  // a slow link: without a target the busy worker is the better one
    REQUIRE(cluster.decode_id(cluster.placed()) == 2);
    cluster.tpot_seconds_target = 0.020;
    REQUIRE(cluster.decode_id(cluster.placed()) == 3);
}

TEST_CASE("a request that cannot be in time anywhere is refused with when to come again", "[scheduler][place][slo]") {
    Cluster cluster{{learned({.id = 1, .requests_waiting = 2, .prefill_tokens_queued = 3000}),
                     learned({.id = 2, .requests_waiting = 2, .prefill_tokens_queued = 2500})}};
    cluster.ttft_seconds_left = 1;
    cluster.rules.admit_by_prediction = true;
    auto refusal = cluster.refused(100);
    REQUIRE(refusal.reason == "slo_infeasible");
    REQUIRE(refusal.error.code == base::ErrorCode::resource_exhausted);
    REQUIRE(refusal.retry_after_ms >= 1600);  // 2.6 s on the better worker, of which 1 s is allowed
    REQUIRE(refusal.retry_after_ms <= 1700);
    REQUIRE(refusal.error.message.find("1000 ms are left") != std::string::npos);

    SECTION("but not one that has begun") {
        cluster.may_refuse = false;
        REQUIRE(cluster.prefill_id(cluster.placed(100)) == 2);
    }
    SECTION("nor when the scheduler is told not to") {
        cluster.rules.admit_by_prediction = false;
        REQUIRE(cluster.prefill_id(cluster.placed(100)) == 2);
    }
    SECTION("nor by guesses, before steps were measured") {
        cluster.workers[1].costs.learned = false;
        REQUIRE(cluster.prefill_id(cluster.placed(100)) == 2);
    }
    SECTION("nor when there is time enough") {
        cluster.ttft_seconds_left = 2.7;
        REQUIRE(cluster.prefill_id(cluster.placed(100)) == 2);
    }
}

TEST_CASE("who has had more than others may wait for a part of what its target leaves, and for ever without one",
          "[scheduler][place][slo]") {
    Cluster cluster{{learned({.id = 1, .requests_waiting = 2, .prefill_tokens_queued = 2500})}};
    cluster.rules.admit_by_prediction = true;
    cluster.queue_share = 0.5;
    cluster.ttft_seconds_left = 4;  // 2.5 s of queue; half of the 3.9 s that its own prompt leaves are open to it
    REQUIRE(cluster.refused(100).reason == "over_share");
    REQUIRE(cluster.refused(100).error.message.find("others ask who have had less") != std::string::npos);
    cluster.ttft_seconds_left = 6;
    cluster.placed(100);
    cluster.ttft_seconds_left = scheduler::kNoTarget;
    cluster.placed(100);
    cluster.tpot_seconds_target = 1;
    cluster.placed(100);
}

TEST_CASE("what no idle worker could do in time is not to be tried again", "[scheduler][place][slo]") {
    Cluster cluster{{learned({.id = 1})}};
    cluster.rules.admit_by_prediction = true;
    cluster.ttft_seconds_left = 0.5;
    REQUIRE(cluster.refused(1000).retry_after_ms == 0);
    cluster.ttft_seconds_left = scheduler::kNoTarget;
    cluster.tpot_seconds_target = 0.005;  // a step takes 10 ms
    REQUIRE(cluster.refused(100).retry_after_ms == 0);
    SECTION("but is asked of a worker that long had nothing to do: what was learned of it may be wrong") {
        cluster.workers[0].expected.idle_seconds = 0.9;
        cluster.refused(100);
        cluster.workers[0].expected.idle_seconds = 1.1;
        cluster.placed(100);
        REQUIRE(cluster.placed(100).is_probe);
        REQUIRE(cluster.placed(100).reason == "probe");
        cluster.rules.probe_after_seconds = std::numeric_limits<double>::infinity();
        cluster.refused(100);
    }
    SECTION("or of one whose streams nothing has joined for long") {
        scheduler::ExpectedLoad& expected = cluster.workers[0].expected;
        expected.prompts = 0;
        expected.decoding = 1;
        expected.unjoined_seconds = 0.9;
        cluster.refused(100);
        expected.unjoined_seconds = 1.1;
        REQUIRE(cluster.placed(100).is_probe);
        expected.prompts = 1;  // another is there, and teaches it already
        cluster.refused(100);
        expected.prompts = 0;
        expected.coming = 1;
        cluster.refused(100);
        expected.coming = 0;
        cluster.tpot_seconds_target = 1;  // what meets its targets is nobody's probe
        REQUIRE_FALSE(cluster.placed(100).is_probe);
    }
}

TEST_CASE("a worker whose streams have TPOT targets has only part of its time for prompts", "[scheduler][place][slo]") {
    Cluster cluster{{learned({.id = 1, .decode_sequences = 4})}};
    cluster.workers[0].expected.residual_seconds = 1e6;
    const double alone = cluster.placed(500).ttft_seconds;
    cluster.tpot_seconds_target = 0.020;
    // Steps of 19 ms: 1 for the step, 4 for its decodes, 14 for prompt tokens.
    const double paced = cluster.placed(500).ttft_seconds;
    REQUIRE(paced > 1.3 * alone);
    REQUIRE(paced == Approx(0.5 * 19 / 14).epsilon(0.02));
    REQUIRE(cluster.placed(500).tpot_seconds <= 0.020);
    // The sooner those that decode will be done, the sooner there is more time.
    cluster.workers[0].expected.residual_seconds = 0.2;
    REQUIRE(cluster.placed(500).ttft_seconds < 0.9 * paced);
}

TEST_CASE("the TPOT that is told of a prompt that waits is that of steps that prompts fill",
          "[scheduler][place][slo]") {
    Cluster cluster{{learned({.id = 1})}};
    cluster.tpot_seconds_target = 0.050;
    scheduler::MixedSteps mixed{.share = 0.5, .seconds = 0.040, .ratio = 1};
    const auto told = [&](std::uint64_t tokens_before) {
        cluster.workers[0] = learned({.id = 1,
                                      .requests_waiting = tokens_before > 0 ? 1u : 0u,
                                      .prefill_tokens_queued = tokens_before,
                                      .decode_sequences = 1});
        cluster.workers[0].costs.mixed = mixed;
        return cluster.placed(100, 64);
    };
    const auto at_once = told(0);
    REQUIRE(at_once.tpot_seconds < 0.030);
    double before = at_once.tpot_seconds;
    for (const std::uint64_t tokens : {500u, 1000u, 1500u}) {
        const auto placement = told(tokens);
        CAPTURE(tokens, placement.ttft_seconds);
        REQUIRE(placement.tpot_seconds > before);
        before = placement.tpot_seconds;
    }
    REQUIRE(told(8000).tpot_seconds == Approx(0.040));
    // Without prompts beside its streams there is nothing that could be left of them.
    mixed = {};
    REQUIRE(told(8000).tpot_seconds < 0.015);
}

TEST_CASE("what is told of a placement goes by who comes before it, what is decided by all who wait",
          "[scheduler][place][slo]") {
    Cluster cluster{{learned({.id = 1, .role = Role::mixed, .requests_waiting = 3, .prefill_tokens_queued = 1500})}};
    cluster.ttft_seconds_left = 3;
    const double behind_all = cluster.placed(100).ttft_seconds;
    cluster.workers[0].expected.late = {.prompts = 2, .tokens = 1000, .next_tokens = 500};
    const double told = cluster.placed(100).ttft_seconds;
    REQUIRE(told < behind_all - 0.9);
    REQUIRE(told > 0.5);
    cluster.rules.admit_by_prediction = true;
    cluster.ttft_seconds_left = (told + behind_all) / 2;
    REQUIRE(cluster.refused(100).reason == "slo_infeasible");
}
