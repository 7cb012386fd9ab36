#include "worker/plan_batch.h"

#include <algorithm>
#include <random>
#include <vector>

#include "tests/support/catch.h"

using worker::plan_batch;
using worker::PlanCandidate;
using worker::PlanEntry;

namespace {

PlanCandidate prompt(std::uint32_t tokens, double due_seconds = worker::kNever) {
    PlanCandidate candidate;
    candidate.tokens_left = tokens;
    candidate.due_seconds = due_seconds;
    return candidate;
}

/// A decoding sequence that is `ahead_seconds` ahead of its schedule.
PlanCandidate decode(double tpot_seconds = worker::kNever, double ahead_seconds = 0) {
    PlanCandidate candidate;
    candidate.tokens_left = 1;
    candidate.tpot_seconds = tpot_seconds;
    candidate.due_seconds = tpot_seconds + ahead_seconds;
    candidate.answer_tokens_max = 100;
    return candidate;
}

/// One that decodes, and has computed none of its last tokens, which came at once.
PlanCandidate forced(std::uint32_t tokens, double tpot_seconds = worker::kNever) {
    PlanCandidate candidate = decode(tpot_seconds);
    candidate.tokens_left = tokens;
    candidate.decodes = true;
    return candidate;
}

/// A millisecond a prompt token, another one a decode, 4 ms a step.
constexpr base::StepCost kCost{.prefill = {4e-3, 1e-3, 0}, .decode = {4e-3, 1e-3, 0}};

worker::PlanLimits timed() {
    return {.sequences_max = 16, .tokens_max = 512, .chunk_tokens_max = 128, .cost = kCost};
}

}  // namespace

TEST_CASE("decodes go first, the rest of the budget goes to prompts in order of arrival", "[worker]") {
    const std::vector<PlanCandidate> candidates = {prompt(300), decode(), prompt(50), decode()};
    const auto plan = plan_batch(candidates, {.sequences_max = 8, .tokens_max = 512, .chunk_tokens_max = 320});
    REQUIRE(plan == std::vector<PlanEntry>{{1, 1}, {3, 1}, {0, 300}, {2, 20}});
}

TEST_CASE("a prompt alone gets the whole token budget", "[worker]") {
    const std::vector<PlanCandidate> candidates = {prompt(3000)};
    const auto plan = plan_batch(candidates, {.sequences_max = 8, .tokens_max = 512, .chunk_tokens_max = 128});
    REQUIRE(plan == std::vector<PlanEntry>{{0, 512}});
}

TEST_CASE("decodes that fill the batch leave a place for a prompt", "[worker]") {
    std::vector<PlanCandidate> candidates(10, decode());
    candidates.push_back(prompt(40));
    const auto plan = plan_batch(candidates, {.sequences_max = 4, .tokens_max = 100, .chunk_tokens_max = 16});
    REQUIRE(plan == std::vector<PlanEntry>{{0, 1}, {1, 1}, {2, 1}, {10, 16}});
}

TEST_CASE("tokens that a grammar has forced go before prompts, and leave them half of the room", "[worker]") {
    const std::vector<PlanCandidate> alone = {forced(6), decode()};
    REQUIRE(plan_batch(alone, {.sequences_max = 8, .tokens_max = 512, .chunk_tokens_max = 16}) ==
            std::vector<PlanEntry>{{0, 6}, {1, 1}});
    REQUIRE(plan_batch(alone, {.sequences_max = 8, .tokens_max = 512, .chunk_tokens_max = 3}) ==
            std::vector<PlanEntry>{{0, 4}, {1, 1}});
    REQUIRE(plan_batch(alone, {.sequences_max = 8, .tokens_max = 4, .chunk_tokens_max = 16}) ==
            std::vector<PlanEntry>{{0, 3}, {1, 1}});
    const std::vector<PlanCandidate> candidates = {prompt(300), decode(), forced(6)};
    REQUIRE(plan_batch(candidates, {.sequences_max = 8, .tokens_max = 512, .chunk_tokens_max = 16}) ==
            std::vector<PlanEntry>{{1, 1}, {2, 6}, {0, 11}});
    REQUIRE(plan_batch(candidates, {.sequences_max = 8, .tokens_max = 512, .chunk_tokens_max = 6}) ==
            std::vector<PlanEntry>{{1, 1}, {2, 4}, {0, 3}});
    REQUIRE(plan_batch(candidates, {.sequences_max = 8, .tokens_max = 3, .chunk_tokens_max = 16}) ==
            std::vector<PlanEntry>{{1, 1}, {2, 1}, {0, 1}});
    // Two decodes fill the step but for the place of the prompt.
    REQUIRE(plan_batch(candidates, {.sequences_max = 2, .tokens_max = 512, .chunk_tokens_max = 16}) ==
            std::vector<PlanEntry>{{1, 1}, {0, 16}});
}

TEST_CASE("nobody's gap grows for a run of somebody else", "[worker]") {
    // 21 ms a token were promised, of which 19.95 are planned: 4 of the step, 2 of its decodes, 13.95 for other tokens.
    const std::vector<PlanCandidate> candidates = {decode(21e-3), forced(33, 21e-3)};
    REQUIRE(plan_batch(candidates, timed()) == std::vector<PlanEntry>{{0, 1}, {1, 14}});
    // Who is late leaves no time for it: one token, as for everybody.
    const std::vector<PlanCandidate> late = {decode(21e-3, -60e-3), forced(33, 21e-3)};
    REQUIRE(plan_batch(late, timed()) == std::vector<PlanEntry>{{0, 1}, {1, 1}});
    // A prompt that waits shares the time.
    const std::vector<PlanCandidate> shared = {decode(21e-3), forced(33, 21e-3), prompt(300)};
    const auto plan = plan_batch(shared, timed());
    REQUIRE(plan == std::vector<PlanEntry>{{0, 1}, {1, 7}, {2, 7}});
}

TEST_CASE("no plan breaks a bound, and none leaves the step empty", "[worker][property]") {
    const auto seed = GENERATE(range(0u, 200u));
    CAPTURE(seed);
    std::mt19937 generator{seed};
    const auto random = [&generator] { return static_cast<std::uint32_t>(generator()); };
    std::vector<PlanCandidate> candidates(1 + random() % 40);
    for (auto& candidate : candidates) {
        candidate.tokens_left = random() % 2 == 0 ? 1 : 1 + random() % 900;
        candidate.decodes = candidate.tokens_left <= 33 && random() % 2 == 0;
        candidate.context_tokens = random() % 2000;
        if (random() % 2 == 0) { candidate.due_seconds = (random() % 3000) * 1e-3 - 0.5; }
        if (random() % 2 == 0) { candidate.tpot_seconds = (random() % 100) * 1e-3; }
        candidate.answer_tokens_max = random() % 100;
        candidate.waited_seconds = random() % 8;
    }
    const worker::PlanLimits limits{.sequences_max = 1 + random() % 20,
                                    .tokens_max = 1 + random() % 600,
                                    .chunk_tokens_max = 1 + random() % 300,
                                    .chunk_tokens_learning = random() % 17,
                                    .decode_rotation = static_cast<std::uint32_t>(random() % candidates.size()),
                                    .cost = random() % 3 == 0 ? std::nullopt : std::optional(kCost),
                                    .cost_ratio = 0.5 + (random() % 100) * 0.01,
                                    .prompt_wait_seconds = 5};
    const auto plan = plan_batch(candidates, limits);

    REQUIRE(!plan.empty());
    REQUIRE(plan.size() <= limits.sequences_max);
    std::uint32_t tokens = 0;
    std::uint32_t decodes = 0;  // one token of each is beyond what bounds prompts
    std::vector<std::uint32_t> seen;
    for (const PlanEntry& entry : plan) {
        REQUIRE(entry.tokens > 0);
        REQUIRE(entry.tokens <= candidates[entry.candidate].tokens_left);
        const PlanCandidate& candidate = candidates[entry.candidate];
        decodes += candidate.tokens_left == 1 || candidate.decodes ? 1 : 0;
        tokens += entry.tokens;
        seen.push_back(entry.candidate);
    }
    REQUIRE(tokens <= limits.tokens_max);
    const bool all_have_targets = std::all_of(plan.begin(), plan.end(), [&](const PlanEntry& entry) {
        const PlanCandidate& candidate = candidates[entry.candidate];
        return (candidate.tokens_left > 1 && !candidate.decodes) ||
               candidates[entry.candidate].tpot_seconds != worker::kNever;
    });
    if (decodes > 0 && !all_have_targets) { REQUIRE(tokens - decodes <= limits.chunk_tokens_max); }
    std::sort(seen.begin(), seen.end());
    REQUIRE(std::adjacent_find(seen.begin(), seen.end()) == seen.end());
}

TEST_CASE("with rotation every decode has its turn", "[worker]") {
    const std::vector<PlanCandidate> candidates(10, decode());
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

TEST_CASE("decodes that all fit are a plan without planning", "[worker]") {
    std::mt19937 engine(7);
    const auto draw = [&](std::uint32_t values) { return static_cast<std::uint32_t>(engine() % values); };
    for (int i = 0; i < 200; ++i) {
        const std::uint32_t count = 1 + draw(40);
        std::vector<PlanCandidate> candidates;
        for (std::uint32_t index = 0; index < count; ++index) {
            candidates.push_back(decode(0.01 * (1 + draw(5)), 0.01 * draw(7)));
        }
        const worker::PlanLimits limits{.sequences_max = 1 + draw(40),
                                        .tokens_max = 1 + draw(40),
                                        .chunk_tokens_max = 1,
                                        .decode_rotation = draw(count),
                                        .cost = kCost};
        const auto plan = plan_batch(candidates, limits);
        REQUIRE(worker::takes_every_decode(count, limits.sequences_max, limits.tokens_max) == (plan.size() == count));
        if (plan.size() < count) { continue; }
        for (std::uint32_t index = 0; index < count; ++index) {
            REQUIRE(plan[index] == PlanEntry{(limits.decode_rotation + index) % count, 1});
        }
    }
}

TEST_CASE("prompt tokens beside decodes are as many as their TPOT leaves time for", "[worker]") {
    // 20 ms, of which 95 % are planned for: 19 - 4 - 2 = 13 ms.
    const std::vector<PlanCandidate> candidates = {prompt(300), decode(0.0202), decode(0.050)};
    REQUIRE(plan_batch(candidates, timed()) == std::vector<PlanEntry>{{1, 1}, {2, 1}, {0, 13}});
}

TEST_CASE("steps that take longer than the model says get fewer prompt tokens", "[worker]") {
    auto limits = timed();
    limits.cost_ratio = 1.5;  // 19 - 1.5 * 6 = 10 ms, for tokens of 1.5 ms
    const std::vector<PlanCandidate> candidates = {prompt(300), decode(0.0202), decode(0.050)};
    REQUIRE(plan_batch(candidates, limits) == std::vector<PlanEntry>{{1, 1}, {2, 1}, {0, 6}});
}

TEST_CASE("a prompt in a hurry takes what a stream has saved, not what it has not", "[worker]") {
    // Alone it needs 100 ms of the 150: at the usual pace it would get 14 of each 20 ms.
    std::vector<PlanCandidate> candidates = {prompt(100, 0.15), decode(0.0202, 0.100)};
    const auto hurried = plan_batch(candidates, timed());
    REQUIRE(hurried[1].tokens > 14);
    REQUIRE(hurried[1].tokens <= 31);  // a step of 1.8 * 20 ms
    candidates[1] = decode(0.0202);
    REQUIRE(plan_batch(candidates, timed())[1].tokens == 14);
    candidates = {prompt(100, 10), decode(0.0202, 0.100)};  // has all the time in the world
    REQUIRE(plan_batch(candidates, timed())[1].tokens == 14);
}

TEST_CASE("a stream behind its schedule catches up in a few steps, one that cannot stops nobody", "[worker]") {
    std::vector<PlanCandidate> candidates = {prompt(300), decode(0.0202, -0.0202)};
    REQUIRE(plan_batch(candidates, timed())[1].tokens == 9);  // a step of 15 ms: a quarter of what it lacks
    candidates[1] = decode(0.0202, -0.200);
    REQUIRE(plan_batch(candidates, timed()).size() == 1);  // nothing but decodes until it is back
    candidates[1] = decode(0.0202, -0.200);
    candidates[1].answer_tokens_max = 3;
    REQUIRE(plan_batch(candidates, timed())[1].tokens == 14);
}

TEST_CASE("prompts go by deadline, and who cannot be in time lets others pass", "[worker]") {
    auto limits = timed();
    limits.tokens_max = 1000;
    std::vector<PlanCandidate> candidates = {prompt(100), prompt(200, 0.9), prompt(300, 0.5), prompt(400, 0.2)};
    REQUIRE(plan_batch(candidates, limits) == std::vector<PlanEntry>{{2, 300}, {1, 200}, {0, 100}, {3, 400}});
    // 300 + 200 do not fit in 0.45 s: the longer one is left out, and is last.
    candidates = {prompt(300, 0.40), prompt(200, 0.45), prompt(50, 0.46)};
    REQUIRE(plan_batch(candidates, limits) == std::vector<PlanEntry>{{1, 200}, {2, 50}, {0, 300}});
}

TEST_CASE("a prompt that waited too long goes first and makes headway in every step", "[worker]") {
    auto limits = timed();
    limits.prompt_wait_seconds = 5;
    std::vector<PlanCandidate> candidates = {prompt(100, 0.2), prompt(300, -4), decode(0.005)};
    const auto late = [&](double target, double by) {
        candidates[1].due_seconds = -by;
        candidates[1].waited_seconds = target + by;
        return plan_batch(candidates, limits);
    };
    REQUIRE(late(0.8, 4.1) == std::vector<PlanEntry>{{2, 1}});
    REQUIRE(late(0.8, 4.3) == std::vector<PlanEntry>{{2, 1}, {1, worker::kChunkTokensMin}});
    // Of a long target it is four times that.
    REQUIRE(late(10, 39) == std::vector<PlanEntry>{{2, 1}});
    REQUIRE(late(10, 41) == std::vector<PlanEntry>{{2, 1}, {1, worker::kChunkTokensMin}});
    // Without one, since it came.
    candidates[1] = prompt(300, worker::kNever);
    candidates[1].waited_seconds = 4;
    REQUIRE(plan_batch(candidates, limits) == std::vector<PlanEntry>{{2, 1}});
    candidates[1].waited_seconds = 6;
    REQUIRE(plan_batch(candidates, limits) == std::vector<PlanEntry>{{2, 1}, {1, worker::kChunkTokensMin}});
}

TEST_CASE("nobody waits for ever, whatever comes with closer deadlines beside streams without time",
          "[worker][property]") {
    constexpr double kWait = 2;
    struct Waiting {
        std::uint32_t tokens = 0;  // left
        double arrived = 0;
        double due = 0;
        std::uint32_t turns = 0;  // steps in which it is the turn of those before it, and then its own; 0: not overdue
        std::uint32_t overdue_steps = 0;
    };
    const bool knows_cost = GENERATE(true, false);
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(knows_cost, seed);
    std::mt19937 generator{seed};
    const auto random = [&generator](std::uint32_t below) { return static_cast<std::uint32_t>(generator() % below); };
    auto limits = timed();
    limits.prompt_wait_seconds = kWait;
    if (!knows_cost) { limits.cost.reset(); }
    std::vector<Waiting> prompts;
    double now = 0;
    std::uint32_t overdue = 0;
    for (int step = 0; step < 3000; ++step) {
        if (prompts.size() < 12 && random(4) == 0) {
            prompts.push_back({.tokens = 2 + random(200), .arrived = now, .due = now + 0.01 * random(100)});
        }
        // Four streams that are behind their schedules and can still be in time: nothing is left for prompts.
        std::vector<PlanCandidate> candidates(4, decode(0.0085, -0.002));
        std::uint32_t turns = 0;
        const auto is_overdue = [&](const Waiting& one) {
            const double waited = now - one.arrived;
            const double left = one.due - now;  // as the plan is told it, to the last bit
            return waited > kWait && -left - worker::kLateTargets * (waited + left) > 0;
        };
        for (const Waiting& one : prompts) {
            candidates.push_back(prompt(one.tokens, one.due - now));
            candidates.back().waited_seconds = now - one.arrived;
            if (is_overdue(one)) { turns += (one.tokens + worker::kChunkTokensMin - 1) / worker::kChunkTokensMin; }
        }
        for (Waiting& one : prompts) {
            if (!is_overdue(one)) { continue; }
            if (one.turns == 0) {
                one.turns = turns;  // all who are overdue already come before it
                ++overdue;
            }
            REQUIRE(++one.overdue_steps <= one.turns);
        }
        const auto plan = plan_batch(candidates, limits);
        std::uint32_t tokens = 0;
        for (const PlanEntry& entry : plan) {
            tokens += entry.tokens;
            if (entry.candidate >= 4) { prompts[entry.candidate - 4].tokens -= entry.tokens; }
        }
        // What has one token left would decode next.
        std::erase_if(prompts, [](const Waiting& one) { return one.tokens <= 1; });
        now += 4e-3 + 1e-3 * tokens;
    }
    REQUIRE(overdue > 20);  // it was about them
}

TEST_CASE("while the cost of steps is not known, who was promised a TPOT has few prompt tokens beside", "[worker]") {
    auto limits = timed();
    limits.cost.reset();
    const std::vector<PlanCandidate> candidates = {prompt(300), decode(0.0202)};
    REQUIRE(plan_batch(candidates, limits) == std::vector<PlanEntry>{{1, 1}});
    limits.chunk_tokens_learning = 16;
    REQUIRE(plan_batch(candidates, limits) == std::vector<PlanEntry>{{1, 1}, {0, 16}});
    const std::vector<PlanCandidate> unpromised = {prompt(300), decode(0.0202), decode()};
    REQUIRE(plan_batch(unpromised, limits) == std::vector<PlanEntry>{{1, 1}, {2, 1}, {0, 128}});
}

TEST_CASE("of more decodes than fit, those that are due go first", "[worker]") {
    auto limits = timed();
    limits.sequences_max = 2;
    const std::vector<PlanCandidate> candidates = {decode(0.050), decode(0.0202), decode(0.030)};
    REQUIRE(plan_batch(candidates, limits) == std::vector<PlanEntry>{{1, 1}, {2, 1}});
}
