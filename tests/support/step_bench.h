#pragma once

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "kv_cache/kv_cache.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"

namespace test_support {

inline constexpr worker::GatewayId kGateway{1};

/// Keeps what the loop delivers, by request.
class Collected final : public worker::OutputSink {
public:
    struct Answer {
        std::vector<base::TokenId> tokens;
        worker::Finish finish = worker::Finish::none;
        int finals = 0;
        std::uint32_t cached_tokens = 0;
        std::optional<base::Error> error;
        std::vector<worker::PartTimes> times;
    };
    void deliver(worker::GatewayId, std::vector<worker::SequenceOutput> outputs) override {
        for (auto& output : outputs) {
            Answer& answer = answers[output.key];
            for (const auto& token : output.tokens) {
                answer.tokens.push_back(token.token);
            }
            answer.cached_tokens = std::max(answer.cached_tokens, output.cached_tokens);
            if (output.times) { answer.times.push_back(*output.times); }
            if (output.finish != worker::Finish::none) {
                answer.finish = output.finish;
                answer.error = output.error;
                ++answer.finals;
            }
        }
    }
    std::map<worker::RequestKey, Answer> answers;
};

/// Drives a step loop by hand, on the test's thread, as worker::run_steps() does with a thread of its own.
class StepDriver {
public:
    explicit StepDriver(worker::StepLoop& loop) : loop_(loop) {}

    /// Commands, and one whole step with its outputs. False when there was nothing to do.
    bool turn() {
        const bool is_news = loop_.work();
        const auto ticket = loop_.begin_step();
        loop_.settle();
        if (!ticket) { return is_news; }
        collect(*ticket);
        loop_.settle();
        return true;
    }

    /// The same with a step always running: `meanwhile` (may post commands) is called and work() done while the engine
    /// computes, and the next step begins before anything else. False when there was nothing to do.
    bool overlapped_turn(const std::function<void()>& meanwhile = {}) {
        if (!running_) {
            const bool is_news = loop_.work();
            running_ = loop_.begin_step();
            loop_.settle();
            return is_news || running_;
        }
        if (meanwhile) { meanwhile(); }
        loop_.work();
        loop_.settle();
        collect(*running_);
        running_ = loop_.begin_step();
        loop_.settle();
        return true;
    }

    /// Waits for the step that runs and takes its result.
    void collect(engine::Ticket ticket) {
        loop_.finish_step(loop_.engine().collect(ticket, std::chrono::steady_clock::now() + std::chrono::minutes(10)));
    }

private:
    worker::StepLoop& loop_;
    std::optional<engine::Ticket> running_;  // of overlapped_turn
};

/// One step loop of a mixed worker over the engine that keeps books, driven by hand on a clock that stands still.
struct StepBench {
    explicit StepBench(LedgerEngine::Options engine_options = {}, worker::WorkerOptions limits = {},
                       engine::Grammars* grammars = nullptr)
        : engine(engine_options),
          cache({.blocks_total = engine_options.blocks_total, .block_tokens = engine_options.block_tokens}),
          loop({.limits = limits,
                .hash_key = {},
                .model = "ledger",
                .worker = "mixed-0",
                .role = worker::Role::mixed,
                .device_lost = [this](const base::Error& error) { lost.push_back(error.message); },
                .grammars = grammars},
               engine, cache, sink, board, clock, metrics) {
        loop.attach(worker::Part::whole, &whole);
    }
    /// Turns until nothing is left to do.
    void settle(int turns_max = 100000) {
        int turns = 0;
        while (driver.turn()) {
            REQUIRE(++turns < turns_max);
        }
    }

    std::vector<std::string> lost;  // what the loop said of its device
    base::FakeClock clock;
    base::Metrics metrics;
    LedgerEngine engine;
    kv_cache::KvCache cache;
    Collected sink;
    worker::ReportBoard board;
    worker::RolePart whole;
    worker::StepLoop loop;
    test_support::StepDriver driver{loop};
};

/// A whole request of epoch 0.
inline worker::StartRequest make_start(std::uint64_t request, std::vector<base::TokenId> prompt,
                                       std::uint32_t new_tokens) {
    worker::StartRequest start;
    start.key = {base::RequestId{request}, base::Epoch{0}};
    start.gateway = kGateway;
    start.part = worker::Part::whole;
    start.prompt = std::move(prompt);
    start.stop.new_tokens_max = new_tokens;
    return start;
}

}  // namespace test_support
