// The thread around the step loop.
#include "worker/run_steps.h"

#include <atomic>
#include <condition_variable>
#include <map>
#include <mutex>
#include <thread>
#include <vector>

#include "base/log.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/step_bench.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::ledger_continuation;
using test_support::LedgerEngine;
using test_support::make_start;
using worker::Finish;
using worker::RequestKey;

namespace {

constexpr std::chrono::seconds kPatience{30};  // for a condition that must come; never asserted

RequestKey key_of(std::uint64_t request) {
    return {RequestId{request}, Epoch{0}};
}

/// Final outputs by request, with a wait for them.
class Finals final : public worker::OutputSink {
public:
    void deliver(worker::GatewayId, std::vector<worker::SequenceOutput> outputs) override {
        {
            const std::scoped_lock lock(mutex_);
            for (auto& output : outputs) {
                auto& tokens = tokens_[output.key];
                for (const auto& token : output.tokens) {
                    tokens.push_back(token.token);
                }
                if (output.finish != Finish::none) { finals_.emplace(output.key, std::move(output)); }
            }
        }
        changed_.notify_all();
    }
    /// Empty when none comes.
    std::optional<worker::SequenceOutput> wait_for(std::uint64_t request) {
        std::unique_lock lock(mutex_);
        const bool came = changed_.wait_for(lock, kPatience, [&] { return finals_.contains(key_of(request)); });
        return came ? std::optional(finals_.at(key_of(request))) : std::nullopt;
    }
    bool wait_for_token(std::uint64_t request) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, kPatience, [&] { return !tokens_[key_of(request)].empty(); });
    }
    std::vector<TokenId> tokens(std::uint64_t request) {
        const std::scoped_lock lock(mutex_);
        return tokens_[key_of(request)];
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::map<RequestKey, worker::SequenceOutput> finals_;  // guarded by mutex_
    std::map<RequestKey, std::vector<TokenId>> tokens_;    // guarded by mutex_
};

/// A part with transfers that end when the test says so.
class BusyPart final : public worker::RolePart {
public:
    bool busy() const override { return is_busy; }
    std::atomic<bool> is_busy{false};
};

struct Worker {
    explicit Worker(worker::WorkerOptions limits = {})
        : loop({.limits = limits,
                .hash_key = {},
                .model = "ledger",
                .worker = "mixed-0",
                .role = worker::Role::mixed,
                .device_lost = [this](const base::Error&) { is_lost = true; }},
               engine, cache, sink, board, clock, metrics) {
        base::init_log({.role = "test", .level = "off"});
        loop.attach(worker::Part::whole, &part);
        thread = std::jthread([this](std::stop_token stop) { worker::run_steps(loop, stop); });
    }
    base::SystemClock clock;
    base::Metrics metrics;
    LedgerEngine engine{{}};
    kv_cache::KvCache cache{{.blocks_total = 64, .block_tokens = 16}};
    Finals sink;
    worker::ReportBoard board;
    BusyPart part;
    std::atomic<bool> is_lost{false};
    worker::StepLoop loop;
    std::jthread thread;
};

}  // namespace

TEST_CASE("requests that come at any time get their tokens", "[worker]") {
    Worker worker;
    for (std::uint64_t request = 1; request <= 20; ++request) {
        const std::vector<TokenId> prompt(1 + request * 3, static_cast<TokenId>(request));
        REQUIRE(worker.loop.post_command(make_start(request, prompt, 20)));
        if (request % 5 == 0) { REQUIRE(worker.sink.wait_for_token(request)); }
    }
    for (std::uint64_t request = 1; request <= 20; ++request) {
        CAPTURE(request);
        REQUIRE(worker.sink.wait_for(request));
        const std::vector<TokenId> prompt(1 + request * 3, static_cast<TokenId>(request));
        REQUIRE(worker.sink.tokens(request) == ledger_continuation(prompt, 20, 1000));
    }
    REQUIRE(worker.engine.violations() == 0);
}

TEST_CASE("a Start that comes after the end, while transfers end, has its answer at once", "[worker]") {
    Worker worker;
    worker.part.is_busy = true;
    worker.engine.hang(true);  // so that the first request cannot end by itself
    REQUIRE(worker.loop.post_command(make_start(1, {1, 2, 3}, 10)));
    worker.thread.request_stop();
    worker.engine.hang(false);
    const auto first = worker.sink.wait_for(1);
    REQUIRE(worker.loop.post_command(make_start(2, {1, 2, 3}, 4)));
    const auto second = worker.sink.wait_for(2);
    worker.part.is_busy = false;
    worker.loop.wake();
    worker.thread.join();
    for (const auto& answer : {first, second}) {
        REQUIRE(answer);
        REQUIRE(answer->error->code == base::ErrorCode::unavailable);
    }
    REQUIRE_FALSE(worker.loop.post_command(make_start(3, {1, 2, 3}, 4)));
}

TEST_CASE("a device that hangs does not hold the end of a worker", "[worker]") {
    worker::WorkerOptions limits;
    limits.handoff_timeout = std::chrono::milliseconds(20);
    Worker worker(limits);
    worker.engine.hang(true);
    REQUIRE(worker.loop.post_command(make_start(1, {1, 2, 3}, 10)));
    const auto give_up = worker.clock.now() + kPatience;
    while (worker.engine.steps() == 0 && worker.clock.now() < give_up) {
        std::this_thread::yield();
    }
    worker.thread.request_stop();
    worker.thread.join();
    const auto answer = worker.sink.wait_for(1);
    worker.engine.hang(false);  // and what it says then reaches nobody
    REQUIRE(answer);
    REQUIRE(answer->error->code == base::ErrorCode::unavailable);
    REQUIRE(worker.is_lost);
}
