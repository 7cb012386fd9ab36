#pragma once

#include <algorithm>
#include <cmath>
#include <utility>

#include "base/log.h"
#include "scheduler/planner/step_times.h"
#include "sim/serving.h"
#include "tests/support/catch.h"

namespace sim_test {

/// Steps of 5 ms and 0.2 ms for each prompt token, 0.3 ms for each sequence that decodes, and a little for its context.
inline scheduler::planner::StepTimes linear_times() {
    scheduler::planner::StepTimes times;
    times.step_seconds = 5e-3;
    times.prefill = scheduler::planner::Grid(2, {{{0, 0}, 0}, {{1000, 0}, 0.2}, {{0, 1000}, 0}, {{1000, 1000}, 0.21}});
    times.decode =
        scheduler::planner::Grid(2, {{{1, 1}, 3e-4}, {{100, 1}, 3e-2}, {{1, 1000}, 4e-4}, {{100, 1000}, 4e-2}});
    return times;
}

/// One pool of mixed workers with room for all.
inline sim::ServingOptions mixed(const scheduler::planner::StepTimes& times, std::uint32_t count) {
    sim::ServingOptions options;
    options.pools.push_back({.role = proto::Role::mixed,
                             .count = count,
                             .times = &times,
                             .limits = worker::WorkerOptions::defaults(true),
                             .kv_tokens = 100'000});
    options.checks = true;
    return options;
}

/// Requests of one shape at even gaps, without names of blocks.
inline sim::ServingTrace even_trace(std::size_t count, double gap_s, std::uint32_t prompt, std::uint32_t output) {
    sim::ServingTrace trace;
    for (std::size_t i = 0; i < count; ++i) {
        trace.requests.push_back({gap_s * static_cast<double>(i), prompt, output});
    }
    return trace;
}

/// Without a violation.
inline sim::ServingResult played(const sim::ServingOptions& options, const sim::ServingTrace& trace) {
    spdlog::set_level(spdlog::level::off);
    auto result = sim::simulate_serving(options, trace);
    REQUIRE(result.has_value());
    INFO(result->violation.value_or(""));
    REQUIRE(!result->violation);
    return std::move(*result);
}

inline std::size_t errors(const sim::ServingResult& result) {
    return static_cast<std::size_t>(std::count_if(result.outcomes.begin(), result.outcomes.end(),
                                                  [](const auto& outcome) { return outcome.error.has_value(); }));
}

}  // namespace sim_test
