// The two halves of a step, with commands, deadlines and ends between them.
#include <map>
#include <vector>

#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::kGateway;
using test_support::ledger_continuation;
using test_support::LedgerEngine;
using test_support::make_start;
using test_support::Random;
using test_support::random_prompt;
using test_support::StepBench;
using worker::Finish;
using worker::RequestKey;

namespace {

RequestKey key_of(std::uint64_t request) {
    return {RequestId{request}, Epoch{0}};
}

worker::CancelRequest cancel(std::uint64_t request) {
    return {key_of(request), kGateway, "client_gone"};
}

std::uint32_t blocks_in_use(const StepBench& bench) {
    const auto counts = bench.cache.counts();
    return counts.used + counts.pinned + counts.stranded;
}

/// What the metric of the engine's idle time has counted for decode steps.
std::uint64_t idle_times(StepBench& bench) {
    const auto& histogram =
        bench.metrics.histogram("sluice_worker_engine_idle_seconds", "", base::decision_edges(), {{"phase", "decode"}});
    return histogram.Collect().histogram.sample_count;
}

/// Launches a step and collects it, with `between` done while it runs.
template <class Between>
void step_with(StepBench& bench, Between between) {
    const auto ticket = bench.loop.begin_step();
    REQUIRE(ticket);
    between();
    bench.driver.collect(*ticket);
}

}  // namespace

TEST_CASE("tokens do not depend on what is asked, cancelled and preempted while steps run", "[worker][property]") {
    const auto seed = GENERATE(range(0u, 80u));
    CAPTURE(seed);
    Random random{seed};
    worker::WorkerOptions limits;
    limits.batch_sequences_max = 1 + random() % 8;
    limits.batch_tokens_max = 1 + random() % 80;
    limits.chunk_tokens_max = 1 + random() % 40;
    LedgerEngine::Options engine_options;
    engine_options.layers = 2;
    engine_options.blocks_total = 12 + random() % 20;  // small: preemptions happen
    StepBench bench(engine_options, limits);

    const std::vector<TokenId> shared = random_prompt(random, 40);
    std::map<std::uint64_t, std::vector<TokenId>> expected;
    std::map<std::uint64_t, bool> cancelled;
    std::uint64_t request = 0;
    const auto ask = [&] {
        if (request < 14 && random() % 3 == 0) {
            ++request;
            std::vector<TokenId> prompt = random_prompt(random, 1 + random() % 70);
            if (random() % 2 == 0) {
                prompt.insert(prompt.begin(), shared.begin(), shared.begin() + 1 + random() % 40);
            }
            const std::uint32_t length = 1 + random() % 60;
            expected[request] = ledger_continuation(prompt, length, 1000);
            worker::StartRequest start = make_start(request, std::move(prompt), length);
            if (random() % 3 == 0) { start.stop.stop_tokens = {expected[request][length / 2]}; }
            REQUIRE(bench.loop.post_command(std::move(start)));
        } else if (request > 0 && random() % 16 == 0) {
            const std::uint64_t victim = 1 + random() % request;
            cancelled[victim] = true;
            REQUIRE(bench.loop.post_command(cancel(victim)));
        }
    };
    for (int turns = 0; turns < 20000 && (request < 14 || bench.driver.overlapped_turn(ask)); ++turns) {
        if (request < 14) {
            ask();
            bench.driver.overlapped_turn(ask);
        }
    }
    for (const auto& [id, tokens] : expected) {
        CAPTURE(id);
        const auto& answer = bench.sink.answers.at(key_of(id));
        REQUIRE(answer.finals == 1);
        const bool may_be_short =
            answer.finish == Finish::stop || (answer.finish == Finish::cancelled && cancelled[id]);
        REQUIRE((may_be_short || answer.finish == Finish::length));
        REQUIRE(answer.tokens.size() <= tokens.size());
        REQUIRE((may_be_short || answer.tokens.size() == tokens.size()));
        REQUIRE(std::equal(answer.tokens.begin(), answer.tokens.end(), tokens.begin()));
    }
    REQUIRE(bench.engine.violations() == 0);
    REQUIRE(blocks_in_use(bench) == 0);
}

TEST_CASE("who is cancelled while a step runs has its answer at once, and its blocks are held until the step has ended",
          "[worker]") {
    StepBench bench({.blocks_total = 4});
    REQUIRE(bench.loop.post_command(make_start(1, std::vector<TokenId>(60, 1), 100)));
    bench.loop.work();
    step_with(bench, [&] {
        REQUIRE(bench.loop.post_command(cancel(1)));
        REQUIRE(bench.loop.post_command(make_start(2, std::vector<TokenId>(60, 2), 1)));  // needs the same blocks
        bench.loop.work();
        bench.loop.settle();
        REQUIRE(bench.sink.answers.at(key_of(1)).finish == Finish::cancelled);
        REQUIRE(blocks_in_use(bench) == 4);
        REQUIRE_FALSE(bench.loop.idle());
    });
    REQUIRE(blocks_in_use(bench) == 0);
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(1)).finals == 1);
    REQUIRE(bench.sink.answers.at(key_of(1)).tokens.empty());
    REQUIRE(bench.sink.answers.at(key_of(2)).tokens == ledger_continuation(std::vector<TokenId>(60, 2), 1, 1000));
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("a deadline that passes while a step runs ends the request then", "[worker]") {
    StepBench bench;
    auto start = make_start(1, {1, 2, 3}, 100);
    start.deadline = bench.clock.now() + std::chrono::seconds(5);
    REQUIRE(bench.loop.post_command(std::move(start)));
    bench.loop.work();
    step_with(bench, [&] {
        bench.clock.advance(std::chrono::seconds(6));
        bench.loop.work();
        bench.loop.settle();
        REQUIRE(bench.sink.answers.at(key_of(1)).error->code == base::ErrorCode::deadline_exceeded);
    });
    REQUIRE_FALSE(bench.loop.begin_step());
    REQUIRE(blocks_in_use(bench) == 0);
}

TEST_CASE("who comes while a step runs is in the next one", "[worker]") {
    StepBench bench;
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 100)));
    bench.loop.work();
    step_with(bench, [&] {
        REQUIRE(bench.loop.post_command(make_start(2, {4, 5, 6, 7}, 1)));
        bench.loop.work();
    });
    const auto before = bench.engine.tokens_computed();
    step_with(bench, [] {});
    REQUIRE(bench.engine.tokens_computed() == before + 1 + 4);
    bench.loop.settle();
    REQUIRE(bench.sink.answers.at(key_of(2)).finish == Finish::length);
    REQUIRE(bench.loop.post_command(cancel(1)));
    bench.settle();
}

TEST_CASE("memory that a step's last token frees is used by the step after it", "[worker]") {
    StepBench bench({.blocks_total = 4});
    REQUIRE(bench.loop.post_command(make_start(1, std::vector<TokenId>(40, 1), 1)));
    REQUIRE(bench.loop.post_command(make_start(2, std::vector<TokenId>(40, 2), 1)));  // waits for the blocks of 1
    bench.loop.work();
    step_with(bench, [&] { bench.loop.work(); });
    step_with(bench, [] {});  // no work() in between
    bench.loop.settle();
    REQUIRE(bench.sink.answers.at(key_of(2)).finish == Finish::length);
}

TEST_CASE("an attempt that has just ended cannot begin again while the step still writes its KV", "[worker]") {
    StepBench bench;
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 100)));
    bench.loop.work();
    step_with(bench, [&] {
        REQUIRE(bench.loop.post_command(cancel(1)));
        REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 1)));
        bench.loop.work();
        bench.loop.settle();
        REQUIRE(bench.sink.answers.at(key_of(1)).error->code == base::ErrorCode::aborted);
    });
    bench.settle();
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 1)));
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(1)).finish == Finish::length);
}

TEST_CASE("KV of a step whose request was cancelled meanwhile can be found by others", "[worker]") {
    StepBench bench;
    const std::vector<TokenId> prompt(64, 1);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 100)));
    bench.loop.work();
    step_with(bench, [&] {
        REQUIRE(bench.loop.post_command(cancel(1)));
        bench.loop.work();
    });
    REQUIRE(bench.loop.post_command(make_start(2, prompt, 1)));
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(2)).cached_tokens == 48);
}

TEST_CASE("the engine's idle time is counted between steps that follow one another, not while nothing is to do",
          "[worker]") {
    StepBench bench;
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 5)));
    while (bench.driver.overlapped_turn()) {}
    REQUIRE(idle_times(bench) == 4);  // the prompt's step has none before it
    REQUIRE(bench.loop.post_command(make_start(2, {1, 2, 3}, 3)));
    while (bench.driver.overlapped_turn()) {}
    REQUIRE(idle_times(bench) == 6);
}

TEST_CASE("what comes and goes beside a step that hangs is no progress", "[worker]") {
    StepBench bench;
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 2)));
    bench.loop.work();
    const auto ticket = bench.loop.begin_step();
    REQUIRE(ticket);
    bench.loop.settle();
    const base::TimePoint launched = bench.clock.now();
    REQUIRE(bench.board.last_progress() == launched);
    bench.clock.advance(std::chrono::minutes(1));
    REQUIRE(bench.loop.post_command(make_start(2, {4, 5, 6}, 2)));
    REQUIRE(bench.loop.work());
    bench.loop.settle();
    REQUIRE(bench.board.last_progress() == launched);
    bench.driver.collect(*ticket);
    bench.loop.settle();
    REQUIRE(bench.board.last_progress() == bench.clock.now());
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(2)).finish == Finish::length);
}

TEST_CASE("a step that is given up takes the device along, and keeps what the engine may still touch", "[worker]") {
    StepBench bench;
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 10)));
    REQUIRE(bench.loop.post_command(make_start(2, {4, 5, 6}, 10)));
    bench.loop.work();
    bench.engine.hang(true);
    const auto ticket = bench.loop.begin_step();
    REQUIRE(ticket);
    const std::uint32_t held = blocks_in_use(bench);
    REQUIRE(bench.loop.post_command(cancel(1)));
    bench.loop.work();
    bench.loop.finish_step(bench.loop.engine().collect(*ticket, {}));
    bench.loop.settle();
    REQUIRE(bench.sink.answers.at(key_of(1)).finish == Finish::cancelled);
    REQUIRE(bench.sink.answers.at(key_of(2)).error->code == base::ErrorCode::unavailable);
    REQUIRE(bench.lost.size() == 1);
    REQUIRE(blocks_in_use(bench) == held);
    REQUIRE_FALSE(bench.loop.begin_step());
    bench.engine.hang(false);
    REQUIRE(bench.loop.engine().collect(*ticket, std::chrono::steady_clock::now() + std::chrono::minutes(10)));
    REQUIRE(bench.engine.violations() == 0);
}
