#pragma once

#include <chrono>
#include <cstdint>
#include <functional>

#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"

namespace test_support {

/// The loop has seen steps on its own clock that took a millisecond a token: from now on it predicts so. `between` is
/// called after each request.
inline void teach_millisecond_a_token(StepBench& bench, const std::function<void()>& between = {}) {
    for (std::uint64_t request = 1'000'100; request < 1'000'140; ++request) {
        const auto tokens = static_cast<std::uint32_t>(5 + (request % 9) * 14);
        Random random{static_cast<std::uint32_t>(request)};
        REQUIRE(bench.loop.post_command(make_start(request, random_prompt(random, tokens), 1)));
        while (bench.driver.overlapped_turn([&] { bench.clock.advance(std::chrono::milliseconds(tokens)); })) {}
        if (between) { between(); }
    }
    REQUIRE(bench.loop.predict_prefill(0, 96).has_value());
}

}  // namespace test_support
