// The prefill part over a sender that only notes what it is told: what is decided, without a network or a thread.
#include "prefill_worker/prefill_part.h"

#include <algorithm>
#include <mutex>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/step_bench.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using kv_transfer::SenderEvent;
using test_support::StepBench;
using worker::Finish;
using worker::RequestKey;

namespace {

constexpr base::Incarnation kPrefill{11};
constexpr base::Incarnation kDecode{22};

RequestKey key_of(std::uint64_t request) {
    return {RequestId{request}, Epoch{0}};
}

/// Notes the calls, in order; `ready` with its tokens, once for all layers.
class NotedCalls final : public prefill_worker::KvSenderPort {
public:
    base::Result<void> open(const kv_transfer::OpenHandoff& handoff) override {
        const std::string& codec = handoff.kv_mode.codec();
        note("open " + std::to_string(base::raw(handoff.key.request)) + (codec.empty() ? "" : " as " + codec) +
             (handoff.kv_mode.lossy() ? "/" + std::to_string(handoff.kv_mode.level()) : "") +
             (handoff.choose_mode ? ", chosen" : "") + (handoff.allow_lossy ? ", lossy" : "") +
             (handoff.due ? ", due" : ""));
        return {};
    }
    void ready(const kv_transfer::HandoffKey& key, std::uint32_t layer_begin, std::uint32_t, std::uint32_t token_begin,
               std::uint32_t token_end) override {
        if (layer_begin > 0) { return; }
        note("ready " + std::to_string(base::raw(key.request)) + " [" + std::to_string(token_begin) + ", " +
             std::to_string(token_end) + ")");
    }
    void abort(const kv_transfer::HandoffKey& key, base::Error) override {
        note("abort " + std::to_string(base::raw(key.request)));
    }
    std::vector<std::string> take() {
        const std::scoped_lock lock(mutex_);
        return std::exchange(calls_, {});
    }

private:
    void note(std::string call) {
        const std::scoped_lock lock(mutex_);
        calls_.push_back(std::move(call));
    }
    std::mutex mutex_;
    std::vector<std::string> calls_;  // guarded by mutex_: the engine's thread says what is ready
};

using Calls = std::vector<std::string>;

worker::WorkerOptions small_steps() {
    worker::WorkerOptions limits;
    limits.batch_tokens_max = 32;
    return limits;
}

struct PrefillBench : StepBench {
    explicit PrefillBench(const worker::WorkerOptions& limits = small_steps())
        : StepBench({}, limits), part(limits, 4, kPrefill, loop, calls) {
        base::init_log({.role = "test", .level = "off"});
        loop.attach(worker::Part::prefill, &part);
    }
    void start(std::uint64_t request, std::uint32_t prompt_tokens, const std::string& codec = "",
               bool allow_lossy = false, bool has_target = false) {
        auto message = test_support::make_start(request, std::vector<TokenId>(prompt_tokens, TokenId(request)), 4);
        message.part = worker::Part::prefill;
        message.kv_mode.set_codec(codec);
        message.allow_lossy_kv = allow_lossy;
        if (has_target) { message.slo.first_token = clock.now(); }
        message.peer = {base::WorkerId{2}, kDecode, "decode"};
        REQUIRE(loop.post_command(std::move(message)));
        loop.work();
    }
    void event(SenderEvent::Kind kind, std::uint64_t request) {
        SenderEvent news;
        news.kind = kind;
        news.key = {RequestId{request}, Epoch{0}, kPrefill, kDecode};
        part.on_event(std::move(news));
        loop.work();
    }

    NotedCalls calls;
    prefill_worker::PrefillPart part;
};

}  // namespace

TEST_CASE("a prompt asks for room before it computes, says what is ready chunk by chunk, and ends when its KV is taken",
          "[prefill_worker]") {
    PrefillBench bench;
    bench.start(1, 50);
    REQUIRE(bench.calls.take() == Calls{"open 1"});
    bench.driver.turn();
    REQUIRE(bench.calls.take() == Calls{"ready 1 [0, 32)"});
    bench.driver.turn();
    REQUIRE(bench.calls.take() == Calls{"ready 1 [32, 50)"});
    REQUIRE(bench.sink.answers.at(key_of(1)).tokens.size() == 1);
    REQUIRE(bench.sink.answers.at(key_of(1)).finals == 0);
    bench.event(SenderEvent::Kind::completed, 1);
    bench.event(SenderEvent::Kind::released, 1);
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(1)).finish == Finish::handed_over);
    REQUIRE_FALSE(bench.part.busy());
}

TEST_CASE("a hand-off that ends while a step runs is told the step's layers under its own key, and nothing else breaks",
          "[prefill_worker]") {
    PrefillBench bench;
    bench.start(1, 50);
    const auto ticket = bench.loop.begin_step();
    REQUIRE(ticket);
    REQUIRE(bench.loop.post_command(worker::CancelRequest{key_of(1), test_support::kGateway, "client_gone"}));
    bench.loop.work();
    bench.event(SenderEvent::Kind::failed, 1);
    bench.event(SenderEvent::Kind::released, 1);
    REQUIRE_FALSE(bench.part.busy());
    REQUIRE(bench.cache.counts().used + bench.cache.counts().pinned > 0);  // the step still writes them
    bench.driver.collect(*ticket);
    bench.settle();
    Calls calls = bench.calls.take();
    REQUIRE(std::count(calls.begin(), calls.end(), "abort 1") == 1);
    REQUIRE(std::count(calls.begin(), calls.end(), "ready 1 [0, 32)") == 1);
    REQUIRE(calls.size() == 3);
    REQUIRE(bench.cache.counts().used + bench.cache.counts().pinned + bench.cache.counts().stranded == 0);
}

TEST_CASE("KV travels as the placement says, and where it says nothing as the worker's own setting does",
          "[prefill_worker]") {
    worker::WorkerOptions limits = small_steps();
    limits.kv_codec = "exact";
    PrefillBench bench(limits);
    bench.start(1, 5);
    REQUIRE(bench.calls.take() == Calls{"open 1 as exact"});
    bench.start(2, 5, "raw");
    REQUIRE(bench.calls.take() == Calls{"open 2 as raw"});
    for (const std::uint64_t request : {1u, 2u}) {
        bench.event(SenderEvent::Kind::failed, request);
        bench.event(SenderEvent::Kind::released, request);
    }
    bench.settle();
    REQUIRE_FALSE(bench.part.busy());
}

TEST_CASE("loss needs the request's word and the worker's, and a target says when the KV is due", "[prefill_worker]") {
    const auto [codec, level, is_allowed, says] = GENERATE(table<const char*, std::uint32_t, bool, const char*>({
        {"sluice", 5, true, "open 1 as exact|open 2 as sluice/5, lossy"},
        {"sluice", 5, false, "open 1 as exact|open 2 as exact"},
        {"int8", 5, true, "open 1 as exact|open 2 as int8/0, lossy"},
        {"exact", 5, true, "open 1 as exact|open 2 as exact, lossy"},
        {"auto", 5, true, "open 1 as exact, chosen|open 2 as exact, chosen, lossy"},
        {"auto", 5, false, "open 1 as exact, chosen|open 2 as exact, chosen"},
        {"raw", 5, true, "open 1|open 2, lossy"},
    }));
    worker::WorkerOptions limits = small_steps();
    limits.kv_codec = codec;
    limits.kv_level = level;
    limits.kv_lossy_allowed = is_allowed;
    PrefillBench bench(limits);
    bench.start(1, 5);
    bench.start(2, 5, "", true);
    const Calls calls = bench.calls.take();
    REQUIRE(calls.size() == 2);
    CHECK(calls[0] + "|" + calls[1] == says);
    bench.start(3, 5, "raw", true, true);
    const Calls last = bench.calls.take();
    REQUIRE(last.size() == 1);
    CHECK(last[0] == std::string("open 3 as raw") + (is_allowed ? ", lossy" : "") + ", due");
    for (const std::uint64_t request : {1u, 2u, 3u}) {
        bench.event(SenderEvent::Kind::failed, request);
        bench.event(SenderEvent::Kind::released, request);
    }
    bench.settle();
    REQUIRE_FALSE(bench.part.busy());
}
