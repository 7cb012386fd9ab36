#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "kv_cache/kv_access.h"
#include "kv_transfer/tier/host_tier.h"
#include "worker/kv_tiers_part.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/held_mover.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"

/// A step loop with one tier below its pool, whose copies are done when the test says so.
namespace tier_test {

inline worker::RequestKey key_of(std::uint64_t request) {
    return {base::RequestId{request}, base::Epoch{0}};
}

struct TierBench : test_support::StepBench {
    explicit TierBench(std::uint32_t blocks, std::uint32_t slots_total = 256, std::uint32_t save_blocks = 2,
                       worker::WorkerOptions limits = {}, std::optional<base::Duration> load_time = std::nullopt)
        : StepBench({.blocks_total = blocks}, limits),
          mover(engine.kv_store(), slots_total),
          slots({.blocks_total = slots_total, .block_tokens = 16}),
          tiers({{"host", &slots, &mover, save_blocks, engine.layout().block_bytes(), true, load_time}}, limits, loop,
                "mixed-0", metrics) {
        base::init_log({.role = "test", .level = "off"});
        loop.add_helper(&tiers);
    }
    ~TierBench() { finish_jobs(); }
    void done(std::size_t index, std::uint32_t blocks = 0xffffffff) { tiers.on_event(0, mover.run(index, blocks)); }
    void finish_jobs() {
        do {
            while (!mover.jobs.empty()) {
                done(0);
            }
            settle();
        } while (!mover.jobs.empty());
    }
    /// To its end, with all copies done at once.
    void ask(std::uint64_t request, const std::vector<base::TokenId>& prompt, std::uint32_t new_tokens) {
        REQUIRE(loop.post_command(test_support::make_start(request, prompt, new_tokens)));
        settle();
        finish_jobs();
        check_answer(request, prompt, new_tokens);
    }
    void check_answer(std::uint64_t request, const std::vector<base::TokenId>& prompt, std::uint32_t new_tokens) {
        INFO("request " << request);
        REQUIRE(sink.answers.at(key_of(request)).tokens == test_support::ledger_continuation(prompt, new_tokens, 1000));
        REQUIRE(sink.answers.at(key_of(request)).finals == 1);
        REQUIRE(engine.violations() == 0);
    }
    void check_nothing_held() {
        finish_jobs();
        REQUIRE_FALSE(tiers.busy());
        REQUIRE(tiers.blocks_returning() == 0);
        for (const kv_cache::KvCache* each : {&cache, &slots}) {
            const auto counts = each->counts();
            REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
        }
    }
    bool is_loading(std::uint64_t request) {
        const auto* sequence = loop.find(key_of(request));
        return sequence != nullptr && sequence->state == worker::SequenceState::loading;
    }
    double figure(const std::string& line) const {
        const std::string text = metrics.text();
        const auto at = text.find(line + " ");
        return at == std::string::npos ? -1 : std::stod(text.substr(at + line.size() + 1));
    }
    /// Pushes everything out of the pool.
    void flood(std::uint64_t request) {
        test_support::Random random(static_cast<std::uint32_t>(request));
        ask(request, test_support::random_prompt(random, cache.options().blocks_total * 16 - 1), 1);
    }

    test_support::HeldMover mover;
    kv_cache::KvCache slots;
    worker::KvTiersPart tiers;
};

inline std::vector<base::TokenId> prompt_of(std::uint32_t tokens, std::uint32_t seed = 1) {
    test_support::Random random{seed};
    return test_support::random_prompt(random, tokens);
}

}  // namespace tier_test
