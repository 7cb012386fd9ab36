#pragma once

#include <algorithm>
#include <chrono>
#include <condition_variable>
#include <functional>
#include <future>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "decode_worker/decode_part.h"
#include "decode_worker/receiver_port.h"
#include "kv_transfer/router.h"
#include "net/fault.h"
#include "net/in_process.h"
#include "prefill_worker/prefill_part.h"
#include "prefill_worker/sender_port.h"
#include "worker/kv_fetcher.h"
#include "worker/kv_lender.h"
#include "worker/run_steps.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/step_bench.h"

namespace test_support {

inline constexpr std::chrono::seconds kPatience{30};  // for a condition that must come; never asserted

/// What a gateway sees of one worker, with a wait for conditions.
class Mailbox final : public worker::OutputSink {
public:
    struct Answer {
        std::vector<base::TokenId> tokens;
        worker::Finish finish = worker::Finish::none;
        int finals = 0;
        std::string kv_path;
        std::uint32_t cached_tokens = 0;
    };
    std::function<void(worker::RequestKey, const std::vector<base::TokenId>&)> on_tokens;  // set before the loop runs

    void deliver(worker::GatewayId, std::vector<worker::SequenceOutput> outputs) override {
        std::vector<std::pair<worker::RequestKey, std::vector<base::TokenId>>> news;
        {
            const std::scoped_lock lock(mutex_);
            for (auto& output : outputs) {
                Answer& answer = answers_[output.key];
                for (const auto& token : output.tokens) {
                    answer.tokens.push_back(token.token);
                }
                answer.cached_tokens = std::max(answer.cached_tokens, output.cached_tokens);
                if (!output.kv_path.empty()) { answer.kv_path = output.kv_path; }
                if (output.finish != worker::Finish::none) {
                    answer.finish = output.finish;
                    ++answer.finals;
                }
                if (!output.tokens.empty()) { news.emplace_back(output.key, answer.tokens); }
            }
        }
        changed_.notify_all();
        if (on_tokens) {
            for (const auto& [key, tokens] : news) {
                on_tokens(key, tokens);
            }
        }
    }
    bool wait_for_final(worker::RequestKey key) {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, kPatience, [&] { return answers_[key].finals > 0; });
    }
    Answer answer(worker::RequestKey key) {
        const std::scoped_lock lock(mutex_);
        return answers_[key];
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    std::map<worker::RequestKey, Answer> answers_;
};

/// What a test changes in the KV plane of its workers.
struct KvPlane {
    net::FaultPlan faults = {};
    kv_transfer::Codecs codecs = {};
    std::size_t handoffs_max = 1024;
    std::size_t fetches_max = 64;

    kv_transfer::KvSender::Options sender() const {
        return {.frame_bytes_max = 4096,
                .handoffs_max = handoffs_max,
                .fetches_max = fetches_max,
                .ack_timeout = std::chrono::milliseconds(30),
                .room_interval = std::chrono::milliseconds(20),
                .codecs = codecs};
    }
    kv_transfer::KvReceiver::Options receiver() const {
        return {.frame_bytes_max = 4096,
                .handoffs_max = handoffs_max,
                .fetches_max = fetches_max,
                .fetch_interval = std::chrono::milliseconds(20),
                .codecs = codecs};
    }
};

/// One worker with both parts, as cli/worker_process builds it.
struct TestWorker {
    TestWorker(net::InProcessNetwork& network, const std::string& name, std::uint64_t life,
               worker::WorkerOptions limits, LedgerEngine::Options engine_options, const KvPlane& plane,
               engine::Grammars* grammars = nullptr)
        : incarnation(base::Incarnation{life}),
          engine(engine_options),
          cache({.blocks_total = engine_options.blocks_total, .block_tokens = engine_options.block_tokens}),
          loop({.limits = limits,
                .hash_key = {},
                .model = "ledger",
                .worker = name,
                .role = worker::Role::mixed,
                .tasks_max = kv_transfer::events_max(plane.sender(), plane.receiver()) + 1,  // one of wait_idle()
                .grammars = grammars},
               engine, cache, mailbox, board, clock, metrics),
          prefill(limits, engine.shape().layers, incarnation, loop, sender_port),
          decode(limits, incarnation, loop, receiver_port, metrics),
          fetcher(limits, incarnation, loop, receiver_port, metrics),
          lender(limits, engine.shape().layers, loop, sender_port, metrics) {
        transport = network.add(name, {}, clock).value();
        if (!plane.faults.rules.empty()) {
            transport = net::make_fault_transport(std::move(transport), plane.faults, clock);
        }
        const kv_transfer::Identity identity{"ledger", 42, incarnation};
        sender = std::make_unique<kv_transfer::KvSender>(plane.sender(), identity, engine.layout(), engine.kv_store(),
                                                         *transport, clock, &metrics, [this](auto event) {
                                                             event.key.is_fetch() ? lender.on_event(std::move(event))
                                                                                  : prefill.on_event(std::move(event));
                                                         });
        receiver = std::make_unique<kv_transfer::KvReceiver>(
            plane.receiver(), identity, engine.layout(), engine.kv_store(), *transport, clock, &metrics,
            [this](auto event) {
                event.key.is_fetch() ? fetcher.on_event(std::move(event)) : decode.on_event(std::move(event));
            });
        sender_port.connect(*sender);
        receiver_port.connect(*receiver);
        router = std::make_unique<kv_transfer::KvRouter>(sender.get(), receiver.get());
        REQUIRE(transport->start(*router));
        loop.attach(worker::Part::prefill, &prefill);
        loop.attach(worker::Part::decode, &decode);
        loop.attach(worker::Part::whole, &whole);
        loop.add_helper(&fetcher);
        loop.add_helper(&lender);
    }
    void run() {
        thread = std::jthread([this](std::stop_token stop) { worker::run_steps(loop, stop); });
    }
    void stop() {
        thread = {};
        sender->stop();
        receiver->stop();
        transport->stop();
    }
    /// Waits until no transfer touches a block and nothing runs.
    bool wait_idle() {
        const auto give_up = clock.now() + kPatience;
        while (loop.wait_idle(give_up)) {
            const auto idle = std::make_shared<std::promise<bool>>();
            auto answer = idle->get_future();
            const bool is_posted = loop.post([this, idle] {
                const auto counts = cache.counts();
                idle->set_value(counts.used + counts.pinned + counts.stranded == 0);
            });
            if (is_posted && answer.wait_until(give_up) != std::future_status::ready) { return false; }
            if (is_posted && answer.get()) { return true; }
            if (clock.now() >= give_up) { return false; }
            std::this_thread::yield();
        }
        return false;
    }
    worker::Peer as_peer() const { return {base::WorkerId{1}, incarnation, transport->address()}; }

    const base::Incarnation incarnation;
    base::SystemClock clock;
    base::Metrics metrics;
    LedgerEngine engine;
    kv_cache::KvCache cache;
    Mailbox mailbox;
    worker::ReportBoard board;
    worker::RolePart whole;
    worker::StepLoop loop;
    prefill_worker::SenderPort sender_port;
    decode_worker::ReceiverPort receiver_port;
    prefill_worker::PrefillPart prefill;
    decode_worker::DecodePart decode;
    worker::KvFetcher fetcher;
    worker::KvLender lender;
    std::unique_ptr<net::Transport> transport;
    std::unique_ptr<kv_transfer::KvSender> sender;
    std::unique_ptr<kv_transfer::KvReceiver> receiver;
    std::unique_ptr<kv_transfer::KvRouter> router;
    StepDriver driver{loop};  // where no thread runs
    std::jthread thread;
};

}  // namespace test_support
