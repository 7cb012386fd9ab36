// What goes out to the tiers below the pool, what comes back, and that nothing of it changes an answer.
#include "worker/kv_tiers.h"

#include <string>
#include <vector>

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
using test_support::teach_millisecond_a_token;
using tier_test::key_of;
using tier_test::prompt_of;
using tier_test::TierBench;

TEST_CASE("a conversation that returns is loaded, and only what is new is computed and goes out", "[worker]") {
    TierBench bench(20);
    auto prompt = prompt_of(100);
    bench.ask(1, prompt, 30);
    const auto answer = bench.sink.answers.at(key_of(1)).tokens;
    const double out = bench.figure("sluice_kv_tier_bytes_total{direction=\"out\",tier=\"host\"}");
    REQUIRE(out == 8.0 * static_cast<double>(bench.engine.layout().block_bytes()));  // 129 tokens have KV
    bench.flood(2);
    const double out_flooded = bench.figure("sluice_kv_tier_bytes_total{direction=\"out\",tier=\"host\"}");

    prompt.insert(prompt.end(), answer.begin(), answer.end());
    const auto more = prompt_of(20, 5);
    prompt.insert(prompt.end(), more.begin(), more.end());
    REQUIRE(bench.loop.post_command(make_start(3, prompt, 12)));
    bench.settle();
    REQUIRE(bench.is_loading(3));
    const auto before = bench.engine.tokens_computed();
    bench.finish_jobs();
    bench.check_answer(3, prompt, 12);
    REQUIRE(bench.engine.tokens_computed() - before == 150 - 128 + 11);
    REQUIRE(bench.sink.answers.at(key_of(3)).cached_tokens == 128);
    REQUIRE(bench.figure("sluice_kv_tier_loads_total{outcome=\"complete\",tier=\"host\"}") == 1);
    // 161 tokens have KV now: two more full blocks.
    REQUIRE(bench.figure("sluice_kv_tier_bytes_total{direction=\"out\",tier=\"host\"}") - out_flooded ==
            2.0 * static_cast<double>(bench.engine.layout().block_bytes()));
    bench.check_nothing_held();
}

TEST_CASE("while a sequence computes, its full blocks go out in runs", "[worker]") {
    TierBench bench(64, 256, 4);
    REQUIRE(bench.loop.post_command(make_start(1, prompt_of(16 * 9), 1)));
    int turns = 0;
    while (bench.mover.jobs.empty()) {
        bench.driver.turn();
        REQUIRE(++turns < 10);
    }
    REQUIRE(bench.mover.jobs.front().pieces.size() == 1);  // one copy
    bench.finish_jobs();
    bench.check_answer(1, prompt_of(16 * 9), 1);
    bench.check_nothing_held();
}

TEST_CASE("who gave way finds what it computed in the tier", "[worker]") {
    TierBench bench(16);
    const auto first = prompt_of(60, 1);
    const auto second = prompt_of(60, 2);
    REQUIRE(bench.loop.post_command(make_start(1, first, 90)));
    REQUIRE(bench.loop.post_command(make_start(2, second, 90)));
    int turns = 0;
    while (bench.sink.answers[key_of(1)].finals == 0 || bench.sink.answers[key_of(2)].finals == 0) {
        bench.driver.turn();
        while (!bench.mover.jobs.empty()) {
            bench.done(0);
        }
        REQUIRE(++turns < 2000);
    }
    bench.check_answer(1, first, 90);
    bench.check_answer(2, second, 90);
    REQUIRE(bench.figure("sluice_worker_preemptions_total{cause=\"growth\",model=\"ledger\"}") >= 1);
    // Without the tier all of a preempted sequence is computed again: more than a block's worth each time.
    const double again = static_cast<double>(bench.engine.tokens_computed()) - 2 * (60 + 89);
    REQUIRE(again <= 16 * bench.figure("sluice_worker_preemptions_total{cause=\"growth\",model=\"ledger\"}"));
    bench.check_nothing_held();
}

TEST_CASE("who grows waits for the copy of who gave way, and for nobody else's memory", "[worker]") {
    TierBench bench(16, 256, 0);  // only who leaves is copied: all of it has to go out then
    REQUIRE(bench.loop.post_command(make_start(1, prompt_of(60, 1), 150)));
    REQUIRE(bench.loop.post_command(make_start(2, prompt_of(60, 2), 60)));
    REQUIRE(bench.loop.post_command(make_start(3, prompt_of(16, 3), 60)));
    int turns = 0;
    while (bench.mover.jobs.empty()) {
        bench.driver.turn();
        REQUIRE(++turns < 2000);
    }
    REQUIRE(bench.figure("sluice_worker_preemptions_total{cause=\"growth\",model=\"ledger\"}") == 1);
    REQUIRE(bench.tiers.blocks_returning() > 0);
    bench.settle();  // those who have room go on; nobody else gives way
    REQUIRE(bench.figure("sluice_worker_preemptions_total{cause=\"growth\",model=\"ledger\"}") == 1);
    bench.finish_jobs();
    for (const auto& [request, prompt, tokens] :
         {std::tuple(1, prompt_of(60, 1), 150u), std::tuple(2, prompt_of(60, 2), 60u),
          std::tuple(3, prompt_of(16, 3), 60u)}) {
        bench.check_answer(static_cast<std::uint64_t>(request), prompt, tokens);
    }
    bench.check_nothing_held();
}

TEST_CASE("what a tier gives in part, or not at all, is computed, and not asked for again", "[worker]") {
    TierBench bench(20);
    const auto prompt = prompt_of(101);
    bench.ask(1, prompt, 1);
    bench.flood(2);
    std::uint32_t come = 0;
    SECTION("three blocks") {
        come = 3;
    }
    SECTION("none") {
        come = 0;
    }
    REQUIRE(bench.loop.post_command(make_start(3, prompt, 3)));
    bench.settle();
    REQUIRE(bench.is_loading(3));
    const auto before = bench.engine.tokens_computed();
    bench.done(0, come);
    bench.settle();
    REQUIRE(bench.engine.tokens_computed() - before == 101 - 16 * come + 2);
    bench.finish_jobs();
    bench.check_answer(3, prompt, 3);
    REQUIRE(bench.figure("sluice_kv_tier_loads_total{outcome=\"" + std::string(come > 0 ? "partial" : "failed") +
                         "\",tier=\"host\"}") == 1);
    bench.check_nothing_held();
}

TEST_CASE("who ends while it loads holds its blocks until the copy has ended", "[worker]") {
    TierBench bench(20);
    const auto prompt = prompt_of(101);
    bench.ask(1, prompt, 1);
    bench.flood(2);
    REQUIRE(bench.loop.post_command(make_start(3, prompt, 3)));
    bench.settle();
    REQUIRE(bench.is_loading(3));
    REQUIRE(bench.loop.post_command(worker::CancelRequest{key_of(3), test_support::kGateway, "no"}));
    bench.settle();
    REQUIRE(bench.loop.find(key_of(3)) == nullptr);
    REQUIRE(bench.cache.counts().stranded == 6);
    bench.check_nothing_held();
}

TEST_CASE("dropped prefixes are in no tier either, also not what was on its way", "[worker]") {
    TierBench bench(64);
    const auto prompt = prompt_of(101);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 1)));
    bench.settle();
    REQUIRE_FALSE(bench.mover.jobs.empty());  // on its way
    bool is_done = false;
    REQUIRE(bench.loop.post_command(worker::DropRequest{[&](std::uint32_t) { is_done = true; }}));
    bench.settle();
    REQUIRE(is_done);
    REQUIRE(bench.mover.jobs.back().kind == TierJob::Kind::clear);
    bench.finish_jobs();
    REQUIRE(bench.slots.counts().cached == 0);
    const auto before = bench.engine.tokens_computed();
    bench.ask(3, prompt, 3);
    REQUIRE(bench.engine.tokens_computed() - before == 101 + 2);
    bench.check_nothing_held();
}

TEST_CASE("what was only part of the way out, or waited behind it, is in no tier after a drop", "[worker]") {
    TierBench bench(220, 256, GENERATE(0u, 4u));  // a copy in three parts, two at once; two copies
    const auto prompt = prompt_of(16 * 180);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 20)));
    int turns = 0;
    while (bench.mover.jobs.empty()) {
        bench.driver.turn();
        REQUIRE(++turns < 100);
    }
    bench.settle();  // it has ended: what the first copy does not have waits
    REQUIRE(bench.sink.answers.at(key_of(1)).finals == 1);
    const std::size_t under_way = bench.mover.jobs.size();
    REQUIRE((under_way == 1 || under_way == 2));
    REQUIRE(bench.loop.post_command(worker::DropRequest{[](std::uint32_t) {}}));
    bench.settle();
    REQUIRE(bench.mover.jobs.size() == under_way + 1);
    REQUIRE(bench.mover.jobs.back().kind == TierJob::Kind::clear);
    bench.done(0);
    bench.settle();
    REQUIRE(bench.mover.jobs.size() == under_way);  // nothing more goes out, which the clear would come too early for
    bench.check_nothing_held();
    REQUIRE(bench.slots.counts().cached == 0);
}

TEST_CASE("of a long save the level has two parts at once, and what is behind one that failed is not found",
          "[worker]") {
    TierBench bench(250, 512, 0, {}, base::Duration{});  // known to be quick: all of it is loaded
    const auto prompt = prompt_of(16 * 200 + 1);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 1)));
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(1)).finals == 1);
    REQUIRE(bench.mover.jobs.size() == 2);  // of four
    std::uint32_t saved = 200;
    SECTION("all are copied") {
        for (const std::size_t left : {2u, 2u, 1u, 0u}) {
            bench.done(0);
            bench.settle();
            REQUIRE(bench.mover.jobs.size() == left);
        }
    }
    SECTION("the first fails") {
        bench.done(0, 5);
        bench.settle();
        REQUIRE(bench.mover.jobs.size() == 1);
        saved = 0;
    }
    SECTION("the second fails") {
        bench.done(0);
        bench.settle();
        bench.done(0, 3);
        bench.settle();
        REQUIRE(bench.mover.jobs.size() == 1);
        saved = 64;
    }
    SECTION("the third finds no room for its job") {
        bench.mover.room = 1;
        bench.done(0);
        bench.settle();
        REQUIRE(bench.mover.jobs.size() == 1);
        bench.mover.room = 1000;
        saved = 128;
    }
    bench.finish_jobs();
    CHECK(bench.slots.counts().cached == saved);
    const auto before = bench.engine.tokens_computed();
    bench.flood(5000);
    const auto flooded = bench.engine.tokens_computed();
    CHECK(flooded > before);
    bench.ask(2, prompt, 1);
    CHECK(bench.engine.tokens_computed() - flooded == prompt.size() - saved * 16);
    bench.check_nothing_held();
}

TEST_CASE("once the KV of a sequence is its own affair, no more of it goes to a tier", "[worker]") {
    TierBench bench(64);
    const auto prompt = prompt_of(101);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 20)));
    bench.driver.turn();
    while (!bench.mover.jobs.empty()) {
        bench.done(0);
        REQUIRE(bench.loop.work());
    }
    bench.loop.find(key_of(1))->kv->keep_private();  // as after a hand-off with loss
    bench.settle();
    REQUIRE(bench.mover.jobs.empty());
    bench.check_answer(1, prompt, 20);
    bench.check_nothing_held();
}

TEST_CASE("a tier that is full, or has no room for jobs, is left out", "[worker]") {
    TierBench bench(40, 4);
    const auto prompt = prompt_of(101);
    SECTION("more than it has slots") {}
    SECTION("no jobs") {
        bench.mover.room = 0;
    }
    bench.ask(1, prompt, 20);
    REQUIRE(bench.figure("sluice_kv_tier_saves_total{outcome=\"dropped\",tier=\"host\"}") >= 1);
    bench.check_nothing_held();
}

TEST_CASE("a prompt that is computed sooner than it would be loaded is computed, and now and then loaded", "[worker]") {
    TierBench bench(20, 2000);
    bench.mover.duration = std::chrono::hours(1);
    const auto prompt = prompt_of(101);
    bench.ask(1, prompt, 1);
    bench.flood(2);
    bench.ask(3, prompt, 3);  // nothing is known of computing: loading it teaches what that takes
    REQUIRE(bench.figure("sluice_kv_tier_loads_total{outcome=\"complete\",tier=\"host\"}") == 1);
    teach_millisecond_a_token(bench, [&] { bench.finish_jobs(); });
    const auto left_out = [&] { return bench.figure("sluice_kv_tier_loads_total{outcome=\"slower\",tier=\"host\"}"); };
    std::uint64_t request = 1000;
    for (int time = 0; time < 15; ++time) {
        bench.flood(++request);
        bench.ask(++request, prompt, 1);
        REQUIRE(left_out() == time + 1);
    }
    bench.mover.duration = {};
    bench.flood(++request);
    bench.ask(++request, prompt, 1);
    REQUIRE(left_out() == 15);
    REQUIRE(bench.figure("sluice_kv_tier_loads_total{outcome=\"complete\",tier=\"host\"}") == 2);
    bench.check_nothing_held();
}

TEST_CASE("whatever tiers do and when, answers are the same and nothing is lost", "[worker][property]") {
    const std::uint32_t seed = GENERATE(range(0u, test_support::seeds_of(40)));
    INFO("seed " << seed);
    Random random{seed};
    worker::WorkerOptions limits;
    limits.batch_tokens_max = 16 + random() % 100;
    limits.kv_ahead_percent = random() % 2 == 0 ? 0 : 1 + random() % 100;
    TierBench bench(14 + random() % 20, 8 + random() % 60, random() % 4, limits);
    bench.mover.room = random() % 4 == 0 ? 1 : 1000;
    const bool has_classes = random() % 2 == 0;
    struct Asked {
        std::vector<TokenId> prompt;
        std::uint32_t new_tokens = 0;
        bool is_cancelled = false;
    };
    std::map<std::uint64_t, Asked> asked;
    std::vector<std::vector<TokenId>> ended;  // conversations to go on with
    for (std::uint64_t turn = 1; turn < 600; ++turn) {
        if (random() % 12 == 0) {
            Asked request;
            if (!ended.empty() && random() % 2 == 0) { request.prompt = ended[random() % ended.size()]; }
            const auto more = random_prompt(random, 1 + random() % 60);
            request.prompt.insert(request.prompt.end(), more.begin(), more.end());
            request.prompt.resize(std::min<std::size_t>(request.prompt.size(), 150));
            request.new_tokens = 1 + random() % 40;
            worker::StartRequest start = make_start(turn, request.prompt, request.new_tokens);
            if (has_classes) { start.priority = static_cast<std::int32_t>(random() % 3); }
            REQUIRE(bench.loop.post_command(std::move(start)));
            asked.emplace(turn, std::move(request));
        }
        if (random() % 40 == 0 && !asked.empty()) {
            auto at = std::next(asked.begin(), static_cast<std::ptrdiff_t>(random() % asked.size()));
            at->second.is_cancelled = true;
            REQUIRE(bench.loop.post_command(worker::CancelRequest{key_of(at->first), test_support::kGateway, "no"}));
        }
        if (random() % 200 == 0) {
            REQUIRE(bench.loop.post_command(worker::DropRequest{[](std::uint32_t) {}}));
        }
        if (!bench.mover.jobs.empty() && random() % 3 != 0) {
            const std::uint32_t blocks = random() % 5 == 0 ? random() % 3 : 0xffffffff;
            bench.done(random() % bench.mover.jobs.size(), blocks);
        }
        bench.driver.overlapped_turn();
        for (const auto& [request, what] : asked) {
            const auto& answer = bench.sink.answers[key_of(request)];
            if (answer.finals == 1 && random() % 30 == 0) {
                ended.push_back(what.prompt);
                ended.back().insert(ended.back().end(), answer.tokens.begin(), answer.tokens.end());
            }
        }
    }
    bench.mover.room = 1000;
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
    REQUIRE(bench.engine.violations() == 0);
    bench.check_nothing_held();
}
