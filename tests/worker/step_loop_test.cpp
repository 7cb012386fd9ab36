#include "worker/step_loop.h"

#include <map>
#include <string>
#include <vector>

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
using Bench = test_support::StepBench;
using worker::Finish;
using worker::GatewayId;
using worker::Part;
using worker::RequestKey;

TEST_CASE("a request gets its tokens and one final answer, and leaves no block in use", "[worker]") {
    Bench bench;
    const std::vector<TokenId> prompt = {1, 2, 3, 4, 5};
    REQUIRE(bench.loop.post_command(make_start(7, prompt, 10)));
    bench.settle();
    const auto& answer = bench.sink.answers.at({RequestId{7}, Epoch{0}});
    REQUIRE(answer.tokens == ledger_continuation(prompt, 10, 1000));
    REQUIRE(answer.finish == Finish::length);
    REQUIRE(answer.finals == 1);
    REQUIRE(bench.engine.violations() == 0);
    const auto counts = bench.cache.counts();
    REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
}

TEST_CASE("tokens do not depend on company, chunks, preemption or prefix hits", "[worker][property]") {
    const auto seed = GENERATE(range(0u, 60u));
    CAPTURE(seed);
    Random random{seed};
    worker::WorkerOptions limits;
    limits.batch_sequences_max = 1 + random() % 8;
    limits.batch_tokens_max = 1 + random() % 80;
    limits.chunk_tokens_max = 1 + random() % 40;
    LedgerEngine::Options engine_options;
    engine_options.layers = 2;
    engine_options.blocks_total = 12 + random() % 20;  // small: preemptions happen
    Bench bench(engine_options, limits);

    const std::vector<TokenId> shared = random_prompt(random, 40);
    std::map<std::uint64_t, std::vector<TokenId>> prompts;
    std::map<std::uint64_t, std::uint32_t> lengths;
    for (std::uint64_t request = 1; request <= 14; ++request) {
        std::vector<TokenId> prompt = random_prompt(random, 1 + random() % 70);
        if (random() % 2 == 0) { prompt.insert(prompt.begin(), shared.begin(), shared.begin() + 1 + random() % 40); }
        lengths[request] = 1 + random() % 60;
        prompts[request] = prompt;
        REQUIRE(bench.loop.post_command(make_start(request, prompt, lengths[request])));
        for (auto turns = random() % 20; turns > 0; --turns) {
            bench.driver.turn();
        }
    }
    bench.settle();
    for (const auto& [request, prompt] : prompts) {
        CAPTURE(request);
        const auto& answer = bench.sink.answers.at({RequestId{request}, Epoch{0}});
        REQUIRE(answer.finals == 1);
        REQUIRE(answer.finish == Finish::length);
        REQUIRE(answer.tokens == ledger_continuation(prompt, lengths[request], 1000));
    }
    REQUIRE(bench.engine.violations() == 0);
    const auto counts = bench.cache.counts();
    REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
}

TEST_CASE("a repeated prompt hits the cache, for at most all but its last token", "[worker]") {
    Bench bench;
    Random random{1};
    const std::vector<TokenId> prompt = random_prompt(random, 64);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 3)));
    bench.settle();
    const auto computed = bench.engine.tokens_computed();
    REQUIRE(bench.loop.post_command(make_start(2, prompt, 3)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{2}, Epoch{0}}).cached_tokens == 48);
    REQUIRE(bench.engine.tokens_computed() - computed == 16 + 2);
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).tokens ==
            bench.sink.answers.at({RequestId{2}, Epoch{0}}).tokens);
}

TEST_CASE("another cache scope never hits", "[worker]") {
    Bench bench;
    Random random{1};
    const std::vector<TokenId> prompt = random_prompt(random, 64);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 3)));
    bench.settle();
    auto other = make_start(2, prompt, 3);
    other.cache_scope = "tenant-b";
    REQUIRE(bench.loop.post_command(std::move(other)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{2}, Epoch{0}}).cached_tokens == 0);
}

TEST_CASE("a stop token ends a sequence, but not before min_tokens", "[worker]") {
    const std::vector<TokenId> prompt = {5, 6, 7};
    const auto expected = ledger_continuation(prompt, 8, 1000);
    Bench bench;
    auto early = make_start(1, prompt, 8);
    early.stop.stop_tokens = {expected[2]};
    REQUIRE(bench.loop.post_command(std::move(early)));
    bench.settle();
    const auto& stopped = bench.sink.answers.at({RequestId{1}, Epoch{0}});
    REQUIRE(stopped.finish == Finish::stop);
    REQUIRE(stopped.tokens == std::vector<TokenId>(expected.begin(), expected.begin() + 3));

    auto later = make_start(2, prompt, 8);
    later.stop.stop_tokens = {expected[2]};
    later.stop.new_tokens_min = 5;
    REQUIRE(bench.loop.post_command(std::move(later)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{2}, Epoch{0}}).tokens.size() > 3);
}

TEST_CASE("cancel, a lost gateway and a deadline free all blocks within two steps", "[worker]") {
    Bench bench;
    Random random{3};
    auto with_deadline = make_start(1, random_prompt(random, 100), 1000);
    with_deadline.deadline = bench.clock.now() + std::chrono::seconds(5);
    REQUIRE(bench.loop.post_command(std::move(with_deadline)));
    REQUIRE(bench.loop.post_command(make_start(2, random_prompt(random, 100), 1000)));
    auto other_gateway = make_start(3, random_prompt(random, 100), 1000);
    other_gateway.gateway = GatewayId{2};
    REQUIRE(bench.loop.post_command(std::move(other_gateway)));
    for (int i = 0; i < 10; ++i) {
        bench.driver.turn();
    }

    bench.clock.advance(std::chrono::seconds(6));
    REQUIRE(bench.loop.post_command(worker::CancelRequest{{RequestId{2}, Epoch{0}}, kGateway, "client_gone"}));
    REQUIRE(bench.loop.post_command(worker::GatewayGone{GatewayId{2}}));
    bench.driver.turn();
    const auto counts = bench.cache.counts();
    REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).error->code == base::ErrorCode::deadline_exceeded);
    REQUIRE(bench.sink.answers.at({RequestId{2}, Epoch{0}}).finish == Finish::cancelled);
    REQUIRE(!bench.driver.turn());
}

TEST_CASE("what cannot run is refused with a reason", "[worker]") {
    worker::WorkerOptions limits;
    limits.queue_requests_max = 1;
    Bench bench({.context_tokens = 64, .blocks_total = 8}, limits);
    const auto code_of = [&](worker::StartRequest start) {
        const RequestKey key = start.key;
        REQUIRE(bench.loop.post_command(std::move(start)));
        bench.driver.turn();
        const auto at = bench.sink.answers.find(key);
        return at == bench.sink.answers.end() || !at->second.error
                   ? std::string("none")
                   : std::string(base::error_code_name(at->second.error->code));
    };
    REQUIRE(code_of(make_start(1, {}, 5)) == "invalid_argument");
    REQUIRE(code_of(make_start(2, {1, 5000}, 5)) == "invalid_argument");
    REQUIRE(code_of(make_start(3, std::vector<TokenId>(64, 1), 5)) == "invalid_argument");
    REQUIRE(code_of(make_start(4, {1}, 0)) == "invalid_argument");
    auto split = make_start(5, {1}, 5);
    split.part = Part::decode;
    REQUIRE(code_of(std::move(split)) == "failed_precondition");
    REQUIRE(code_of(make_start(6, {1, 2, 3}, 40)) == "none");
    REQUIRE(code_of(make_start(6, {1, 2, 3}, 40)) == "aborted");
    REQUIRE(code_of(make_start(7, {1, 2, 3}, 40)) == "resource_exhausted");
    bench.loop.begin_drain();
    REQUIRE(code_of(make_start(8, {1, 2, 3}, 40)) == "unavailable");
}

TEST_CASE("a prompt gets its turn beside more decodes than a step holds", "[worker]") {
    worker::WorkerOptions limits;
    limits.batch_sequences_max = 3;
    Bench bench({}, limits);
    for (std::uint64_t request = 1; request <= 6; ++request) {
        REQUIRE(bench.loop.post_command(make_start(request, {static_cast<TokenId>(request)}, 60)));
    }
    for (int turns = 0; turns < 10; ++turns) {
        bench.driver.turn();
    }
    REQUIRE(bench.loop.post_command(make_start(7, {1, 2, 3, 4}, 2)));
    for (int turns = 0; turns < 20; ++turns) {
        bench.driver.turn();
    }
    REQUIRE(bench.sink.answers.at({RequestId{7}, Epoch{0}}).finish == Finish::length);
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).finish == Finish::none);
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{6}, Epoch{0}}).tokens == ledger_continuation({6}, 60, 1000));
}

TEST_CASE("generated tokens of an earlier attempt count, and the rest is the same", "[worker]") {
    const std::vector<TokenId> prompt = {9, 8, 7};
    const auto expected = ledger_continuation(prompt, 20, 1000);
    Bench bench;
    auto rest = make_start(1, prompt, 20);
    rest.generated.assign(expected.begin(), expected.begin() + 6);
    rest.key.epoch = Epoch{1};
    REQUIRE(bench.loop.post_command(std::move(rest)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{1}}).tokens ==
            std::vector<TokenId>(expected.begin() + 6, expected.end()));
}

TEST_CASE("a sequence that outgrows the pool ends with resource_exhausted", "[worker]") {
    Bench bench({.blocks_total = 4});
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 200)));
    bench.settle();
    const auto& answer = bench.sink.answers.at({RequestId{1}, Epoch{0}});
    REQUIRE(answer.error->code == base::ErrorCode::resource_exhausted);
    REQUIRE(answer.tokens == ledger_continuation({1, 2, 3}, 62, 1000));
}

TEST_CASE("a newcomer leaves those that run a block each to grow into, so that nobody is pushed out", "[worker]") {
    Bench bench({.blocks_total = 6});
    std::vector<TokenId> grows(31, 1);  // 2 blocks of 16, a third soon
    std::vector<TokenId> large(60, 2);  // the other 4
    REQUIRE(bench.loop.post_command(make_start(1, grows, 20)));
    REQUIRE(bench.loop.post_command(make_start(2, large, 4)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).tokens == ledger_continuation(grows, 20, 1000));
    REQUIRE(bench.sink.answers.at({RequestId{2}, Epoch{0}}).tokens == ledger_continuation(large, 4, 1000));
    const auto& preemptions =
        bench.metrics.counter("sluice_worker_preemptions_total",
                              "Sequences that lost their KV memory to others, which grew or have a higher priority",
                              {{"model", "ledger"}, {"cause", "growth"}});
    REQUIRE(preemptions.Value() == 0);
}

TEST_CASE("who is alone may fill the whole pool", "[worker]") {
    Bench bench({.blocks_total = 6});
    const std::vector<TokenId> prompt(95, 3);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 1)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).tokens == ledger_continuation(prompt, 1, 1000));
}

TEST_CASE("a lone sequence waits for blocks that a transfer still touches, instead of failing", "[worker]") {
    Bench bench({.blocks_total = 4});
    auto other = bench.cache.open({}, 16).value();
    auto hold = bench.cache.hold(other, 0, 1);
    other = {};
    REQUIRE(bench.cache.counts().stranded == 1);
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 55)));  // needs all four blocks in the end
    bench.settle();
    const RequestKey key{RequestId{1}, Epoch{0}};
    REQUIRE(bench.sink.answers[key].finals == 0);
    hold.release();
    bench.settle();
    REQUIRE(bench.sink.answers[key].finals == 1);
    REQUIRE(bench.sink.answers[key].tokens == ledger_continuation({1, 2, 3}, 55, 1000));
}

TEST_CASE("a worker whose device is lost sends all of its sequences elsewhere, takes no more and says so once",
          "[worker]") {
    worker::WorkerOptions limits;
    limits.batch_sequences_max = 1;
    Bench bench({}, limits);
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 10)));
    REQUIRE(bench.loop.post_command(make_start(2, {4, 5, 6}, 10)));  // not in the step that fails
    bench.driver.turn();
    REQUIRE(bench.lost.empty());
    bench.engine.is_broken = true;
    bench.settle();
    const auto steps = bench.engine.steps();
    REQUIRE(bench.loop.post_command(make_start(3, {1, 2, 3}, 10)));
    bench.settle();
    for (const std::uint64_t request : {1u, 2u, 3u}) {
        CAPTURE(request);
        const auto& answer = bench.sink.answers.at({RequestId{request}, Epoch{0}});
        REQUIRE(answer.finals == 1);
        REQUIRE(answer.finish == Finish::error);
        REQUIRE(answer.error->code == base::ErrorCode::unavailable);  // the gateway places it again
    }
    REQUIRE(bench.engine.steps() == steps);
    REQUIRE(bench.lost == std::vector<std::string>{"the device is broken"});
    REQUIRE(bench.board.draining());
    REQUIRE(bench.loop.idle());
    const auto counts = bench.cache.counts();
    REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
}

TEST_CASE("a step that finds no memory ends its sequences, and the worker goes on", "[worker]") {
    Bench bench;
    bench.engine.is_out_of_memory = true;
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 10)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).error->code == base::ErrorCode::resource_exhausted);
    bench.engine.is_out_of_memory = false;
    REQUIRE(bench.loop.post_command(make_start(2, {1, 2, 3}, 10)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{2}, Epoch{0}}).tokens == ledger_continuation({1, 2, 3}, 10, 1000));
    REQUIRE(bench.lost.empty());
    REQUIRE(!bench.board.draining());
}

TEST_CASE("changes of the prefix index are kept for nobody, and the scheduler that comes is told all of it",
          "[worker]") {
    Bench bench;
    const auto serve_one = [&bench](std::uint64_t request) {
        std::vector<TokenId> prompt(40, static_cast<TokenId>(request));
        REQUIRE(bench.loop.post_command(make_start(request, prompt, 2)));
        bench.settle();
    };
    const auto hashes_told = [&bench](int& snapshots) {
        sluice::proto::Heartbeat heartbeat;
        bench.board.take(heartbeat);
        std::size_t bytes = 0;
        for (const auto& events : heartbeat.blocks()) {
            snapshots += events.snapshot() ? 1 : 0;
            bytes += events.stored().size() + events.removed().size();
        }
        return bytes / 16;
    };
    int snapshots = 0;
    for (std::uint64_t request = 1; request <= 100; ++request) {
        serve_one(request);
        REQUIRE(bench.cache.events_pending() == 0);
    }
    REQUIRE(hashes_told(snapshots) == 0);
    REQUIRE(snapshots == 0);

    bench.board.attach();
    bench.settle();
    REQUIRE(hashes_told(snapshots) == bench.cache.counts().cached);
    REQUIRE(snapshots == 1);
    serve_one(101);
    REQUIRE(hashes_told(snapshots) > 0);
    REQUIRE(snapshots == 1);
}

TEST_CASE("a prompt that waits counts with the tokens that no prefix hit will cover", "[worker]") {
    Bench bench({.blocks_total = 12});
    const auto queued = [&bench] {
        sluice::proto::Heartbeat heartbeat;
        bench.board.take(heartbeat);
        return heartbeat.load().prefill_tokens_queued();
    };
    const std::vector<TokenId> prefix(64, 3);
    REQUIRE(bench.loop.post_command(make_start(1, prefix, 1)));
    bench.settle();
    REQUIRE(bench.cache.counts().cached == 4);
    REQUIRE(bench.loop.post_command(make_start(2, std::vector<TokenId>(97, 5), 8)));  // takes 7 of the other 8 blocks
    bench.driver.turn();
    std::vector<TokenId> longer = prefix;
    longer.insert(longer.end(), 40, 7);
    REQUIRE(bench.loop.post_command(make_start(3, longer, 1)));
    REQUIRE(bench.loop.post_command(make_start(4, longer, 1)));  // not the first that waits
    bench.driver.turn();
    REQUIRE(queued() == 2 * 40);
    bench.settle();
    REQUIRE(queued() == 0);
    REQUIRE(bench.sink.answers.at({RequestId{3}, Epoch{0}}).cached_tokens == 64);
}

TEST_CASE("a worker that has turned counts its requests under the role that it has, and no other", "[worker][turn]") {
    Bench bench;
    const auto row = [](const char* role, int running) {
        return "sluice_worker_requests_running{model=\"ledger\",role=\"" + std::string(role) +
               "\",worker=\"mixed-0\"} " + std::to_string(running) + "\n";
    };
    REQUIRE(bench.loop.post_command(make_start(1, {1, 2, 3}, 8)));
    bench.driver.turn();
    REQUIRE(bench.metrics.text().find(row("mixed", 1)) != std::string::npos);
    bench.board.set_role(worker::Role::decode);
    bench.driver.turn();
    std::string text = bench.metrics.text();
    CAPTURE(text);
    REQUIRE(text.find(row("decode", 1)) != std::string::npos);
    REQUIRE(text.find("sluice_worker_requests_waiting{model=\"ledger\",role=\"decode\"") != std::string::npos);
    REQUIRE(text.find("role=\"mixed\"") == std::string::npos);
    bench.board.set_role(worker::Role::mixed);
    bench.settle();
    text = bench.metrics.text();
    REQUIRE(text.find(row("mixed", 0)) != std::string::npos);
    REQUIRE(text.find("role=\"decode\"") == std::string::npos);
}
