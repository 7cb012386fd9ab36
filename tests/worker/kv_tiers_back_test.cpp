// KV that is computed from the front while a tier gives it from the end back: how it is shared, and that nothing of it
// changes an answer.
#include <algorithm>
#include <chrono>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "worker/kv_tiers.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"
#include "tests/support/seeds.h"
#include "tests/support/step_bench.h"
#include "tests/support/taught_costs.h"
#include "tests/worker/tier_bench.h"

using base::TokenId;
using kv_transfer::TierJob;
using test_support::make_start;
using test_support::Random;
using test_support::random_prompt;
using tier_test::key_of;
using tier_test::prompt_of;

namespace {

constexpr std::uint32_t kBlocks = 40;
constexpr std::uint32_t kPromptTokens = kBlocks * 16 + 5;

/// A tier of which, and a worker of whose steps, it is known what they take: a token computed a millisecond.
struct BackBench : tier_test::TierBench {
    explicit BackBench(double load_ms_per_block, worker::WorkerOptions limits = {})
        : TierBench(60, 3000, 2, limits), load_ms(load_ms_per_block) {
        test_support::teach_millisecond_a_token(*this, [this] { finish_jobs(); });
        ask(1, prompt, 1);
        forget_pool();
        REQUIRE(loop.post_command(make_start(2, prompt, 1)));
        settle();
        REQUIRE(is_loading(2));  // nothing is known of the tier: that teaches it
        done_in_time(0);
        settle();
        finish_jobs();
        check_answer(2, prompt, 1);
        forget_pool();
    }
    void forget_pool() { flood(next_flood++); }
    /// As `done`; it took what this tier takes.
    void done_in_time(std::size_t index, std::uint32_t blocks = 0xffffffff) {
        const auto of_job = static_cast<double>(mover.jobs.at(index).hashes.size());
        mover.duration =
            std::chrono::duration_cast<base::Duration>(std::chrono::duration<double, std::milli>(load_ms * of_job));
        done(index, blocks);
    }
    /// Asks for the prompt again, up to where both ends are under way.
    void begin(std::uint64_t request, std::uint32_t new_tokens = 4) {
        before = engine.tokens_computed();
        REQUIRE(loop.post_command(make_start(request, prompt, new_tokens)));
        loop.work();
    }
    const worker::KvFromEnd* range_of(std::uint64_t request) {
        const auto* sequence = loop.find(key_of(request));
        return sequence == nullptr || !sequence->from_end ? nullptr : &*sequence->from_end;
    }
    void check(std::uint64_t request, std::uint32_t new_tokens = 4) {
        check_answer(request, prompt, new_tokens);
        const auto& answer = sink.answers.at(key_of(request));
        REQUIRE(engine.tokens_computed() - before == kPromptTokens - answer.cached_tokens + new_tokens - 1);
        check_nothing_held();
    }
    std::uint32_t cached(std::uint64_t request) const { return sink.answers.at(key_of(request)).cached_tokens; }
    double both() const { return figure("sluice_kv_tier_loads_total{outcome=\"both_ends\",tier=\"host\"}"); }

    const double load_ms;
    const std::vector<TokenId> prompt = prompt_of(kPromptTokens);
    std::uint64_t next_flood = 5000;
    std::uint64_t before = 0;
};

}  // namespace

TEST_CASE("KV that loads as fast as it is computed comes half from either end", "[worker]") {
    BackBench bench(16);
    bench.begin(3);
    REQUIRE(bench.range_of(3) != nullptr);
    REQUIRE_FALSE(bench.is_loading(3));
    REQUIRE(bench.mover.jobs.size() == 1);
    const auto first = static_cast<std::uint32_t>(bench.mover.jobs[0].hashes.size());
    CHECK(first >= kBlocks / 5);  // half of its half, then again
    CHECK(first <= kBlocks / 3);
    const worker::KvFromEnd range = *bench.range_of(3);
    CHECK(range.until >= (kBlocks / 2 - 3) * 16);
    CHECK(range.until <= (kBlocks / 2 + 3) * 16);
    CHECK(range.begin == (kBlocks - first) * 16);
    CHECK(range.end == kBlocks * 16);
    const auto chain = bench.loop.find(key_of(3))->chain;
    CHECK(bench.mover.jobs[0].hashes.back() == chain[kBlocks - 1]);
    bench.driver.turn();  // computes up to where it has to stop
    REQUIRE(bench.engine.tokens_computed() - bench.before == range.until);
    bench.settle();
    REQUIRE(bench.sink.answers[key_of(3)].tokens.empty());
    while (!bench.mover.jobs.empty()) {
        bench.done_in_time(0);
        bench.settle();
    }
    bench.check(3);
    CHECK(bench.both() == 1);
    // The one that was early went on meanwhile: what it took is not the tier's any more.
    CHECK(bench.cached(3) >= first * 16);
    CHECK(bench.cached(3) <= (kBlocks / 2 + 3) * 16);
}

TEST_CASE("who is slower than was thought gets less of the rest", "[worker]") {
    BackBench bench(16);
    bench.begin(3);
    REQUIRE(bench.range_of(3) != nullptr);
    SECTION("the tier: steps go on to its first piece") {
        const std::uint32_t before = bench.range_of(3)->until;
        bench.driver.turn();
        bench.settle();
        CHECK(bench.range_of(3)->until > before);
        CHECK(bench.range_of(3)->until <= bench.range_of(3)->begin);
        while (!bench.mover.jobs.empty()) {
            bench.done_in_time(0);
            bench.settle();
        }
        bench.check(3);
    }
    SECTION("the steps: nearly all that is left is loaded before they begin") {
        while (!bench.mover.jobs.empty()) {
            bench.done_in_time(0);
            bench.loop.work();
        }
        bench.settle();
        bench.check(3);
        CHECK(bench.cached(3) >= (kBlocks - 4) * 16);
    }
}

/// From asking until the first token, on a clock on which a token computed takes a millisecond and a block loaded what
/// the tier takes, both at once.
double first_token_ms(BackBench& bench, std::uint64_t request) {
    const base::TimePoint asked = bench.clock.now();
    bench.begin(request);
    bool steps = false;
    engine::Ticket ticket{};  // of the step that runs
    base::TimePoint step_ends;
    constexpr base::TimePoint kNoPiece = base::TimePoint::max();
    base::TimePoint piece_ends = kNoPiece;
    while (bench.sink.answers[key_of(request)].tokens.empty()) {
        for (std::size_t i = bench.mover.jobs.size(); i > 0; --i) {
            if (bench.mover.jobs[i - 1].kind == TierJob::Kind::save) { bench.done(i - 1); }
        }
        bench.loop.work();
        if (!steps) {
            const auto begun = bench.loop.begin_step();
            steps = begun.has_value();
            ticket = begun.value_or(engine::Ticket{});
            bench.loop.settle();
            const auto* sequence = bench.loop.find(key_of(request));
            if (steps && sequence != nullptr) {
                step_ends = bench.clock.now() + std::chrono::milliseconds(sequence->step_tokens);
            }
        }
        if (piece_ends == kNoPiece && !bench.mover.jobs.empty()) {
            const auto blocks = static_cast<double>(bench.mover.jobs[0].hashes.size());
            piece_ends = bench.clock.now() + std::chrono::duration_cast<base::Duration>(
                                                 std::chrono::duration<double, std::milli>(bench.load_ms * blocks));
        }
        REQUIRE((steps || piece_ends != kNoPiece));
        if (piece_ends != kNoPiece && (!steps || piece_ends <= step_ends)) {
            bench.clock.advance(piece_ends - bench.clock.now());
            piece_ends = kNoPiece;
            bench.done_in_time(0);
        } else {
            bench.clock.advance(step_ends - bench.clock.now());
            bench.driver.collect(ticket);
            steps = false;
            bench.loop.settle();
        }
    }
    const auto taken = bench.clock.now() - asked;
    bench.settle();
    bench.finish_jobs();
    return std::chrono::duration<double, std::milli>(taken).count();
}

TEST_CASE("a returning prompt is there about as soon as both ends allow, whatever the tier takes", "[worker]") {
    const double load_ms = GENERATE(1.0, 4.0, 8.0, 12.0, 16.0, 24.0, 32.0, 48.0, 64.0, 200.0);
    BackBench bench(load_ms);
    const double taken = first_token_ms(bench, 3);
    bench.check(3);
    const double compute = kBlocks * 16;
    const double load = kBlocks * load_ms;
    const double both = compute * load / (compute + load);
    CAPTURE(load_ms, compute, load, both, taken);
    const double rest = kPromptTokens - kBlocks * 16;  // is computed in any case
    CHECK(taken <= std::min(load, compute) + rest + 1);
    CHECK(taken <= both * 1.2 + rest + 1);
    CHECK(taken >= both + rest - 1);
}

TEST_CASE("where one end is much quicker it does all", "[worker]") {
    SECTION("loading") {
        BackBench bench(0.5);
        bench.begin(3);
        REQUIRE(bench.is_loading(3));
        bench.finish_jobs();
        bench.check(3);
        CHECK(bench.both() == 0);
    }
    SECTION("computing") {
        BackBench bench(1000);
        bench.begin(3);
        REQUIRE(bench.mover.jobs.empty());
        bench.settle();
        bench.check(3);
        CHECK(bench.both() == 0);
        CHECK(bench.figure("sluice_kv_tier_loads_total{outcome=\"slower\",tier=\"host\"}") == 1);
    }
}

TEST_CASE("with both ends off all of it is loaded, or all of it computed", "[worker]") {
    worker::WorkerOptions limits;
    limits.kv_both_ends = false;
    const bool loads = GENERATE(true, false);
    BackBench bench(loads ? 15 : 18, limits);  // both ends would take 310 and 339 ms, either one 600 at least
    bench.begin(3);
    REQUIRE(bench.is_loading(3) == loads);
    REQUIRE(bench.range_of(3) == nullptr);
    bench.settle();
    bench.finish_jobs();
    bench.check(3);
    CHECK(bench.cached(3) == (loads ? kBlocks * 16 : 0));
    CHECK(bench.both() == 0);
}

TEST_CASE("what is in time for its first token is only loaded", "[worker]") {
    BackBench bench(16);  // 640 ms for all of it
    auto start = make_start(3, bench.prompt, 4);
    start.slo.first_token = bench.clock.now() + std::chrono::milliseconds(GENERATE(800, 600));
    const bool is_in_time = *start.slo.first_token - bench.clock.now() == std::chrono::milliseconds(800);
    bench.before = bench.engine.tokens_computed();
    REQUIRE(bench.loop.post_command(std::move(start)));
    bench.loop.work();
    CHECK(bench.is_loading(3) == is_in_time);
    CHECK((bench.range_of(3) == nullptr) == is_in_time);
    bench.settle();
    bench.finish_jobs();
    bench.check(3);
}

TEST_CASE("a piece that does not come is computed, and what came behind it counts", "[worker]") {
    BackBench bench(16);
    bench.begin(3);
    REQUIRE(bench.range_of(3) != nullptr);
    const auto first = static_cast<std::uint32_t>(bench.mover.jobs.at(0).hashes.size());
    SECTION("the first one") {
        bench.done_in_time(0, GENERATE(0u, 3u));
        bench.settle();
        bench.finish_jobs();
        bench.check(3);
        CHECK(bench.cached(3) == 0);
    }
    SECTION("the second one") {
        bench.done_in_time(0);
        bench.loop.work();
        REQUIRE(bench.mover.jobs.size() == 1);
        bench.driver.turn();
        bench.done_in_time(0, 1);
        bench.settle();
        bench.finish_jobs();
        bench.check(3);
        CHECK(bench.cached(3) == first * 16);
    }
    SECTION("one for which the tier has no time") {
        bench.mover.room = 0;
        bench.done_in_time(0);
        bench.settle();
        bench.mover.room = 1000;
        bench.finish_jobs();
        bench.check(3);
        CHECK(bench.cached(3) == first * 16);
    }
}

TEST_CASE("who ends between both ends holds its blocks until the copy has ended", "[worker]") {
    BackBench bench(16);
    bench.begin(3);
    REQUIRE(bench.mover.jobs.size() == 1);
    const auto first = static_cast<std::uint32_t>(bench.mover.jobs[0].hashes.size());
    if (GENERATE(false, true)) { bench.driver.turn(); }
    REQUIRE(bench.loop.post_command(worker::CancelRequest{key_of(3), test_support::kGateway, "no"}));
    bench.loop.work();
    REQUIRE(bench.loop.find(key_of(3)) == nullptr);
    CHECK(bench.cache.counts().stranded == first);
    bench.done_in_time(0);
    bench.settle();
    bench.check_nothing_held();
}

TEST_CASE("prefixes that are dropped between both ends stop what was not begun", "[worker]") {
    BackBench bench(16);
    bench.begin(3);
    REQUIRE(bench.mover.jobs.size() == 1);
    const auto first = static_cast<std::uint32_t>(bench.mover.jobs[0].hashes.size());
    REQUIRE(bench.loop.post_command(worker::DropRequest{[](std::uint32_t) {}}));
    bench.loop.work();
    while (!bench.mover.jobs.empty()) {
        bench.done_in_time(0);
    }
    bench.settle();
    bench.finish_jobs();
    bench.check(3);
    CHECK(bench.cached(3) == first * 16);
}

TEST_CASE("whatever both ends do and when, answers are the same and nothing is lost", "[worker][property]") {
    const std::uint32_t seed = GENERATE(range(0u, test_support::seeds_of(30)));
    INFO("seed " << seed);
    Random random{seed};
    worker::WorkerOptions limits;
    limits.batch_tokens_max = 100 + random() % 500;
    BackBench bench(4.0 + random() % 40, limits);
    struct Asked {
        std::vector<TokenId> prompt;
        std::uint32_t new_tokens = 0;
        bool is_cancelled = false;
    };
    std::map<std::uint64_t, Asked> asked;
    std::vector<std::vector<TokenId>> known{bench.prompt};
    for (std::uint64_t turn = 10'000; turn < 10'400; ++turn) {
        if (random() % 12 == 0) {
            Asked request;
            request.prompt = known[random() % known.size()];
            request.prompt.resize(1 + random() % request.prompt.size());
            const auto more = random_prompt(random, random() % 100);
            request.prompt.insert(request.prompt.end(), more.begin(), more.end());
            request.prompt.resize(std::min<std::size_t>(request.prompt.size(), 700));
            request.new_tokens = 1 + random() % 20;
            if (known.size() < 8) { known.push_back(request.prompt); }
            REQUIRE(bench.loop.post_command(make_start(turn, request.prompt, request.new_tokens)));
            asked.emplace(turn, std::move(request));
        }
        if (random() % 60 == 0 && !asked.empty()) {
            auto at = std::next(asked.begin(), static_cast<std::ptrdiff_t>(random() % asked.size()));
            at->second.is_cancelled = true;
            REQUIRE(bench.loop.post_command(worker::CancelRequest{key_of(at->first), test_support::kGateway, "no"}));
        }
        if (random() % 300 == 0) {
            REQUIRE(bench.loop.post_command(worker::DropRequest{[](std::uint32_t) {}}));
        }
        if (!bench.mover.jobs.empty() && random() % 3 != 0) {
            const std::uint32_t blocks = random() % 8 == 0 ? random() % 3 : 0xffffffff;
            bench.done_in_time(random() % bench.mover.jobs.size(), blocks);
        }
        bench.driver.overlapped_turn([&] { bench.clock.advance(std::chrono::milliseconds(50 + random() % 400)); });
    }
    int turns = 0;
    while (bench.driver.overlapped_turn() || !bench.mover.jobs.empty()) {
        while (!bench.mover.jobs.empty()) {
            bench.done(0);
        }
        REQUIRE(++turns < 100000);
    }
    for (const auto& [request, what] : asked) {
        const auto& answer = bench.sink.answers.at(key_of(request));
        REQUIRE(answer.finals == 1);
        if (what.is_cancelled) { continue; }
        REQUIRE(answer.finish == worker::Finish::length);
        bench.check_answer(request, what.prompt, what.new_tokens);
    }
    bench.check_nothing_held();
}
