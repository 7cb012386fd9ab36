#include "worker/plan_batch.h"

#include <algorithm>
#include <random>
#include <vector>

#include "tests/support/catch.h"

using worker::plan_batch;
using worker::PlanCandidate;
using worker::PlanEntry;

TEST_CASE("decodes go first, the rest of the budget goes to prompts in order of arrival", "[worker]") {
    const std::vector<PlanCandidate> candidates = {{300}, {1}, {50}, {1}};
    const auto plan = plan_batch(candidates, {.sequences_max = 8, .tokens_max = 512, .chunk_tokens_max = 320});
    REQUIRE(plan == std::vector<PlanEntry>{{1, 1}, {3, 1}, {0, 300}, {2, 20}});
}

TEST_CASE("a prompt alone gets the whole token budget", "[worker]") {
    const std::vector<PlanCandidate> candidates = {{3000}};
    const auto plan = plan_batch(candidates, {.sequences_max = 8, .tokens_max = 512, .chunk_tokens_max = 128});
    REQUIRE(plan == std::vector<PlanEntry>{{0, 512}});
}

TEST_CASE("decodes that fill the batch leave a place for a prompt", "[worker]") {
    std::vector<PlanCandidate> candidates(10, PlanCandidate{1});
    candidates.push_back({40});
    const auto plan = plan_batch(candidates, {.sequences_max = 4, .tokens_max = 100, .chunk_tokens_max = 16});
    REQUIRE(plan == std::vector<PlanEntry>{{0, 1}, {1, 1}, {2, 1}, {10, 16}});
}

TEST_CASE("no plan breaks a bound, and none leaves the step empty", "[worker][property]") {
    const auto seed = GENERATE(range(0u, 200u));
    CAPTURE(seed);
    std::mt19937 generator{seed};
    const auto random = [&generator] { return static_cast<std::uint32_t>(generator()); };
    std::vector<PlanCandidate> candidates(1 + random() % 40);
    for (auto& candidate : candidates) {
        candidate.tokens_left = random() % 2 == 0 ? 1 : 1 + random() % 900;
    }
    const worker::PlanLimits limits{.sequences_max = 1 + random() % 20,
                                    .tokens_max = 1 + random() % 600,
                                    .chunk_tokens_max = 1 + random() % 300,
                                    .decode_rotation = static_cast<std::uint32_t>(random() % candidates.size())};
    const auto plan = plan_batch(candidates, limits);

    REQUIRE(!plan.empty());
    REQUIRE(plan.size() <= limits.sequences_max);
    std::uint32_t tokens = 0;
    std::uint32_t decodes = 0;
    std::vector<std::uint32_t> seen;
    for (const PlanEntry& entry : plan) {
        REQUIRE(entry.tokens > 0);
        REQUIRE(entry.tokens <= candidates[entry.candidate].tokens_left);
        decodes += candidates[entry.candidate].tokens_left == 1 ? 1 : 0;
        tokens += entry.tokens;
        seen.push_back(entry.candidate);
    }
    REQUIRE(tokens <= limits.tokens_max);
    if (decodes > 0) { REQUIRE(tokens - decodes <= limits.chunk_tokens_max); }
    std::sort(seen.begin(), seen.end());
    REQUIRE(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
}

TEST_CASE("with rotation every decode has its turn", "[worker]") {
    const std::vector<PlanCandidate> candidates(10, PlanCandidate{1});
    std::vector<int> turns(candidates.size(), 0);
    std::uint32_t rotation = 0;
    for (int step = 0; step < 10; ++step) {
        const auto plan = plan_batch(
            candidates,
            {.sequences_max = 3, .tokens_max = 100, .chunk_tokens_max = 1, .decode_rotation = rotation % 10});
        for (const PlanEntry& entry : plan) {
            ++turns[entry.candidate];
        }
        rotation += static_cast<std::uint32_t>(plan.size());
    }
    REQUIRE(std::all_of(turns.begin(), turns.end(), [](int count) { return count == 3; }));
}
