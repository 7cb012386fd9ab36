// KV that is computed from the front while another worker gives it from the end back.
#include <algorithm>
#include <chrono>
#include <vector>

#include "worker/kv_fetcher.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/step_bench.h"
#include "tests/support/taught_costs.h"
#include "tests/worker/fetch_bench.h"

using base::Epoch;
using base::ErrorCode;
using base::RequestId;
using base::TokenId;
using fetch_test::make_prompt;
using kv_transfer::ReceiverEvent;
using worker::RequestKey;

namespace {

constexpr std::uint32_t kBlocks = 48;
constexpr std::uint32_t kPromptTokens = kBlocks * 16 + 7;

/// Steps take a millisecond a token; the other worker's blocks took `ms_per_block` when they were fetched last.
struct BackBench : fetch_test::FetchBench {
    explicit BackBench(int ms_per_block, worker::WorkerOptions limits = {})
        : FetchBench(limits), block_time(std::chrono::milliseconds(ms_per_block)) {
        test_support::teach_millisecond_a_token(*this);
        key = {RequestId{50}, Epoch{0}};
        const auto known = make_prompt(10 * 16 + 3);
        start(start_message(50, known));
        REQUIRE(is_loading());  // nothing is known of that worker: this teaches it
        come_in_time(1);
        check_answer(known);
        key = fetch_test::kKey;
        first_run = 2;
        before = computed();
    }
    /// The first `blocks` of a run come, after as long as they take.
    void come_in_time(std::uint32_t run, std::uint32_t blocks = 0xffffffff) {
        blocks = std::min(blocks, blocks_of(run));
        clock.advance(block_time * blocks);
        come(run, blocks * 16);
    }
    std::uint32_t blocks_of(std::uint32_t run) const {
        return static_cast<std::uint32_t>(port.asked.at(run - 1).hashes.size());
    }
    const worker::KvFromEnd* range() {
        const auto* sequence = loop.find(key);
        return sequence == nullptr || !sequence->from_end ? nullptr : &*sequence->from_end;
    }
    void begin() { start(start_message(1, prompt)); }
    void come_all() {
        for (std::uint32_t run = first_run; run <= port.asked.size(); ++run) {
            come_in_time(run);
        }
    }
    void check() {
        check_answer(prompt);
        REQUIRE(computed() - before + sink.answers.at(key).cached_tokens == kPromptTokens + 2);
    }

    const base::Duration block_time;
    const std::vector<TokenId> prompt = make_prompt(kPromptTokens);
    std::uint32_t first_run = 1;
    std::uint64_t before = 0;
};

}  // namespace

TEST_CASE("blocks that come as fast as they are computed are fetched from the end back meanwhile", "[worker]") {
    BackBench bench(16);
    bench.begin();
    REQUIRE(bench.range() != nullptr);
    REQUIRE_FALSE(bench.is_loading());
    REQUIRE(bench.port.asked.size() == 1 + worker::KvFetcher::kRunsAtOnceBack);
    const auto& chain = bench.loop.find(bench.key)->chain;
    CHECK(bench.port.asked[1].hashes.back() == chain[kBlocks - 1]);
    CHECK(bench.blocks_of(2) >= 9);  // half of its half
    CHECK(bench.blocks_of(2) <= 15);
    CHECK(bench.port.asked[2].hashes.back() == chain[kBlocks - bench.blocks_of(2) - 1]);
    bench.come_all();
    bench.check();
    // Steps cost no time here, so they get what is not asked for yet.
    CHECK(bench.sink.answers.at(bench.key).cached_tokens >= bench.blocks_of(2) * 16);
    CHECK(bench.sink.answers.at(bench.key).cached_tokens <= (kBlocks / 2 + 4) * 16);
    CHECK(bench.ended("complete") == 2);
}

TEST_CASE("with both ends off all of it is fetched, or all of it computed", "[worker]") {
    worker::WorkerOptions limits;
    limits.kv_both_ends = false;
    const bool fetches = GENERATE(true, false);
    BackBench bench(fetches ? 15 : 18, limits);
    bench.begin();
    REQUIRE(bench.range() == nullptr);
    REQUIRE(bench.is_loading() == fetches);
    bench.come_all();
    bench.check();
    CHECK(bench.sink.answers.at(bench.key).cached_tokens == (fetches ? kBlocks * 16 : 0));
    CHECK(bench.ended("slower") == (fetches ? 0 : 1));
}

TEST_CASE("a wire that is much quicker, or much slower, than the steps does all, or nothing", "[worker]") {
    SECTION("quicker") {
        BackBench bench(1);
        bench.begin();
        REQUIRE(bench.is_loading());
        bench.come_all();
        bench.check();
        CHECK(bench.sink.answers.at(bench.key).cached_tokens == kBlocks * 16);
    }
    SECTION("slower: it is tried again now and then") {
        BackBench bench(1000);
        for (std::uint64_t request = 1; request < 16; ++request) {
            bench.key = {RequestId{request}, Epoch{0}};
            const auto prompt = make_prompt(400 + static_cast<std::uint32_t>(request));
            bench.start(bench.start_message(request, prompt));
            REQUIRE(bench.port.asked.size() == 1);
            bench.check_answer(prompt);
            REQUIRE(bench.ended("slower") == request);
        }
        bench.key = {RequestId{16}, Epoch{0}};
        const auto prompt = make_prompt(390);
        bench.start(bench.start_message(16, prompt));
        REQUIRE(bench.is_loading());
        bench.come_in_time(2);
        bench.check_answer(prompt);
    }
}

TEST_CASE("where the other worker has less than was believed, the end is computed behind what it has", "[worker]") {
    BackBench bench(16);
    bench.begin();
    REQUIRE(bench.port.asked.size() == 3);
    SECTION("a part of the last run") {
        bench.come_in_time(2, 5);
    }
    SECTION("nothing of it") {
        bench.fail(2, ErrorCode::not_found);
    }
    for (std::uint32_t run = 3; run <= bench.port.asked.size(); ++run) {
        bench.come_in_time(run);
    }
    bench.check();
    CHECK(bench.sink.answers.at(bench.key).cached_tokens >= 8 * 16);
}

TEST_CASE("behind a run that does not come what came counts, and nobody computes into what may still be written",
          "[worker]") {
    BackBench bench(16);
    bench.begin();
    REQUIRE(bench.port.asked.size() == 3);
    const std::uint32_t lowest = bench.range()->begin / 16;
    SECTION("the first one fails: all of it is computed") {
        bench.event(ReceiverEvent::Kind::failed, 2, 0, base::Error{ErrorCode::unavailable, "no"});
        bench.event(ReceiverEvent::Kind::released, 2);
        CHECK(bench.port.aborted == std::vector<std::uint32_t>{3});
        REQUIRE(bench.range() != nullptr);
        CHECK(bench.range()->until == lowest * 16);
        CHECK(bench.loop.find(bench.key)->computed_tokens == lowest * 16);
        bench.fail(3, ErrorCode::cancelled);
        bench.check();
        CHECK(bench.sink.answers.at(bench.key).cached_tokens == 0);
    }
    SECTION("the second one fails") {
        bench.come_in_time(2);
        const auto asked = static_cast<std::uint32_t>(bench.port.asked.size());
        bench.fail(3, ErrorCode::unavailable);
        for (std::uint32_t run = 4; run <= asked; ++run) {
            bench.fail(run, ErrorCode::cancelled);
        }
        bench.check();
        CHECK(bench.sink.answers.at(bench.key).cached_tokens == bench.blocks_of(2) * 16);
        CHECK(bench.port.asked.size() == asked);
    }
}

TEST_CASE("who is cancelled between both ends leaves its blocks to what may still write them", "[worker]") {
    BackBench bench(16);
    bench.begin();
    REQUIRE(bench.port.asked.size() == 3);
    REQUIRE(bench.loop.post_command(worker::CancelRequest{bench.key, test_support::kGateway, "client_gone"}));
    bench.settle();
    CHECK(bench.port.aborted == std::vector<std::uint32_t>{2, 3});
    CHECK(bench.cache.counts().stranded == bench.blocks_of(2) + bench.blocks_of(3));
    bench.fail(2, ErrorCode::cancelled);
    bench.fail(3, ErrorCode::cancelled);
    CHECK(bench.cache.counts().stranded == 0);
    CHECK_FALSE(bench.fetcher.busy());
}
