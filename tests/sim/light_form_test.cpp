// The light form of the step loop without levels below its pool; what is compared stands in light_forms.h.
#include <array>
#include <random>

#include "tests/sim/light_forms.h"

#include "tests/support/catch.h"

namespace {

using namespace light_test;

/// `answer_max` below a block: answers fill no block, which in the light form have no names.
Script draw(std::uint32_t seed, std::uint32_t answer_max, bool hand_offs) {
    std::mt19937 random(seed);
    const auto up_to = [&random](std::uint32_t most) { return static_cast<std::uint32_t>(random() % (most + 1)); };
    const auto milliseconds = [&](std::uint32_t most) { return std::chrono::microseconds(up_to(most * 1000)); };
    Script script;
    script.limits.batch_sequences_max = 4 + up_to(20);
    script.limits.batch_tokens_max = 64 + up_to(192);
    script.limits.chunk_tokens_max = 16 + up_to(64);
    script.limits.queue_requests_max = 200;
    script.limits.priority_wait = std::chrono::milliseconds(100);  // some become older by it
    const bool has_classes = seed % 3 != 0;
    const bool is_tight = seed % 2 == 0;  // little memory for many short prompts: somebody has to give way
    script.blocks = is_tight ? 8 + up_to(16) : 24 + up_to(40);
    std::vector<std::vector<base::TokenId>> seen;
    base::TimePoint at = VirtualClock::kStart;
    for (std::size_t i = 0; i < 120; ++i) {
        at += milliseconds(is_tight ? 8 : 30);
        Wish wish;
        wish.at = at;
        if (hand_offs) { wish.part = std::array{Part::whole, Part::prefill, Part::decode}[up_to(2)]; }
        if (!seen.empty() && up_to(2) == 0) {  // begins as another one
            const auto& other = seen[random() % seen.size()];
            wish.prompt.assign(other.begin(), other.begin() + kBlockTokens);
        }
        const std::size_t tokens = kBlockTokens * (1 + up_to(is_tight ? 1 : 7));
        while (wish.prompt.size() < tokens) {
            wish.prompt.push_back(static_cast<base::TokenId>(random() % 100));
        }
        seen.push_back(wish.prompt);
        wish.answer_tokens = 2 + up_to(answer_max - 2);
        if (up_to(1) == 0) {
            wish.ttft = std::chrono::milliseconds(50 + up_to(500));
            wish.tpot = std::chrono::milliseconds(5 + up_to(40));
        }
        if (has_classes) { wish.priority = static_cast<std::int32_t>(up_to(2)); }
        wish.room_after = milliseconds(20);
        wish.first_after = milliseconds(60);
        wish.kv_after = milliseconds(40);
        wish.is_kv_lost = up_to(5) == 0;
        script.wishes.push_back(std::move(wish));
    }
    return script;
}

}  // namespace

TEST_CASE("the light form takes the steps of the step loop, who gives way included", "[sim][light]") {
    std::uint64_t preemptions = 0;
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        const Script script = draw(seed, 15, false);
        const Played real = play<RealForm>(script);
        compare(real, play<LightForm>(script));
        CHECK(real.finals == script.wishes.size());
        preemptions += real.preemptions;
    }
    CHECK(preemptions > 0);
}

TEST_CASE("the light form lets the same sequences give way, again and again", "[sim][light]") {
    std::uint64_t preemptions = 0;
    for (std::uint32_t seed = 1; seed <= 30; ++seed) {
        CAPTURE(seed);
        Script script = draw(seed, 80, false);
        script.is_private = true;
        const Played real = play<RealForm>(script);
        compare(real, play<LightForm>(script));
        preemptions += real.preemptions;
    }
    CHECK(preemptions > 100);
}

TEST_CASE("the light form takes the steps of the step loop with hand-offs in either direction", "[sim][light]") {
    for (std::uint32_t seed = 1; seed <= 40; ++seed) {
        CAPTURE(seed);
        const Script script = draw(seed, 15, true);
        const Played real = play<RealForm>(script);
        compare(real, play<LightForm>(script));
        CHECK(real.finals == script.wishes.size());
    }
}

TEST_CASE("blocks of answers have no names in the light form: who gave way computes a little more", "[sim][light]") {
    double real_end = 0;
    double light_end = 0;
    for (std::uint32_t seed = 1; seed <= 20; ++seed) {
        CAPTURE(seed);
        const Script script = draw(seed, 80, false);
        const Played real = play<RealForm>(script);
        const Played light = play<LightForm>(script);
        CHECK(real.finals == light.finals);
        real_end += VirtualClock::seconds(real.steps.back().began);
        light_end += VirtualClock::seconds(light.steps.back().began);
    }
    INFO("seconds until the last step: " << real_end << " and " << light_end);
    CHECK(light_end == Approx(real_end).epsilon(0.05));
}
