#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/log.h"
#include "worker/kv_fetcher.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"

/// A step loop with a fetcher over a port that only notes what it is told.
namespace fetch_test {

using base::TokenId;
using kv_transfer::HandoffKey;
using kv_transfer::ReceiverEvent;

inline constexpr base::Incarnation kHere{1};
inline constexpr base::Incarnation kThere{2};
inline constexpr std::uint32_t kRunTokens = kv_transfer::kFetchBlocksMax * 16;
inline const worker::RequestKey kKey{base::RequestId{1}, base::Epoch{0}};

class NotedFetches final : public worker::KvFetchPort {
public:
    struct Asked {
        HandoffKey key;
        std::vector<base::BlockHash> hashes;
        std::vector<base::BlockId> blocks;
        base::TimePoint deadline;
    };
    base::Result<void> fetch(const kv_transfer::FetchKv& wanted) override {
        if (asked.size() - ended >= room) { return base::fail(base::ErrorCode::resource_exhausted, "too many"); }
        asked.push_back({wanted.key,
                         {wanted.hashes.begin(), wanted.hashes.end()},
                         {wanted.blocks.begin(), wanted.blocks.end()},
                         wanted.deadline});
        return {};
    }
    void abort(const HandoffKey& key, base::Error) override { aborted.push_back(key.run); }

    std::size_t room = 1000;
    std::size_t ended = 0;
    std::vector<Asked> asked;
    std::vector<std::uint32_t> aborted;
};

struct FetchBench : test_support::StepBench {
    explicit FetchBench(worker::WorkerOptions limits = {})
        : StepBench({.blocks_total = 400}, limits), fetcher(limits, kHere, loop, port, metrics) {
        base::init_log({.role = "test", .level = "off"});
        loop.add_helper(&fetcher);
    }
    worker::StartRequest start_message(std::uint64_t request, std::vector<TokenId> prompt) const {
        auto message = test_support::make_start(request, std::move(prompt), 3);
        message.kv_source = worker::KvSource{{base::WorkerId{2}, kThere, "there"}, 0xffffffff, std::nullopt};
        return message;
    }
    void start(worker::StartRequest message) {
        REQUIRE(loop.post_command(std::move(message)));
        settle();
    }
    void event(ReceiverEvent::Kind kind, std::uint32_t run, std::uint32_t kv_tokens = 0,
               std::optional<base::Error> error = std::nullopt) {
        ReceiverEvent news;
        news.kind = kind;
        news.key = {key.request, key.epoch, kThere, kHere, run};
        news.kv_tokens = kv_tokens;
        news.error = std::move(error);
        if (kind == ReceiverEvent::Kind::released) { ++port.ended; }
        fetcher.on_event(std::move(news));
        settle();
    }
    /// The first `kv_tokens` of a run come, as the other worker has computed them.
    void come(std::uint32_t run, std::uint32_t kv_tokens) {
        const auto& prompt = loop.find(key)->tokens;
        const auto blocks = loop.find(key)->kv->blocks();
        const auto first_block = std::find(blocks.begin(), blocks.end(), port.asked.at(run - 1).blocks.front());
        const auto begin = static_cast<std::uint32_t>(first_block - blocks.begin()) * 16;
        engine::Batch batch;
        engine::BatchEntry& entry = batch.add();
        entry.position = begin;
        entry.tokens.assign(prompt.begin() + begin, prompt.begin() + begin + kv_tokens);
        entry.set_blocks(blocks);
        REQUIRE(engine::run_to_end(engine, std::move(batch)));
        elsewhere += kv_tokens;
        event(ReceiverEvent::Kind::completed, run, kv_tokens);
        event(ReceiverEvent::Kind::released, run);
    }
    void fail(std::uint32_t run, base::ErrorCode code) {
        event(ReceiverEvent::Kind::failed, run, 0, base::Error{code, "no"});
        event(ReceiverEvent::Kind::released, run);
    }
    bool is_loading() { return loop.find(key) != nullptr && loop.find(key)->state == worker::SequenceState::loading; }
    std::uint64_t computed() const { return engine.tokens_computed() - elsewhere; }
    std::uint64_t ended(const std::string& outcome) const {
        const std::string line = "sluice_kv_fetches_total{outcome=\"" + outcome + "\"} ";
        const std::string text = metrics.text();
        const auto at = text.find(line);
        return at == std::string::npos ? 0 : std::stoull(text.substr(at + line.size()));
    }
    /// The sequence ended as if it had been computed here, and nothing is held.
    void check_answer(const std::vector<TokenId>& prompt) {
        REQUIRE(sink.answers.at(key).tokens == test_support::ledger_continuation(prompt, 3, 1000));
        REQUIRE(sink.answers.at(key).finals == 1);
        REQUIRE(engine.violations() == 0);
        REQUIRE_FALSE(fetcher.busy());
        const auto counts = cache.counts();
        REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
    }

    worker::RequestKey key = kKey;  // whose events come
    NotedFetches port;
    worker::KvFetcher fetcher;
    std::uint64_t elsewhere = 0;  // tokens that the other worker computed
};

inline std::vector<TokenId> make_prompt(std::uint32_t tokens) {
    test_support::Random random{tokens};
    return test_support::random_prompt(random, tokens);
}

}  // namespace fetch_test
