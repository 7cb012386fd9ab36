#include <string>
#include <variant>
#include <vector>

#include "scheduler/place.h"
#include "tests/scheduler/builders.h"
#include "tests/support/catch.h"

namespace {

using scheduler::place_encode;
using scheduler::Placement;
using scheduler::PlaceQuery;
using scheduler::Refusal;
using scheduler::Role;
using scheduler::WorkerStatus;
using scheduler::WorkerView;
using scheduler_test::WorkerSpec;

WorkerView encoder(WorkerSpec spec) {
    spec.role = Role::encode;
    spec.kv_blocks_total = 0;
    WorkerView worker = scheduler_test::make_worker(spec);
    worker.limits.block_tokens = 0;
    worker.limits.kv_bytes_per_token = 0;
    return worker;
}

std::uint64_t placed(const std::vector<WorkerView>& workers, const PlaceQuery& query = {.prompt_tokens = 20}) {
    const auto outcome = place_encode({.workers = workers}, query);
    REQUIRE(std::holds_alternative<Placement>(outcome));
    const auto& placement = std::get<Placement>(outcome);
    CHECK(placement.prefill == placement.decode);
    CHECK(placement.path() == "encode");
    return base::raw(workers[placement.prefill].id);
}

Refusal refused(const std::vector<WorkerView>& workers, const PlaceQuery& query = {.prompt_tokens = 20}) {
    const auto outcome = place_encode({.workers = workers}, query);
    REQUIRE(std::holds_alternative<Refusal>(outcome));
    return std::get<Refusal>(outcome);
}

}  // namespace

TEST_CASE("a text goes to the encoder that is done with it soonest", "[scheduler][encode]") {
    CHECK(placed({encoder({.id = 1, .prefill_tokens_queued = 500}),
                  encoder({.id = 2, .prefill_tokens_queued = 100})}) == 2);
    CHECK(placed({encoder({.id = 1, .speed = 3}), encoder({.id = 2})}) == 2);
    CHECK(placed({encoder({.id = 2}), encoder({.id = 1})}) == 1);  // a tie
    CHECK(placed({encoder({.id = 1, .pending = {.prefill_requests = 3, .prefill_tokens = 600}}), encoder({.id = 2})}) ==
          2);
}

TEST_CASE("a text goes to no worker that generates, drains or is gone", "[scheduler][encode]") {
    CHECK(placed({scheduler_test::make_worker({.id = 1}), encoder({.id = 2, .status = WorkerStatus::draining}),
                  encoder({.id = 3, .status = WorkerStatus::gone}),
                  encoder({.id = 4, .prefill_tokens_queued = 400})}) == 4);
    const auto nobody = refused({scheduler_test::make_worker({.id = 1})});
    CHECK(nobody.error.code == base::ErrorCode::unavailable);
    CHECK(nobody.retry_after_ms > 0);
    CHECK(nobody.reason == "no_worker");
    CHECK(refused({}).error.code == base::ErrorCode::unavailable);
}

TEST_CASE("suspect encoders and those that just failed come last, full ones never", "[scheduler][encode]") {
    const std::vector<WorkerView> workers{encoder({.id = 1, .status = WorkerStatus::suspect}),
                                          encoder({.id = 2, .prefill_tokens_queued = 900})};
    CHECK(placed(workers) == 2);
    const std::vector<base::Incarnation> avoid{base::Incarnation{1002}};
    CHECK(placed(workers, {.prompt_tokens = 20, .avoid = avoid}) == 1);
    CHECK(placed({workers[1]}, {.prompt_tokens = 20, .avoid = avoid}) == 2);
    CHECK(placed({encoder({.id = 1, .requests_running = 8}), workers[0]}) == 1);  // of the fixture: the suspect one
    const auto full = refused({encoder({.id = 1, .requests_running = 8, .prefill_tokens_queued = 2000})});
    CHECK(full.error.code == base::ErrorCode::resource_exhausted);
    CHECK(full.retry_after_ms >= 1000);
    CHECK(full.reason == "queues_full");
}

TEST_CASE("a text that no encoder takes is told the longest that one does", "[scheduler][encode]") {
    const auto too_long = refused(
        {encoder({.id = 1, .context_tokens = 256}), encoder({.id = 2, .context_tokens = 512})}, {.prompt_tokens = 600});
    CHECK(too_long.error.code == base::ErrorCode::invalid_argument);
    CHECK(too_long.error.message.find("600") != std::string::npos);
    CHECK(too_long.error.message.find("512") != std::string::npos);
    CHECK(too_long.retry_after_ms == 0);
    CHECK(placed({encoder({.id = 1, .context_tokens = 256}), encoder({.id = 2, .context_tokens = 512})},
                 {.prompt_tokens = 300}) == 2);
    CHECK(refused({encoder({.id = 1})}, {.prompt_tokens = 0}).error.code == base::ErrorCode::invalid_argument);
}

TEST_CASE("vectors of one model come from encoders with the same numbers", "[scheduler][encode]") {
    const std::vector<WorkerView> workers{encoder({.id = 1, .numerics_id = 3, .prefill_tokens_queued = 900}),
                                          encoder({.id = 2, .numerics_id = 4})};
    CHECK(placed(workers) == 1);
    CHECK(*scheduler::encode_numerics(workers) == 3);
    const auto mixed =
        place_encode({.workers = workers, .rules = {.allow_mixed_numerics = true}}, {.prompt_tokens = 9});
    CHECK(std::get<Placement>(mixed).prefill == 1);
    std::vector<WorkerView> draining = workers;
    draining[0].status = WorkerStatus::draining;
    CHECK(placed(draining) == 2);
    CHECK_FALSE(scheduler::encode_numerics({}));
}
