#pragma once

#include <limits>
#include <string>
#include <variant>
#include <vector>

#include "scheduler/place.h"

#include "tests/scheduler/builders.h"
#include "tests/support/catch.h"

namespace scheduler_test {

/// Workers that are asked to take a request.
struct Cluster {
    std::vector<scheduler::WorkerView> workers;
    scheduler::PlaceRules rules = {};
    std::vector<std::uint32_t> cached_blocks = {};
    std::vector<scheduler::BelowPool> below_pool = {};
    std::vector<base::Incarnation> avoid = {};
    double ttft_seconds_left = scheduler::kNoTarget;
    double tpot_seconds_target = scheduler::kNoTarget;
    bool may_refuse = true;
    double queue_share = 1;

    scheduler::PlaceOutcome place(std::uint32_t prompt_tokens = 100, std::uint32_t new_tokens_max = 20,
                                  std::uint64_t numerics_id = 0) const {
        return scheduler::place({.workers = workers, .rules = rules}, {.prompt_tokens = prompt_tokens,
                                                                       .new_tokens_max = new_tokens_max,
                                                                       .numerics_id = numerics_id,
                                                                       .cached_blocks = cached_blocks,
                                                                       .below_pool = below_pool,
                                                                       .avoid = avoid,
                                                                       .ttft_seconds_left = ttft_seconds_left,
                                                                       .tpot_seconds_target = tpot_seconds_target,
                                                                       .may_refuse = may_refuse,
                                                                       .queue_share = queue_share});
    }
    scheduler::Placement placed(std::uint32_t prompt_tokens = 100, std::uint32_t new_tokens_max = 20,
                                std::uint64_t numerics_id = 0) const {
        const auto outcome = place(prompt_tokens, new_tokens_max, numerics_id);
        if (const auto* refusal = std::get_if<scheduler::Refusal>(&outcome)) { FAIL(refusal->error.message); }
        return std::get<scheduler::Placement>(outcome);
    }
    scheduler::Refusal refused(std::uint32_t prompt_tokens = 100, std::uint32_t new_tokens_max = 20) const {
        const auto outcome = place(prompt_tokens, new_tokens_max);
        REQUIRE(std::holds_alternative<scheduler::Refusal>(outcome));
        return std::get<scheduler::Refusal>(outcome);
    }
    std::uint64_t prefill_id(const scheduler::Placement& placement) const { return raw(workers[placement.prefill].id); }
    std::uint64_t decode_id(const scheduler::Placement& placement) const { return raw(workers[placement.decode].id); }
};

/// A worker whose costs were measured.
inline scheduler::WorkerView learned(const WorkerSpec& spec) {
    scheduler::WorkerView worker = make_worker(spec);
    worker.costs.learned = true;
    return worker;
}

}  // namespace scheduler_test
