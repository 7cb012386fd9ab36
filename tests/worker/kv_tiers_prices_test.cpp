// A level below the pool of which something is known before anything came from it, and one that turns out to be slow.
#include <chrono>
#include <string>
#include <vector>

#include "worker/kv_tiers.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/taught_costs.h"
#include "tests/worker/tier_bench.h"

using std::chrono::milliseconds;
using std::chrono::seconds;
using test_support::make_start;
using tier_test::key_of;
using tier_test::prompt_of;
using tier_test::TierBench;

namespace {

constexpr std::uint32_t kBlocks = 40;
constexpr std::uint32_t kPromptTokens = kBlocks * 16 + 5;

/// A level that has a prompt's KV, and a pool that has lost it. `load_time`: what a block is expected to take.
struct PriceBench : TierBench {
    PriceBench(std::optional<base::Duration> load_time, bool knows_steps, worker::WorkerOptions limits = {})
        : TierBench(60, 3000, 2, limits, load_time) {
        // On a clock that stands still, steps teach nothing.
        ask(1, prompt, 1);
        flood(5000);
        if (knows_steps) {
            test_support::teach_millisecond_a_token(*this, [this] { finish_jobs(); });
        } else {
            REQUIRE_FALSE(loop.predict_prefill(0, 96).has_value());
        }
        before = engine.tokens_computed();
        REQUIRE(loop.post_command(make_start(2, prompt, 1)));
        loop.work();
    }
    bool from_both_ends() {
        const auto* sequence = loop.find(key_of(2));
        return sequence != nullptr && sequence->from_end.has_value();
    }
    void check() {
        settle();
        finish_jobs();
        check_answer(2, prompt, 1);
        const std::uint32_t cached = sink.answers.at(key_of(2)).cached_tokens;
        REQUIRE(engine.tokens_computed() - before == kPromptTokens - cached);
        check_nothing_held();
    }
    double loads(const std::string& outcome) const {
        return figure("sluice_kv_tier_loads_total{outcome=\"" + outcome + "\",tier=\"host\"}");
    }

    const std::vector<base::TokenId> prompt = prompt_of(kPromptTokens);
    std::uint64_t before = 0;
};

/// One whole step, which takes so long.
void step_in(TierBench& bench, base::Duration taken) {
    bench.loop.work();
    const auto ticket = bench.loop.begin_step();
    bench.loop.settle();
    REQUIRE(ticket.has_value());
    bench.clock.advance(taken);
    bench.driver.collect(*ticket);
    bench.loop.settle();
}

}  // namespace

TEST_CASE("what a level is expected to take counts before anything came from it", "[worker]") {
    SECTION("slower than computing: computed at once") {
        PriceBench bench(milliseconds(1000), true);
        REQUIRE(bench.mover.jobs.empty());
        bench.check();
        CHECK(bench.loads("slower") == 1);
    }
    SECTION("about as slow: from both ends") {
        PriceBench bench(milliseconds(16), true);
        REQUIRE(bench.from_both_ends());
        bench.check();
        CHECK(bench.loads("both_ends") == 1);
    }
    SECTION("quicker: loaded") {
        PriceBench bench(milliseconds(1), true);
        REQUIRE(bench.is_loading(2));
        bench.check();
        CHECK(bench.loads("complete") == 1);
    }
    SECTION("nothing: loaded, which tells") {
        PriceBench bench(std::nullopt, true);
        REQUIRE(bench.is_loading(2));
        bench.check();
    }
}

TEST_CASE("the scheduler is told at once what a level is expected to take", "[worker]") {
    PriceBench bench(milliseconds(16), true);
    sluice::proto::Heartbeat heartbeat;
    bench.board.take(heartbeat);
    REQUIRE(heartbeat.load_ns_per_token_size() == 1);
    CHECK(heartbeat.load_ns_per_token(0) >= 999'999);
    CHECK(heartbeat.load_ns_per_token(0) <= 1'000'001);
    bench.check();
}

TEST_CASE("while nobody knows what steps take, what would be noticed comes from both ends", "[worker]") {
    worker::WorkerOptions limits;
    SECTION("four seconds") {
        PriceBench bench(milliseconds(100), false, limits);
        REQUIRE(bench.from_both_ends());
        // Either end tries a little: what 100 ms give, and as many tokens as tell what computing takes.
        const auto range = *bench.loop.find(key_of(2))->from_end;
        CHECK(range.until == 4 * 16);
        CHECK(range.begin == (kBlocks - 1) * 16);
        REQUIRE(bench.mover.jobs.size() == 1);
        CHECK(bench.mover.jobs[0].hashes.size() == 1);
        // They take a tenth of a block's load: nearly all that is left is computed.
        step_in(bench, milliseconds(40));
        REQUIRE(bench.from_both_ends());
        CHECK(bench.loop.find(key_of(2))->from_end->until >= 34 * 16);
        bench.check();
        CHECK(bench.loads("both_ends") == 1);
    }
    SECTION("steps that take much longer: what is left is loaded") {
        PriceBench bench(milliseconds(100), false, limits);
        REQUIRE(bench.from_both_ends());
        step_in(bench, seconds(40));
        REQUIRE(bench.from_both_ends());
        CHECK(bench.loop.find(key_of(2))->from_end->until <= 5 * 16);
        bench.check();
        CHECK(bench.sink.answers.at(key_of(2)).cached_tokens >= (kBlocks - 5) * 16);
    }
    SECTION("two hundred milliseconds") {
        PriceBench bench(milliseconds(5), false, limits);
        REQUIRE(bench.is_loading(2));
        bench.check();
        CHECK(bench.loads("complete") == 1);
    }
    SECTION("four seconds, both ends off") {
        limits.kv_both_ends = false;
        PriceBench bench(milliseconds(100), false, limits);
        REQUIRE(bench.is_loading(2));
        bench.check();
    }
}

TEST_CASE("a level of which nothing is known is tried before much is left to it", "[worker]") {
    const bool knows_steps = GENERATE(false, true);
    const bool is_slow = GENERATE(false, true);
    const std::uint32_t blocks = 100;
    TierBench bench(130, 3000, 2, {}, std::nullopt);
    const auto prompt = prompt_of(blocks * 16 + 5);
    bench.ask(1, prompt, 1);
    bench.flood(5000);
    if (knows_steps) {
        test_support::teach_millisecond_a_token(bench, [&] { bench.finish_jobs(); });
    }
    REQUIRE(bench.loop.post_command(make_start(2, prompt, 1)));
    bench.loop.work();
    REQUIRE_FALSE(bench.is_loading(2));
    REQUIRE(bench.mover.jobs.size() == 1);
    CHECK(bench.mover.jobs[0].hashes.size() == 8);
    CHECK(bench.loop.find(key_of(2))->from_end->until == 4 * 16);
    // One step, of 64 tokens in 64 ms, and the piece.
    step_in(bench, milliseconds(64));
    bench.mover.duration = milliseconds(is_slow ? 1000 : 1) * 8;
    bench.done(0);
    bench.loop.work();
    const auto* sequence = bench.loop.find(key_of(2));
    REQUIRE(sequence != nullptr);
    REQUIRE(sequence->from_end.has_value());
    if (is_slow) {
        CHECK(sequence->from_end->until >= (blocks - 12) * 16);
    } else {
        CHECK(sequence->from_end->until <= 16 * 16);
    }
    bench.settle();
    bench.finish_jobs();
    bench.check_answer(2, prompt, 1);
    bench.check_nothing_held();
}

TEST_CASE("the first load replaces what was expected, later ones are learned from", "[worker]") {
    PriceBench bench(milliseconds(1), true);
    REQUIRE(bench.is_loading(2));
    bench.mover.duration = milliseconds(100) * kBlocks;
    bench.check();
    sluice::proto::Heartbeat heartbeat;
    bench.board.take(heartbeat);
    CHECK(heartbeat.load_ns_per_token(0) >= 6'249'999);
    CHECK(heartbeat.load_ns_per_token(0) <= 6'250'001);
}

TEST_CASE("a load ends when all of it would have been computed, and the rest is", "[worker]") {
    PriceBench bench(milliseconds(1), true);
    REQUIRE(bench.is_loading(2));
    REQUIRE(bench.mover.jobs.size() == 1);
    const auto& until = bench.mover.jobs[0].until;
    REQUIRE(until);
    CHECK(*until >= bench.clock.now() + seconds(2));  // however little computing takes
    CHECK(*until <= bench.clock.now() + seconds(3));
    const std::uint32_t come = GENERATE(0u, 7u);
    kv_transfer::TierEvent late = bench.mover.run(0, come);
    late.given_up = true;
    late.error = base::Error{base::ErrorCode::cancelled, "too late"};
    late.duration = seconds(5);
    bench.tiers.on_event(0, late);
    bench.check();
    CHECK(bench.sink.answers.at(key_of(2)).cached_tokens == come * 16);
    CHECK(bench.loads("given_up") == 1);
    CHECK(bench.loads("partial") + bench.loads("failed") == 0);
    // Nothing was forgotten, and it is known how slow the level is.
    bench.flood(6000);
    REQUIRE(bench.loop.post_command(make_start(3, bench.prompt, 1)));
    bench.loop.work();
    REQUIRE_FALSE(bench.is_loading(3));
    CHECK(bench.loads("slower") + bench.loads("both_ends") >= 1);
    bench.settle();
    bench.finish_jobs();
    bench.check_answer(3, bench.prompt, 1);
    bench.check_nothing_held();
}

TEST_CASE("what is loaded because it would be in time may take until then", "[worker]") {
    PriceBench bench(milliseconds(1), true);
    bench.check();
    bench.flood(6000);
    auto start = make_start(3, bench.prompt, 1);
    start.slo.first_token = bench.clock.now() + std::chrono::minutes(1);
    REQUIRE(bench.loop.post_command(std::move(start)));
    bench.loop.work();
    REQUIRE(bench.is_loading(3));
    REQUIRE(bench.mover.jobs.size() == 1);
    CHECK(bench.mover.jobs[0].until == bench.clock.now() + std::chrono::minutes(1));
    bench.settle();
    bench.finish_jobs();
    bench.check_answer(3, bench.prompt, 1);
    bench.check_nothing_held();
}

TEST_CASE("bytes as they lie in a level are counted beside those of the blocks", "[worker]") {
    PriceBench bench(milliseconds(1), true);
    REQUIRE(bench.is_loading(2));
    const double before = bench.figure("sluice_kv_tier_stored_bytes_total{direction=\"in\",tier=\"host\"}");
    kv_transfer::TierEvent event = bench.mover.run(0);
    event.moved = 12345;
    bench.tiers.on_event(0, event);
    bench.check();
    CHECK(bench.figure("sluice_kv_tier_stored_bytes_total{direction=\"in\",tier=\"host\"}") == before + 12345);
}

TEST_CASE("what would never be loaded does not go out, but for one now and then", "[worker]") {
    PriceBench bench(milliseconds(1000), true);
    bench.check();
    const std::string line = "sluice_kv_tier_bytes_total{direction=\"out\",tier=\"host\"}";
    const double out = bench.figure(line);
    bench.ask(10, prompt_of(60, 10), 1);
    REQUIRE(bench.figure(line) == out);
    REQUIRE(bench.figure("sluice_kv_tier_saves_total{outcome=\"slower\",tier=\"host\"}") >= 1);
    bench.flood(6000);
    bench.ask(11, prompt_of(60, 10), 1);
    REQUIRE(bench.sink.answers.at(key_of(11)).cached_tokens == 0);
    std::uint32_t number = 12;
    while (bench.figure(line) == out) {
        bench.ask(number, prompt_of(60, number), 1);
        REQUIRE(++number < 100);
    }
    bench.check_nothing_held();
}

TEST_CASE("what nobody would notice goes out whatever is predicted", "[worker]") {
    PriceBench bench(milliseconds(240), true);  // a block, which is computed in 16
    bench.check();
    const std::string line = "sluice_kv_tier_bytes_total{direction=\"out\",tier=\"host\"}";
    const double out = bench.figure(line);
    bench.ask(10, prompt_of(20, 10), 1);
    REQUIRE(bench.figure(line) > out);
    bench.check_nothing_held();
}

TEST_CASE("what a level has of a sequence that leaves is counted as used again", "[worker]") {
    PriceBench bench(milliseconds(1), true);
    bench.check();
    const std::string line = "sluice_kv_tier_reused_bytes_total{tier=\"host\"}";
    const double before = bench.figure(line);
    bench.ask(10, bench.prompt, 1);
    REQUIRE(bench.figure(line) == before + kBlocks * static_cast<double>(bench.engine.layout().block_bytes()));
    REQUIRE(bench.figure("sluice_kv_tier_return_seconds_count{tier=\"host\"}") >= 0);
}
