// What a worker lends to those who fetch from it, over a port that only notes what it is told.
#include "worker/kv_lender.h"

#include <memory>
#include <string>
#include <vector>

#include "base/log.h"
#include "worker/kv_tiers_part.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/held_mover.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"

using base::ErrorCode;
using base::TokenId;
using kv_transfer::HandoffKey;
using kv_transfer::SenderEvent;
using test_support::StepBench;

namespace {

class NotedLoans final : public worker::KvLendPort {
public:
    struct Opened {
        HandoffKey key;
        std::uint32_t kv_tokens = 0;
        std::vector<base::BlockId> blocks;
        base::TimePoint deadline;
        kv_transfer::Slots::Slot slot;
    };
    base::Result<void> open(const kv_transfer::OpenHandoff& handoff) override {
        if (is_stopped) { return base::fail(ErrorCode::unavailable, "stopped"); }
        opened.push_back({handoff.key,
                          handoff.kv_tokens,
                          {handoff.blocks.begin(), handoff.blocks.end()},
                          handoff.deadline,
                          handoff.fetch_slot});
        return {};
    }
    void ready(const HandoffKey&, std::uint32_t layer_begin, std::uint32_t layer_end, std::uint32_t token_begin,
               std::uint32_t token_end) override {
        REQUIRE(layer_begin == 0);
        REQUIRE(layer_end == 4);
        REQUIRE(token_begin == 0);
        REQUIRE(token_end == opened.back().kv_tokens);
    }
    void abort(const HandoffKey& key, base::Error) override { aborted.push_back(key.run); }
    void refuse_fetch(const HandoffKey&, base::Error error, kv_transfer::Slots::Slot slot) override {
        REQUIRE(slot != nullptr);
        refused.push_back(error.code);
    }

    bool is_stopped = false;
    std::vector<Opened> opened;
    std::vector<std::uint32_t> aborted;
    std::vector<ErrorCode> refused;
};

/// A worker of 64 blocks that has computed a prompt of 10 full ones.
struct LendBench : StepBench {
    LendBench() : StepBench({}, {}), lender({}, 4, loop, port, metrics) {
        base::init_log({.role = "test", .level = "off"});
        loop.add_helper(&lender);
        REQUIRE(loop.post_command(test_support::make_start(1, prompt, 1)));
        settle();
        REQUIRE(cache.counts().cached == 10);
    }
    static std::vector<TokenId> make_prompt() {
        test_support::Random random{1};
        return test_support::random_prompt(random, 165);
    }
    void event(SenderEvent::Kind kind, std::uint32_t run, std::vector<base::BlockHash> hashes = {}) {
        SenderEvent news;
        news.kind = kind;
        news.key = {base::RequestId{9}, base::Epoch{0}, base::Incarnation{1}, base::Incarnation{2}, run};
        news.hashes = std::move(hashes);
        news.deadline = clock.now() + std::chrono::seconds(3);
        if (kind == SenderEvent::Kind::fetch_requested) { news.slot = slots.take(); }
        lender.on_event(std::move(news));
        settle();
    }
    void ask(std::uint32_t run, std::size_t first, std::size_t count) {
        const auto begin = chain.begin() + static_cast<std::ptrdiff_t>(first);
        event(SenderEvent::Kind::fetch_requested, run, {begin, begin + static_cast<std::ptrdiff_t>(count)});
    }

    kv_transfer::Slots slots;
    NotedLoans port;
    worker::KvLender lender;
    std::vector<TokenId> prompt = make_prompt();
    std::vector<base::BlockHash> chain =
        base::block_hash_chain({}, {.cache_scope = "", .numerics_id = 42, .adapter = ""}, prompt);
};

}  // namespace

TEST_CASE("blocks are lent while they are held, and cached again afterwards", "[worker]") {
    LendBench bench;
    bench.ask(1, 2, 5);  // a run need not begin with the prompt
    REQUIRE(bench.port.opened.size() == 1);
    CHECK(bench.port.opened[0].kv_tokens == 80);
    CHECK(bench.port.opened[0].deadline == bench.clock.now() + std::chrono::seconds(3));
    const auto match = bench.cache.match(bench.chain, 1000);
    CHECK(std::equal(bench.port.opened[0].blocks.begin(), bench.port.opened[0].blocks.end(), match.blocks().begin() + 2,
                     match.blocks().begin() + 7));
    CHECK(bench.cache.counts().pinned == 5);
    CHECK_FALSE(bench.loop.parts_busy());  // nobody who drains waits for this
    bench.event(SenderEvent::Kind::completed, 1);
    CHECK(bench.cache.counts().pinned == 5);
    bench.event(SenderEvent::Kind::released, 1);
    CHECK(bench.cache.counts().pinned == 0);
    CHECK(bench.metrics.text().find("sluice_kv_lent_blocks_total 5") != std::string::npos);
    bench.port.opened.clear();
    CHECK(bench.slots.used() == 0);
}

TEST_CASE("a run is lent as far as it is here without a gap from its first block on", "[worker]") {
    LendBench bench;
    auto hashes = std::vector(bench.chain.begin(), bench.chain.begin() + 6);
    hashes[3].low ^= 1;
    bench.event(SenderEvent::Kind::fetch_requested, 1, hashes);
    REQUIRE(bench.port.opened.size() == 1);
    CHECK(bench.port.opened[0].kv_tokens == 48);
    hashes[0].low ^= 1;
    bench.event(SenderEvent::Kind::fetch_requested, 2, hashes);
    CHECK(bench.port.opened.size() == 1);
    CHECK(bench.port.refused == std::vector{ErrorCode::not_found});
}

TEST_CASE("at most a quarter of the pool is lent at a time", "[worker]") {
    LendBench bench;  // 16 of 64
    bench.ask(1, 0, 10);
    bench.ask(2, 0, 10);
    REQUIRE(bench.port.opened.size() == 2);
    CHECK(bench.port.opened[0].kv_tokens == 160);
    CHECK(bench.port.opened[1].kv_tokens == 96);
    bench.ask(3, 0, 1);
    CHECK(bench.port.refused == std::vector{ErrorCode::resource_exhausted});
    bench.event(SenderEvent::Kind::failed, 1);
    bench.event(SenderEvent::Kind::released, 1);
    bench.ask(4, 0, 10);
    REQUIRE(bench.port.opened.size() == 3);
    CHECK(bench.port.opened[2].kv_tokens == 160);
}

TEST_CASE("a loan that cannot begin is refused, and one ends no later than a hand-off may last", "[worker]") {
    LendBench bench;
    bench.port.is_stopped = true;
    bench.ask(1, 0, 4);
    CHECK(bench.port.refused == std::vector{ErrorCode::unavailable});
    CHECK(bench.cache.counts().stranded == 0);
    bench.port.is_stopped = false;
    SenderEvent asked;
    asked.kind = SenderEvent::Kind::fetch_requested;
    asked.key = {base::RequestId{9}, base::Epoch{0}, base::Incarnation{1}, base::Incarnation{2}, 2};
    asked.hashes = bench.chain;
    asked.deadline = bench.clock.now() + std::chrono::hours(1000);
    asked.slot = bench.slots.take();
    bench.lender.on_event(asked);
    bench.settle();
    REQUIRE(bench.port.opened.size() == 1);
    CHECK(bench.port.opened[0].deadline == bench.clock.now() + worker::WorkerOptions{}.handoff_timeout);
}

TEST_CASE("the end of the worker ends its loans and takes no new ones", "[worker]") {
    LendBench bench;
    bench.ask(1, 0, 4);
    bench.loop.begin_drain();
    bench.ask(2, 4, 4);  // who drains goes on lending
    CHECK(bench.port.opened.size() == 2);
    bench.loop.end_all();
    CHECK(bench.port.aborted == std::vector<std::uint32_t>{1, 2});
    CHECK(bench.loop.parts_busy());
    bench.ask(3, 0, 1);
    CHECK(bench.port.refused == std::vector{ErrorCode::unavailable});
    for (const std::uint32_t run : {1u, 2u}) {
        bench.event(SenderEvent::Kind::failed, run);
        bench.event(SenderEvent::Kind::released, run);
    }
    CHECK_FALSE(bench.loop.parts_busy());
    CHECK(bench.cache.counts().stranded == 0);
}

namespace {

/// The same with a level below, which has a copy of everything; the pool has forgotten it.
struct BelowBench : LendBench {
    BelowBench()
        : mover(engine.kv_store(), 512),
          slots_below({.blocks_total = 512, .block_tokens = 16}),
          tiers({{"host", &slots_below, &mover, 2, engine.layout().block_bytes()}}, {}, loop, "mixed-0", metrics) {
        loop.add_helper(&tiers);
        lender.add_tiers(tiers.tiers());
        REQUIRE(loop.post_command(test_support::make_start(2, prompt, 1)));
        settle();
        finish_jobs();
        for (std::uint64_t request = 3; cache.cached_tokens(chain, 160) > 0; ++request) {  // others need the room
            REQUIRE(request < 20);
            std::vector<TokenId> other(600, static_cast<TokenId>(request));
            REQUIRE(loop.post_command(test_support::make_start(request, other, 1)));
            settle();
            finish_jobs();
        }
    }
    ~BelowBench() { finish_jobs(); }
    void finish_jobs() {
        while (!mover.jobs.empty()) {
            done();
        }
    }
    void done(std::uint32_t blocks = 0xffffffff) {
        tiers.on_event(0, mover.run(0, blocks));
        settle();
    }

    test_support::HeldMover mover;
    kv_cache::KvCache slots_below;
    worker::KvTiersPart tiers;
};

}  // namespace

TEST_CASE("what only a level below the pool has is loaded and lent, and leaves no trace in the pool", "[worker]") {
    BelowBench bench;
    const auto before = bench.cache.counts();
    bench.ask(1, 2, 5);
    REQUIRE(bench.port.opened.empty());  // it is on its way
    REQUIRE(bench.mover.jobs.size() == 1);
    bench.done();
    REQUIRE(bench.port.opened.size() == 1);
    CHECK(bench.port.opened[0].kv_tokens == 80);
    // What is lent is what was computed: an engine that reads it finds the prompt's tokens.
    for (std::size_t i = 0; i < 5; ++i) {
        const auto* values =
            reinterpret_cast<const float*>(bench.engine.kv_store().block(bench.port.opened[0].blocks[i]) +
                                           bench.engine.layout().element_offset(0, kv_cache::KvPart::k, 0, 3, 0));
        CHECK(*values == static_cast<float>(bench.prompt[(2 + i) * 16 + 3]));
    }
    bench.event(SenderEvent::Kind::completed, 1);
    bench.event(SenderEvent::Kind::released, 1);
    CHECK(bench.cache.counts().pinned + bench.cache.counts().stranded + bench.cache.counts().used == 0);
    CHECK(bench.cache.cached_tokens(bench.chain, 160) == 0);
    CHECK(bench.cache.counts().cached <= before.cached);
    bench.port.opened.clear();
    CHECK(bench.slots.used() == 0);
}

TEST_CASE("of a level that fails half way what came is lent, and nothing when nothing came", "[worker]") {
    BelowBench bench;
    bench.ask(1, 0, 6);
    bench.done(4);
    REQUIRE(bench.port.opened.size() == 1);
    CHECK(bench.port.opened[0].kv_tokens == 64);
    bench.event(SenderEvent::Kind::completed, 1);
    bench.event(SenderEvent::Kind::released, 1);
    CHECK(bench.metrics.text().find("sluice_kv_lent_blocks_total 4") != std::string::npos);
    bench.ask(2, 0, 4);
    bench.done(0);
    CHECK(bench.port.opened.size() == 1);
    CHECK(bench.port.refused == std::vector{ErrorCode::not_found});
    CHECK(bench.cache.counts().pinned + bench.cache.counts().stranded + bench.cache.counts().used == 0);
    bench.port.opened.clear();
}
