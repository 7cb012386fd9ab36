// The light form of the step loop with levels below its pool; what is compared stands in light_forms.h.
#include <random>

#include "tests/sim/light_forms.h"

#include "tests/support/catch.h"

namespace {

using namespace light_test;

constexpr std::size_t kWishes = 100;

/// Conversations that come back, in a pool that has room for some of them, over one or two levels: quicker than
/// computing, about as quick, or slower.
Script draw(std::uint32_t seed, bool hand_offs) {
    std::mt19937 random(seed);
    const auto up_to = [&random](std::uint32_t most) { return static_cast<std::uint32_t>(random() % (most + 1)); };
    const auto milliseconds = [&](std::uint32_t most) { return std::chrono::microseconds(up_to(most * 1000)); };
    Script script;
    script.limits.batch_sequences_max = 4 + up_to(20);
    script.limits.batch_tokens_max = 64 + up_to(192);
    script.limits.chunk_tokens_max = 16 + up_to(64);
    script.limits.queue_requests_max = 200;
    script.limits.priority_wait = std::chrono::milliseconds(100);
    script.limits.kv_both_ends = seed % 4 != 0;
    script.limits.kv_ahead_percent = seed % 3 == 0 ? 50 : 0;
    script.blocks = 60 + up_to(60);
    const bool has_classes = seed % 3 != 0;
    const auto add_level = [&](const std::string& name, std::uint32_t blocks, double block_ms) {
        sim::KvLevel level;
        level.name = name;
        level.kv_tokens = blocks * kBlockTokens;
        level.kv_bytes_per_token = 1000;
        level.load_bytes_per_second = 1000 * kBlockTokens / (block_ms * 1e-3);
        level.save_bytes_per_second = level.load_bytes_per_second * (1 + up_to(3));
        level.launch_seconds = 1e-5 * up_to(20);
        level.saves_through = name == "host";
        level.knows_rate = level.gives_up = name == "disk";
        script.levels.push_back(std::move(level));
    };
    constexpr double kBlockMs[] = {0.05, 0.5, 1.5, 3, 12};  // a block is computed in 1.6 ms, and a step takes 3 more
    if (seed % 5 != 0) { add_level("host", 40 + up_to(300), kBlockMs[up_to(3)]); }
    if (seed % 5 == 0 || seed % 2 == 0) { add_level("disk", 200 + up_to(600), kBlockMs[1 + up_to(3)]); }

    std::vector<std::vector<base::TokenId>> seen;
    base::TimePoint at = VirtualClock::kStart;
    for (std::size_t i = 0; i < kWishes; ++i) {
        at += milliseconds(120);
        Wish wish;
        wish.at = at;
        if (hand_offs) { wish.part = std::array{Part::whole, Part::prefill, Part::decode}[up_to(2)]; }
        if (!seen.empty() && up_to(3) > 0) {  // another turn
            const auto& before = seen[random() % seen.size()];
            if (before.size() < 36 * kBlockTokens) { wish.prompt = before; }
        }
        // At least a block that no other prompt has: answers get names of their own.
        const std::size_t tokens = wish.prompt.size() + kBlockTokens * (1 + up_to(wish.prompt.empty() ? 24 : 3));
        while (wish.prompt.size() < tokens) {
            wish.prompt.push_back(static_cast<base::TokenId>(random() % 100));
        }
        seen.push_back(wish.prompt);
        wish.answer_tokens = 2 + up_to(78);
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

TEST_CASE("with levels below the pool the light form takes the steps and makes the copies of the step loop",
          "[sim][light]") {
    std::map<std::string, std::uint64_t> loads;
    sim::LevelUse use;
    std::uint64_t preemptions = 0;
    for (std::uint32_t seed = 1; seed <= 60; ++seed) {
        CAPTURE(seed);
        const Script script = draw(seed, false);
        const Played real = play<RealForm>(script);
        const Played light = play<LightForm>(script);
        compare(real, light);
        CHECK(real.finals == script.wishes.size());
        CHECK(light.pool.used + light.pool.pinned + light.pool.stranded == 0);
        preemptions += real.preemptions;
        use += light.use;
        for (const auto& [outcome, count] : real.loads) {
            loads[outcome] += count;
        }
    }
    // That each way was taken: of fixed seeds, on a clock of their own.
    CHECK(preemptions > 0);
    CHECK(loads["complete"] > 0);
    CHECK(loads["slower"] > 0);
    CHECK(loads["both_ends"] > 0);
    CHECK(use.back_loaded > 0);
    CHECK(use.tokens_computed > 0);
    CHECK(use.copies.at("host").blocks_in > 0);
    CHECK(use.copies.at("disk").blocks_in > 0);
}

TEST_CASE("so it does with hand-offs in either direction", "[sim][light]") {
    for (std::uint32_t seed = 101; seed <= 140; ++seed) {
        CAPTURE(seed);
        const Script script = draw(seed, true);
        const Played real = play<RealForm>(script);
        compare(real, play<LightForm>(script));
        CHECK(real.finals == script.wishes.size());
    }
}
