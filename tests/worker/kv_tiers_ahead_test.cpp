// KV that is loaded from below the pool before its sequence has memory: when, how much, and that nobody else notices.
#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "worker/kv_tiers.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/step_bench.h"
#include "tests/worker/tier_bench.h"

using base::TokenId;
using kv_transfer::TierJob;
using test_support::make_start;
using tier_test::key_of;
using tier_test::prompt_of;

namespace {

constexpr std::uint32_t kPool = 30;
constexpr std::uint32_t kBlocks = 12;             // of what returns, below the pool
constexpr std::uint64_t kRuns = 2;                // holds 19 blocks and grows, so that
constexpr std::uint64_t kReturns = 3;             // this one waits, which needs 13
constexpr std::uint32_t kPieceBlocksUnknown = 8;  // the first piece, of a tier of which nothing is known

worker::WorkerOptions ahead_of(std::uint32_t percent) {
    worker::WorkerOptions limits;
    limits.kv_ahead_percent = percent;
    return limits;
}

struct AheadBench : tier_test::TierBench {
    explicit AheadBench(std::uint32_t percent = 50) : TierBench(kPool, 256, 2, ahead_of(percent)) {
        ask(1, returns, 1);
        flood(100);
    }
    void start(std::uint64_t request, const std::vector<TokenId>& prompt, std::uint32_t new_tokens) {
        REQUIRE(loop.post_command(make_start(request, prompt, new_tokens)));
    }
    void begin(std::uint32_t new_tokens = 80) {
        start(kRuns, runs, new_tokens);
        driver.turn();
        REQUIRE(held_by(kRuns) >= 19);
        start(kReturns, returns, 4);
        loop.work();
        REQUIRE(waits(kReturns));
    }
    void cancel(std::uint64_t request) {
        REQUIRE(loop.post_command(worker::CancelRequest{key_of(request), test_support::kGateway, "no"}));
        loop.work();
    }
    std::uint32_t held_by(std::uint64_t request) {
        return static_cast<std::uint32_t>(loop.find(key_of(request))->kv->blocks().size());
    }
    bool waits(std::uint64_t request) {
        const auto* sequence = loop.find(key_of(request));
        return sequence != nullptr && sequence->state == worker::SequenceState::waiting;
    }
    std::optional<std::size_t> load_job() const {
        for (std::size_t i = 0; i < mover.jobs.size(); ++i) {
            if (mover.jobs[i].kind == TierJob::Kind::load) { return i; }
        }
        return std::nullopt;
    }
    std::size_t blocks_asked() const { return mover.jobs.at(load_job().value()).hashes.size(); }
    void load(std::uint32_t blocks = 0xffffffff) {
        done(load_job().value(), blocks);
        loop.work();
    }
    void load_all() {
        while (load_job()) {
            load();
        }
    }
    void save_all() {
        while (true) {
            const auto at = std::find_if(mover.jobs.begin(), mover.jobs.end(),
                                         [](const TierJob& job) { return job.kind == TierJob::Kind::save; });
            if (at == mover.jobs.end()) { return; }
            done(static_cast<std::size_t>(at - mover.jobs.begin()));
            loop.work();
        }
    }
    std::uint32_t in_pool(std::uint64_t request) {
        const auto& chain = loop.find(key_of(request))->chain;
        return cache.cached_tokens(chain, static_cast<std::uint32_t>(chain.size()) * 16) / 16;
    }
    double ahead_blocks(const std::string& outcome) const {
        return figure("sluice_kv_ahead_bytes_total{outcome=\"" + outcome + "\"}") /
               static_cast<double>(engine.layout().block_bytes());
    }
    double loads() const { return figure("\nsluice_kv_ahead_loads_total"); }
    double preemptions() const {
        return std::max(0.0, figure("sluice_worker_preemptions_total{cause=\"growth\",model=\"ledger\"}"));
    }
    /// All that was asked ends as if nothing had been loaded.
    void finish(std::uint32_t computed_again) {
        const auto before = engine.tokens_computed();
        settle();
        finish_jobs();
        check_answer(kReturns, returns, 4);
        REQUIRE(engine.tokens_computed() - before == computed_again + 5 + 3);
        check_nothing_held();
    }

    const std::vector<TokenId> returns = prompt_of(kBlocks * 16 + 5, 1);
    const std::vector<TokenId> runs = prompt_of(19 * 16, 2);
};

}  // namespace

TEST_CASE("who waits for memory has been loaded, as far as there was room, when its turn comes", "[worker]") {
    AheadBench bench;
    bench.begin();
    REQUIRE(bench.blocks_asked() == kPieceBlocksUnknown);
    const auto chain = bench.loop.find(key_of(kReturns))->chain;
    REQUIRE(bench.mover.jobs.at(*bench.load_job()).hashes ==
            std::vector(chain.begin(), chain.begin() + kPieceBlocksUnknown));
    bench.load_all();
    const std::uint32_t loaded = kPool - bench.held_by(kRuns) - 1;  // who runs can grow
    REQUIRE(loaded > kPieceBlocksUnknown);
    REQUIRE(loaded < kBlocks);
    REQUIRE(bench.in_pool(kReturns) == loaded);
    REQUIRE(bench.loads() == 2);
    REQUIRE(bench.waits(kReturns));
    REQUIRE(bench.cache.blocks_available() == kPool - bench.held_by(kRuns));  // it is nobody's
    bench.save_all();
    bench.cancel(kRuns);
    bench.save_all();
    REQUIRE(bench.is_loading(kReturns));
    REQUIRE(bench.blocks_asked() == kBlocks - loaded);
    REQUIRE(bench.ahead_blocks("used") == loaded);
    REQUIRE(bench.ahead_blocks("wasted") == 0);
    bench.load_all();
    bench.finish(0);
    REQUIRE(bench.sink.answers.at(key_of(kReturns)).cached_tokens == kBlocks * 16);
}

TEST_CASE("no more is loaded ahead than the bound, and nothing where that is off", "[worker]") {
    SECTION("a fifth of the pool") {
        AheadBench bench(20);
        bench.begin();
        bench.load_all();
        REQUIRE(bench.in_pool(kReturns) == kPool / 5);
        bench.cancel(kRuns);
        bench.save_all();
        bench.load_all();
        bench.finish(0);
    }
    SECTION("off") {
        AheadBench bench(0);
        bench.begin();
        REQUIRE_FALSE(bench.load_job());
        bench.driver.turn();
        REQUIRE_FALSE(bench.load_job());
        bench.save_all();
        bench.cancel(kRuns);
        bench.save_all();
        REQUIRE(bench.blocks_asked() == kBlocks);
        bench.load_all();
        bench.finish(0);
        REQUIRE(bench.loads() == 0);
    }
}

TEST_CASE("who grows takes the room of what was loaded ahead, and pushes nobody out", "[worker]") {
    AheadBench bench;
    bench.begin(100);
    bench.load_all();
    const auto loaded = static_cast<double>(bench.in_pool(kReturns));
    while (bench.loop.find(key_of(kRuns)) != nullptr) {
        REQUIRE(bench.waits(kReturns));
        bench.driver.turn();
        bench.save_all();
        bench.load_all();
    }
    bench.check_answer(kRuns, bench.runs, 100);
    REQUIRE(bench.preemptions() == 0);
    bench.settle();
    bench.finish_jobs();
    bench.check_answer(kReturns, bench.returns, 4);
    REQUIRE(bench.ahead_blocks("used") + bench.ahead_blocks("wasted") == loaded);
    REQUIRE(bench.ahead_blocks("wasted") > 0);
    REQUIRE(bench.ahead_blocks("used") > 0);
    bench.check_nothing_held();
}

TEST_CASE("who grows into what is being loaded waits for that piece alone", "[worker]") {
    AheadBench bench;
    bench.begin(100);
    REQUIRE(bench.load_job());
    REQUIRE(bench.tiers.blocks_returning() == kPieceBlocksUnknown);
    for (int turn = 0; turn < 200; ++turn) {
        bench.driver.turn();
        bench.save_all();
    }
    const std::size_t generated = bench.sink.answers.at(key_of(kRuns)).tokens.size();
    REQUIRE(generated >= 16);  // it had room to begin with
    REQUIRE(generated < 100);
    REQUIRE(bench.preemptions() == 0);
    bench.load();
    bench.settle();
    bench.finish_jobs();
    bench.check_answer(kRuns, bench.runs, 100);
    bench.check_answer(kReturns, bench.returns, 4);
    REQUIRE(bench.preemptions() == 0);
    bench.check_nothing_held();
}

TEST_CASE("when nothing is left to load for the first one, the second is loaded, beside it", "[worker]") {
    AheadBench bench;
    auto longer = prompt_of(3 * 16, 7);
    bench.ask(4, longer, 1);
    bench.flood(101);
    const auto more = prompt_of(200, 8);
    longer.insert(longer.end(), more.begin(), more.end());
    bench.start(kRuns, bench.runs, 80);
    bench.driver.turn();
    bench.start(5, longer, 4);
    bench.loop.work();
    REQUIRE(bench.blocks_asked() == 3);
    bench.start(kReturns, bench.returns, 4);
    bench.loop.work();
    REQUIRE(bench.waits(5));
    REQUIRE(bench.waits(kReturns));
    bench.load_all();
    REQUIRE(bench.in_pool(5) == 3);
    REQUIRE(bench.in_pool(kReturns) == kPool - bench.held_by(kRuns) - 1 - 3);
    bench.settle();
    bench.finish_jobs();
    bench.check_answer(kRuns, bench.runs, 80);
    bench.check_answer(5, longer, 4);
    bench.check_answer(kReturns, bench.returns, 4);
    bench.check_nothing_held();
}

TEST_CASE("a load ahead that fails, in part or all of it, is not tried again, and the rest is computed", "[worker]") {
    AheadBench bench;
    bench.begin();
    const std::uint32_t come = GENERATE(0u, 3u);
    bench.load(come);
    REQUIRE_FALSE(bench.load_job());  // the level has no more of it
    REQUIRE(bench.in_pool(kReturns) == come);
    REQUIRE(bench.figure("sluice_kv_tier_loads_total{outcome=\"" + std::string(come > 0 ? "partial" : "failed") +
                         "\",tier=\"host\"}") == 1);
    bench.save_all();
    bench.cancel(kRuns);
    bench.save_all();
    bench.finish((kBlocks - come) * 16);
    REQUIRE(bench.ahead_blocks("used") == come);
}

TEST_CASE("who ends, or gets memory, while a piece is loaded for it leaves that to its end", "[worker]") {
    AheadBench bench;
    bench.begin();
    REQUIRE(bench.load_job());
    SECTION("it is cancelled") {
        bench.cancel(kReturns);
        bench.cancel(kRuns);
        REQUIRE(bench.loop.find(key_of(kReturns)) == nullptr);
        bench.check_nothing_held();
    }
    SECTION("it is cancelled when the piece is there") {
        bench.load();
        bench.cancel(kReturns);
        bench.cancel(kRuns);
        bench.check_nothing_held();
    }
    SECTION("it gets memory") {
        bench.save_all();
        bench.cancel(kRuns);
        bench.save_all();
        REQUIRE(bench.is_loading(kReturns));  // all of it, since nothing has come yet
        bench.load_all();
        bench.finish(0);
    }
    SECTION("prefixes are dropped") {
        REQUIRE(bench.loop.post_command(worker::DropRequest{[](std::uint32_t) {}}));
        bench.loop.work();
        bench.load();
        REQUIRE(bench.in_pool(kReturns) == 0);
        REQUIRE_FALSE(bench.load_job());
        bench.cancel(kRuns);
        bench.finish_jobs();
        bench.settle();
        bench.check_answer(kReturns, bench.returns, 4);
        bench.check_nothing_held();
    }
    REQUIRE(bench.ahead_blocks("used") == 0);
    REQUIRE(bench.ahead_blocks("wasted") >= kPieceBlocksUnknown);
}

TEST_CASE("a level that takes no more jobs is asked again later", "[worker]") {
    AheadBench bench;
    bench.mover.room = 0;
    bench.begin();
    REQUIRE_FALSE(bench.load_job());
    REQUIRE(bench.tiers.blocks_returning() == 0);
    REQUIRE(bench.cache.blocks_available() == kPool - bench.held_by(kRuns));
    bench.mover.room = 1000;
    bench.loop.work();
    REQUIRE(bench.blocks_asked() == kPieceBlocksUnknown);
    bench.load_all();
    bench.save_all();
    bench.cancel(kRuns);
    bench.save_all();
    bench.load_all();
    bench.finish(0);
}

TEST_CASE("nothing is loaded ahead while somebody who has memory loads", "[worker]") {
    AheadBench bench;
    const auto other = prompt_of(17 * 16 + 3, 9);
    bench.ask(4, other, 1);
    bench.flood(101);
    bench.start(5, other, 40);
    bench.start(kReturns, bench.returns, 4);
    bench.loop.work();
    REQUIRE(bench.is_loading(5));
    REQUIRE(bench.waits(kReturns));
    REQUIRE(bench.mover.jobs.size() == 1);
    REQUIRE(bench.blocks_asked() == 17);
    bench.load();
    REQUIRE_FALSE(bench.is_loading(5));
    REQUIRE(bench.waits(kReturns));
    REQUIRE(bench.load_job());
    REQUIRE(bench.loads() == 1);
    bench.settle();
    bench.finish_jobs();
    bench.check_answer(5, other, 40);
    bench.check_answer(kReturns, bench.returns, 4);
    bench.check_nothing_held();
}
