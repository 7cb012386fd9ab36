// What the fetcher asks for and what a sequence gets from it, over a port that only notes what it is told.
#include "worker/kv_fetcher.h"

#include <algorithm>
#include <deque>
#include <string>
#include <vector>

#include "base/log.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"
#include "tests/worker/fetch_bench.h"

using base::Epoch;
using base::ErrorCode;
using base::RequestId;
using base::TokenId;
using fetch_test::FetchBench;
using fetch_test::kHere;
using fetch_test::kKey;
using fetch_test::kRunTokens;
using fetch_test::kThere;
using fetch_test::make_prompt;
using kv_transfer::HandoffKey;
using kv_transfer::kFetchBlocksMax;
using kv_transfer::ReceiverEvent;
using test_support::ledger_continuation;
using test_support::LedgerEngine;
using test_support::StepBench;
using worker::Finish;
using worker::RequestKey;

TEST_CASE("full blocks are fetched in runs, a few at once; the rest of the prompt is computed", "[worker]") {
    FetchBench bench;
    const auto prompt = make_prompt(5 * kRunTokens + 32);  // the last block is the last token's: not fetched
    bench.start(bench.start_message(1, prompt));
    REQUIRE(bench.is_loading());
    REQUIRE(bench.port.asked.size() == worker::KvFetcher::kRunsAtOnce);
    const auto chain = base::block_hash_chain({}, {.cache_scope = "", .numerics_id = 42, .adapter = ""}, prompt);
    for (std::uint32_t run = 1; run <= 6; ++run) {
        const auto& asked = bench.port.asked.at(run - 1);
        CHECK(asked.key == HandoffKey{RequestId{1}, Epoch{0}, kThere, kHere, run});
        const std::size_t first = (run - 1) * kFetchBlocksMax;
        REQUIRE(asked.hashes.size() == (run == 6 ? 1 : kFetchBlocksMax));
        CHECK(std::equal(asked.hashes.begin(), asked.hashes.end(), chain.begin() + static_cast<std::ptrdiff_t>(first)));
        REQUIRE(bench.is_loading());
        bench.come(run, static_cast<std::uint32_t>(asked.hashes.size()) * 16);
    }
    bench.check_answer(prompt);
    CHECK(bench.computed() == 16 + 2);
    CHECK(bench.sink.answers.at(kKey).cached_tokens == 5 * kRunTokens + 16);
    CHECK(bench.ended("complete") == 1);
    // What came is found by the next one, like what was computed here.
    CHECK(bench.cache.cached_tokens(chain, 10'000) == 5 * kRunTokens + 32);
}

TEST_CASE("only what no prefix hit covers is asked for, and no more than the source is believed to have", "[worker]") {
    FetchBench bench;
    const auto prompt = make_prompt(200);
    auto earlier = test_support::make_start(7, {prompt.begin(), prompt.begin() + 64}, 1);
    bench.start(std::move(earlier));
    auto message = bench.start_message(1, prompt);
    message.kv_source->kv_tokens = 170;
    message.kv_source->give_up = bench.clock.now() + std::chrono::milliseconds(70);
    bench.start(std::move(message));
    REQUIRE(bench.port.asked.size() == 1);
    CHECK(bench.port.asked[0].hashes.size() == 10 - 4);
    CHECK(bench.port.asked[0].deadline == bench.clock.now() + std::chrono::milliseconds(70));
    bench.come(1, 96);
    bench.check_answer(prompt);
    CHECK(bench.computed() == 64 + 40 + 2);
}

TEST_CASE("KV that does not come is computed, whatever the reason", "[worker]") {
    const auto [code, outcome] =
        GENERATE(std::pair{ErrorCode::not_found, "not_found"}, std::pair{ErrorCode::unavailable, "peer_lost"},
                 std::pair{ErrorCode::deadline_exceeded, "timeout"}, std::pair{ErrorCode::resource_exhausted, "busy"},
                 std::pair{ErrorCode::failed_precondition, "refused"});
    CAPTURE(outcome);
    FetchBench bench;
    const auto prompt = make_prompt(100);
    bench.start(bench.start_message(1, prompt));
    REQUIRE(bench.is_loading());
    bench.fail(1, code);
    bench.check_answer(prompt);
    CHECK(bench.computed() == 100 + 2);
    CHECK(bench.sink.answers.at(kKey).cached_tokens == 0);
    CHECK(bench.ended(outcome) == 1);
}

TEST_CASE("what came without a gap counts, the runs behind a gap are taken back", "[worker]") {
    FetchBench bench;
    const auto prompt = make_prompt(6 * kRunTokens);
    bench.start(bench.start_message(1, prompt));
    bench.come(1, kRunTokens);
    bench.event(ReceiverEvent::Kind::completed, 3, kRunTokens);
    bench.event(ReceiverEvent::Kind::released, 3);
    REQUIRE(bench.port.asked.size() == 6);
    bench.come(2, 48);
    CHECK(bench.port.aborted == std::vector<std::uint32_t>{4, 5, 6});
    REQUIRE(bench.is_loading());  // the others may still write
    for (const std::uint32_t run : {4u, 6u, 5u}) {
        REQUIRE(bench.is_loading());
        bench.fail(run, ErrorCode::cancelled);
    }
    bench.check_answer(prompt);
    CHECK(bench.port.asked.size() == 6);
    CHECK(bench.computed() == 6 * kRunTokens - kRunTokens - 48 + 2);
    CHECK(bench.ended("partial") == 1);
}

TEST_CASE("a run that cannot begin waits for those under way; the first one that cannot is none", "[worker]") {
    FetchBench bench;
    const auto prompt = make_prompt(2 * kRunTokens + 8);
    SECTION("waits") {
        bench.port.room = 1;
        bench.start(bench.start_message(1, prompt));
        REQUIRE(bench.port.asked.size() == 1);
        bench.come(1, kRunTokens);
        REQUIRE(bench.port.asked.size() == 2);
        bench.come(2, kRunTokens);
        bench.check_answer(prompt);
        CHECK(bench.computed() == 8 + 2);
    }
    SECTION("none") {
        bench.port.room = 0;
        bench.start(bench.start_message(1, prompt));
        bench.check_answer(prompt);
        CHECK(bench.computed() == prompt.size() + 2);
        CHECK(bench.ended("busy") == 1);
    }
}

TEST_CASE("nothing is asked for where there is nothing to gain", "[worker]") {
    worker::WorkerOptions limits;
    std::uint32_t tokens = 100;
    bool from_here = false;
    bool scores = false;
    bool no_source = false;
    SECTION("the source is this worker") {
        from_here = true;
    }
    SECTION("every token of the prompt has to be computed") {
        scores = true;
    }
    SECTION("no block is full before the last token") {
        tokens = 16;
    }
    SECTION("fetches are off") {
        limits.fetches_max = 0;
    }
    SECTION("nobody is named") {
        no_source = true;
    }
    FetchBench bench(limits);
    const auto prompt = make_prompt(tokens);
    auto message = bench.start_message(1, prompt);
    if (from_here) { message.kv_source->worker.incarnation = kHere; }
    if (no_source) { message.kv_source.reset(); }
    message.sampling.prompt_logprobs = scores;
    bench.start(std::move(message));
    CHECK(bench.port.asked.empty());
    bench.check_answer(prompt);
}

TEST_CASE("who is cancelled while it fetches leaves its blocks to what may still write them", "[worker]") {
    FetchBench bench;
    bench.start(bench.start_message(1, make_prompt(100)));
    REQUIRE(bench.is_loading());
    REQUIRE(bench.loop.post_command(worker::CancelRequest{kKey, test_support::kGateway, "client_gone"}));
    bench.settle();
    CHECK(bench.sink.answers.at(kKey).finish == Finish::cancelled);
    CHECK(bench.port.aborted == std::vector<std::uint32_t>{1});
    CHECK(bench.cache.counts().stranded == 6);
    CHECK(bench.loop.parts_busy());
    bench.fail(1, ErrorCode::cancelled);
    CHECK_FALSE(bench.loop.parts_busy());
    CHECK(bench.cache.counts().stranded == 0);
    CHECK(bench.ended("cancelled") == 1);
}

TEST_CASE("an attempt that is started again asks under other keys, while the blocks of the first are still out",
          "[worker]") {
    FetchBench bench;
    bench.start(bench.start_message(1, make_prompt(100)));
    REQUIRE(bench.loop.post_command(worker::CancelRequest{kKey, test_support::kGateway, "client_gone"}));
    bench.start(bench.start_message(1, make_prompt(100)));
    REQUIRE(bench.port.asked.size() == 2);
    CHECK(bench.port.asked[0].key != bench.port.asked[1].key);
    bench.fail(1, ErrorCode::cancelled);
    REQUIRE(bench.is_loading());
    bench.fail(2, ErrorCode::not_found);
    CHECK(bench.sink.answers.at(kKey).tokens == ledger_continuation(make_prompt(100), 3, 1000));
    CHECK_FALSE(bench.fetcher.busy());
}

TEST_CASE("others run while one fetches", "[worker]") {
    FetchBench bench;
    bench.start(bench.start_message(1, make_prompt(100)));
    const auto other = make_prompt(50);
    bench.start(test_support::make_start(2, other, 3));
    CHECK(bench.sink.answers.at({RequestId{2}, Epoch{0}}).tokens == ledger_continuation(other, 3, 1000));
    REQUIRE(bench.is_loading());
    bench.loop.end_all();
    bench.fail(1, ErrorCode::cancelled);
    CHECK_FALSE(bench.loop.parts_busy());
}
