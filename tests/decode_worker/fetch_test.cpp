// Workers that fetch KV from one another instead of computing it: step loops on threads of their own, over in-process
// transports with and without faults. The engine keeps books (tests/support/ledger_engine.h), so wrong KV shows as
// wrong tokens.
#include <chrono>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "net/fault.h"
#include "net/in_process.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/seeds.h"
#include "tests/support/test_worker.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::kGateway;
using test_support::KvPlane;
using test_support::ledger_continuation;
using test_support::LedgerEngine;
using test_support::Random;
using test_support::random_prompt;
using test_support::TestWorker;
using worker::Finish;
using worker::Part;
using worker::RequestKey;

namespace {

/// Faults are the point of these tests: their log lines would hide a failure.
const bool kIsQuiet = [] {
    base::init_log({.role = "test", .level = "off"});
    return true;
}();

RequestKey key_of(std::uint64_t request) {
    return {RequestId{request}, Epoch{0}};
}

std::vector<TokenId> joined(std::vector<TokenId> tokens, const std::vector<TokenId>& more) {
    tokens.insert(tokens.end(), more.begin(), more.end());
    return tokens;
}

worker::StartRequest start_of(std::uint64_t request, std::vector<TokenId> prompt, const TestWorker* source) {
    auto start = test_support::make_start(request, std::move(prompt), 20);
    if (source != nullptr) { start.kv_source = worker::KvSource{source->as_peer(), 0xffffffff, std::nullopt}; }
    return start;
}

/// No fetch fails because the machine is busy.
worker::WorkerOptions patient() {
    worker::WorkerOptions limits;
    limits.kv_lease = limits.fetch_answer = limits.fetch_timeout = limits.kv_wait = test_support::kPatience * 10;
    return limits;
}

/// Two workers on threads of their own.
struct Two {
    explicit Two(worker::WorkerOptions limits = {}, const LedgerEngine::Options& engine = {}, const KvPlane& plane = {})
        : first(*network, "first", 11, limits, engine, plane), second(*network, "second", 22, limits, engine, plane) {
        first.run();
        second.run();
    }
    ~Two() {
        first.stop();
        second.stop();
    }
    void check_idle() {
        REQUIRE(first.wait_idle());
        REQUIRE(second.wait_idle());
        REQUIRE(first.engine.violations() + second.engine.violations() == 0);
    }

    std::shared_ptr<net::InProcessNetwork> network = net::InProcessNetwork::make();
    TestWorker first;
    TestWorker second;
};

std::vector<TokenId> run(TestWorker& worker, std::uint64_t request, const std::vector<TokenId>& prompt,
                         const TestWorker* source = nullptr) {
    REQUIRE(worker.loop.post_command(start_of(request, prompt, source)));
    REQUIRE(worker.mailbox.wait_for_final(key_of(request)));
    return worker.mailbox.answer(key_of(request)).tokens;
}

}  // namespace

TEST_CASE("the next turn of a conversation runs on another worker, which fetches the KV of prompt and answer",
          "[worker]") {
    Random random{1};
    Two workers(patient(), {.blocks_total = 200});
    const auto prompt = random_prompt(random, 1000);
    const auto answer = run(workers.first, 1, prompt);
    REQUIRE(answer == ledger_continuation(prompt, 20, 1000));
    const auto next = joined(joined(prompt, answer), random_prompt(random, 30));
    REQUIRE(run(workers.second, 2, next, &workers.first) == ledger_continuation(next, 20, 1000));
    // 1019 tokens have KV there: 63 full blocks, more than one run. At most a quarter of 200 is lent at a time.
    const auto fetched = workers.second.mailbox.answer(key_of(2)).cached_tokens;
    CHECK(fetched >= 800);
    CHECK(workers.second.engine.tokens_computed() == next.size() - fetched + 19);
    // What was fetched is found like what was computed.
    const auto before = workers.second.engine.tokens_computed();
    REQUIRE(run(workers.second, 3, next) == ledger_continuation(next, 20, 1000));
    CHECK(workers.second.engine.tokens_computed() < before + 40);
    workers.check_idle();
}

TEST_CASE("a prefill worker fetches from the decode worker of the turn before, and pushes what that one lacks",
          "[worker]") {
    Random random{2};
    Two workers(patient());
    TestWorker& decode = workers.first;
    TestWorker& prefill = workers.second;
    const auto prompt = random_prompt(random, 100);
    const auto next = joined(joined(prompt, run(decode, 1, prompt)), random_prompt(random, 50));
    auto start = start_of(2, next, &decode);
    auto on_decode = start_of(2, next, nullptr);
    start.part = Part::prefill;
    start.peer = decode.as_peer();
    on_decode.part = Part::decode;
    on_decode.peer = prefill.as_peer();
    REQUIRE(decode.loop.post_command(on_decode));
    REQUIRE(prefill.loop.post_command(start));
    REQUIRE(prefill.mailbox.wait_for_final(key_of(2)));
    auto tokens = prefill.mailbox.answer(key_of(2)).tokens;
    REQUIRE(tokens.size() == 1);
    REQUIRE(decode.loop.post_command(worker::ContinueRequest{key_of(2), kGateway, tokens}));
    REQUIRE(decode.mailbox.wait_for_final(key_of(2)));
    REQUIRE(joined(tokens, decode.mailbox.answer(key_of(2)).tokens) == ledger_continuation(next, 20, 1000));
    CHECK(decode.mailbox.answer(key_of(2)).kv_path == "pushed");
    CHECK(prefill.mailbox.answer(key_of(2)).cached_tokens == 112);  // of the 119 that had KV
    CHECK(prefill.engine.tokens_computed() == next.size() - 112);
    workers.check_idle();
}

TEST_CASE("KV that a third worker has goes by way of the prefill worker to decode", "[worker]") {
    Random random{3};
    Two workers(patient());
    TestWorker third(*workers.network, "third", 33, patient(), {}, {});
    third.run();
    const auto prompt = random_prompt(random, 200);
    run(third, 1, prompt);
    auto start = start_of(2, prompt, &third);
    auto on_decode = start_of(2, prompt, nullptr);
    start.part = Part::prefill;
    start.peer = workers.second.as_peer();
    on_decode.part = Part::decode;
    on_decode.peer = workers.first.as_peer();
    REQUIRE(workers.second.loop.post_command(on_decode));
    REQUIRE(workers.first.loop.post_command(start));
    REQUIRE(workers.first.mailbox.wait_for_final(key_of(2)));
    const auto tokens = workers.first.mailbox.answer(key_of(2)).tokens;
    REQUIRE(workers.second.loop.post_command(worker::ContinueRequest{key_of(2), kGateway, tokens}));
    REQUIRE(workers.second.mailbox.wait_for_final(key_of(2)));
    CHECK(joined(tokens, workers.second.mailbox.answer(key_of(2)).tokens) == ledger_continuation(prompt, 20, 1000));
    CHECK(workers.first.engine.tokens_computed() == 200 - 192);
    CHECK(workers.second.engine.tokens_computed() == 19);
    third.stop();
    workers.check_idle();
}

TEST_CASE("a source that is not there, or has another life, costs a computation, not the request", "[worker]") {
    Random random{4};
    worker::WorkerOptions limits;
    limits.fetch_answer = std::chrono::milliseconds(50);
    Two workers(limits);
    const auto prompt = random_prompt(random, 100);
    run(workers.first, 1, prompt);
    auto start = start_of(2, prompt, &workers.first);
    SECTION("nobody there") {
        start.kv_source->worker.kv_address = "nobody";
    }
    SECTION("another life") {
        start.kv_source->worker.incarnation = base::Incarnation{99};
    }
    SECTION("stopped") {
        workers.first.stop();
    }
    REQUIRE(workers.second.loop.post_command(start));
    REQUIRE(workers.second.mailbox.wait_for_final(key_of(2)));
    CHECK(workers.second.mailbox.answer(key_of(2)).tokens == ledger_continuation(prompt, 20, 1000));
    CHECK(workers.second.mailbox.answer(key_of(2)).cached_tokens == 0);
    REQUIRE(workers.second.wait_idle());
}

TEST_CASE("fetches in both directions over faulty links and small pools: right tokens, no hang, no leak",
          "[worker][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(14)));
    CAPTURE(seed);
    Random random{seed};
    KvPlane plane;
    plane.faults.seed = seed;
    const net::FaultKind kinds[] = {net::FaultKind::drop,    net::FaultKind::delay,     net::FaultKind::corrupt,
                                    net::FaultKind::reorder, net::FaultKind::duplicate, net::FaultKind::cut};
    if (seed % 7 < 6) {
        plane.faults.rules = {{.fault = kinds[seed % 7],
                               .message_kind = std::nullopt,
                               .nth = 1 + random() % 40,
                               .probability = seed < 7 ? 0.05 : 0.2,
                               .delay = std::chrono::milliseconds(5)}};
    }
    plane.fetches_max = 1 + random() % 4;
    worker::WorkerOptions limits;
    limits.batch_tokens_max = 16 + random() % 64;
    limits.kv_lease = std::chrono::milliseconds(200);
    limits.fetch_answer = std::chrono::milliseconds(100);
    limits.fetch_timeout = std::chrono::milliseconds(400);
    LedgerEngine::Options engine;
    engine.layers = 3;
    engine.blocks_total = 48;
    Two workers(limits, engine, plane);
    // A few conversations, each turn on the other worker than the one before.
    std::map<std::uint64_t, std::vector<TokenId>> prompts;
    std::vector<std::vector<TokenId>> conversations;
    for (int i = 0; i < 4; ++i) {
        conversations.push_back(random_prompt(random, 20 + random() % 200));
    }
    std::uint64_t request = 0;
    for (std::uint64_t turn = 0; turn < 5; ++turn) {
        const std::uint64_t first_request = request + 1;
        for (std::size_t i = 0; i < conversations.size(); ++i) {
            TestWorker& here = (turn + i) % 2 == 0 ? workers.first : workers.second;
            const TestWorker& there = (turn + i) % 2 == 0 ? workers.second : workers.first;
            prompts[++request] = conversations[i];
            REQUIRE(here.loop.post_command(start_of(request, conversations[i], &there)));
            if (random() % 8 == 0) {
                REQUIRE(here.loop.post_command(worker::CancelRequest{key_of(request), kGateway, "client_gone"}));
            }
        }
        for (std::size_t i = 0; i < conversations.size(); ++i) {
            const std::uint64_t id = first_request + i;
            CAPTURE(id);
            TestWorker& here = (turn + i) % 2 == 0 ? workers.first : workers.second;
            REQUIRE(here.mailbox.wait_for_final(key_of(id)));
            const auto answer = here.mailbox.answer(key_of(id));
            REQUIRE(answer.finals == 1);
            auto expected = ledger_continuation(prompts[id], 20, 1000);
            if (answer.finish == Finish::cancelled) { expected.resize(answer.tokens.size()); }
            REQUIRE(answer.tokens == expected);
            conversations[i] = joined(conversations[i], expected);
        }
    }
    workers.check_idle();
}
