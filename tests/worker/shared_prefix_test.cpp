// Prompts that begin alike and are there together: one computes what the others find.
#include "worker/shared_prefix.h"

#include <vector>

#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/step_bench.h"

using base::BlockHash;
using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::ledger_continuation;
using test_support::make_start;
using test_support::StepBench;
using worker::awaited_prefix;
using worker::may_wait_for_prefix;
using worker::RequestKey;
using worker::SharingPrompt;

namespace {

/// Of `shared` common blocks and then `own` others.
std::vector<BlockHash> chain_of(std::size_t shared, std::size_t own, std::uint64_t name) {
    std::vector<BlockHash> chain;
    for (std::size_t i = 0; i < shared; ++i) {
        chain.push_back({1, i});
    }
    for (std::size_t i = 0; i < own; ++i) {
        chain.push_back({name, i});
    }
    return chain;
}

std::vector<TokenId> prompt_of(std::size_t shared, std::size_t own, TokenId name) {
    std::vector<TokenId> prompt(shared, 7);
    prompt.insert(prompt.end(), own, name);
    return prompt;
}

RequestKey key_of(std::uint64_t id) {
    return {RequestId{id}, Epoch{0}};
}

}  // namespace

TEST_CASE("the common beginning of two chains is found", "[worker]") {
    for (const std::size_t shared : {0u, 1u, 2u, 3u, 7u, 8u, 100u}) {
        for (const std::size_t own : {0u, 1u, 5u}) {
            CAPTURE(shared, own);
            REQUIRE(worker::shared_blocks(chain_of(shared, own, 2), chain_of(shared, 3, 3)) == shared);
            REQUIRE(worker::shared_blocks(chain_of(shared, 3, 2), chain_of(shared, own, 3)) == shared);
        }
    }
}

TEST_CASE("a newcomer waits for a prefix that is worth it, behind one that goes before it", "[worker]") {
    const auto mine = chain_of(40, 10, 2);
    const auto its = chain_of(40, 20, 3);
    SharingPrompt newcomer{mine, 805, 0, worker::kNever};
    SharingPrompt running{its, 965, 0, worker::kNever};
    const auto waits = [&] { return awaited_prefix(newcomer, running, 16, 2000) > 0; };
    REQUIRE(awaited_prefix(newcomer, running, 16, 2000) == 640);
    SECTION("not when it has been computed, or is there") {
        running.computed_tokens = 640;
        REQUIRE_FALSE(waits());
        running.computed_tokens = 0;
        newcomer.computed_tokens = 640;
        REQUIRE_FALSE(waits());
    }
    SECTION("not for little") {
        newcomer.tokens = 16 * 50 + 900;
        REQUIRE_FALSE(waits());
        REQUIRE(awaited_prefix(newcomer, running, 16, 640) == 640);  // but a whole step of it is worth it
    }
    SECTION("for all blocks but that of its last token") {
        newcomer.chain = std::span(its).first(1);
        newcomer.tokens = 16;
        REQUIRE_FALSE(waits());
        newcomer.tokens = 17;
        REQUIRE(waits());
    }
    SECTION("not behind one that is due later, or late") {
        newcomer.due_seconds = 1;
        REQUIRE_FALSE(waits());
        running.due_seconds = 2;
        REQUIRE_FALSE(waits());
        running.due_seconds = 1;
        REQUIRE(waits());
        running.due_seconds = -1;
        REQUIRE_FALSE(waits());
        newcomer.due_seconds = -0.5;
        REQUIRE(waits());
    }
}

TEST_CASE("it waits for at most half of its time", "[worker]") {
    using std::chrono::milliseconds;
    REQUIRE(may_wait_for_prefix(milliseconds(0), 0.5, milliseconds(5000)));
    REQUIRE(may_wait_for_prefix(milliseconds(400), 0.5, milliseconds(5000)));
    REQUIRE_FALSE(may_wait_for_prefix(milliseconds(500), 0.5, milliseconds(5000)));
    REQUIRE_FALSE(may_wait_for_prefix(milliseconds(0), -0.1, milliseconds(5000)));
    REQUIRE(may_wait_for_prefix(milliseconds(4999), worker::kNever, milliseconds(5000)));
    REQUIRE_FALSE(may_wait_for_prefix(milliseconds(5000), worker::kNever, milliseconds(5000)));
}

TEST_CASE("choices of one prompt that come together compute it once", "[worker]") {
    const bool overlapped = GENERATE(false, true);
    CAPTURE(overlapped);
    StepBench bench({.blocks_total = 400});
    const std::vector<TokenId> prompt = prompt_of(1000, 0, 0);
    constexpr std::uint64_t kChoices = 8;
    for (std::uint64_t id = 1; id <= kChoices; ++id) {
        REQUIRE(bench.loop.post_command(make_start(id, prompt, 4)));
    }
    for (int i = 0; overlapped ? bench.driver.overlapped_turn() : bench.driver.turn(); ++i) {
        REQUIRE(i < 500);
    }
    for (std::uint64_t id = 1; id <= kChoices; ++id) {
        CAPTURE(id);
        REQUIRE(bench.sink.answers.at(key_of(id)).tokens == ledger_continuation(prompt, 4, 1000));
    }
    // 1000 tokens once; of each other choice what is in no full block, and three of each answer.
    REQUIRE(bench.engine.tokens_computed() == 1000 + (kChoices - 1) * (1000 - 992) + kChoices * 3);
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("agents with one system prompt compute it once, and their own parts beside each other", "[worker]") {
    StepBench bench({.blocks_total = 400});
    for (std::uint64_t id = 1; id <= 4; ++id) {
        REQUIRE(bench.loop.post_command(make_start(id, prompt_of(640, 100, static_cast<TokenId>(10 + id)), 2)));
    }
    bench.settle();
    for (std::uint64_t id = 1; id <= 4; ++id) {
        REQUIRE(bench.sink.answers.at(key_of(id)).tokens ==
                ledger_continuation(prompt_of(640, 100, static_cast<TokenId>(10 + id)), 2, 1000));
    }
    REQUIRE(bench.engine.tokens_computed() == 640 + 4 * 100 + 4);
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("who waits for another one's prefix goes on without it when that one leaves", "[worker]") {
    StepBench bench({.blocks_total = 400});
    const std::vector<TokenId> prompt = prompt_of(1000, 0, 0);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 4)));
    REQUIRE(bench.loop.post_command(make_start(2, prompt, 4)));
    bench.driver.turn();
    REQUIRE(bench.loop.find(key_of(2))->state == worker::SequenceState::waiting);
    REQUIRE(bench.loop.post_command(worker::CancelRequest{key_of(1), test_support::kGateway, "client_gone"}));
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(2)).tokens == ledger_continuation(prompt, 4, 1000));
    REQUIRE(bench.engine.violations() == 0);
}
