// The decode part over a receiver that only notes what it is told: what is decided, without a network or a thread.
#include "decode_worker/decode_part.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"
#include "tests/support/taught_costs.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using kv_transfer::ReceiverEvent;
using test_support::StepBench;
using worker::Finish;
using worker::RequestKey;

namespace {

constexpr base::Incarnation kPrefill{11};
constexpr base::Incarnation kDecode{22};

RequestKey key_of(std::uint64_t request) {
    return {RequestId{request}, Epoch{0}};
}

kv_transfer::HandoffKey handoff_of(std::uint64_t request) {
    return {RequestId{request}, Epoch{0}, kPrefill, kDecode};
}

/// Notes the answers, in order: "grant 1", "later 2".
class NotedAnswers final : public decode_worker::KvReceiverPort {
public:
    void grant(const kv_transfer::GrantRoom& room) override {
        note("grant", room.key);
        have_tokens = room.have_tokens;
        from_end = room.from_end;
        blocks.assign(room.blocks.begin(), room.blocks.end());
    }
    void offer_front(const kv_transfer::FrontOffer& offered) override {
        note("offer", offered.key);
        offer = offered;
    }
    void later(const kv_transfer::HandoffKey& key) override { note("later", key); }
    void refuse(const kv_transfer::HandoffKey& key, base::Error) override { note("refuse", key); }
    void abort(const kv_transfer::HandoffKey& key, base::Error) override { note("abort", key); }
    std::vector<std::string> take() { return std::exchange(answers_, {}); }

    std::uint32_t have_tokens = 0;  // of the last grant
    bool from_end = false;
    kv_transfer::FrontOffer offer;  // the last one
    std::vector<base::BlockId> blocks;

private:
    void note(const char* what, const kv_transfer::HandoffKey& key) {
        answers_.push_back(std::string(what) + " " + std::to_string(base::raw(key.request)));
    }
    std::vector<std::string> answers_;
};

struct DecodeBench : StepBench {
    explicit DecodeBench(std::uint32_t blocks_total, worker::WorkerOptions limits = {})
        : StepBench({.blocks_total = blocks_total}, limits), part(limits, kDecode, loop, answers, metrics) {
        base::init_log({.role = "test", .level = "off"});
        loop.attach(worker::Part::decode, &part);
    }
    void start(std::uint64_t request, std::uint32_t prompt_tokens) {
        auto message = test_support::make_start(request, std::vector<TokenId>(prompt_tokens, TokenId(request)), 4);
        message.part = worker::Part::decode;
        message.peer = {base::WorkerId{1}, kPrefill, "prefill"};
        REQUIRE(loop.post_command(std::move(message)));
        loop.work();
    }
    void event(ReceiverEvent::Kind kind, std::uint64_t request, std::uint32_t kv_tokens = 0) {
        ReceiverEvent news;
        news.kind = kind;
        news.key = handoff_of(request);
        news.kv_tokens = kv_tokens;
        part.on_event(std::move(news));
        loop.work();
    }
    void ask_room(std::uint64_t request, std::uint32_t kv_tokens) {
        event(ReceiverEvent::Kind::room_requested, request, kv_tokens);
    }
    void fail(std::uint64_t request, base::ErrorCode code) {
        ReceiverEvent news;
        news.kind = ReceiverEvent::Kind::failed;
        news.key = handoff_of(request);
        news.error = base::Error{code, "as a test says"};
        part.on_event(std::move(news));
        loop.work();
        event(ReceiverEvent::Kind::released, request);
    }
    double recomputed(const std::string& cause) const {
        const std::string text = metrics.text();
        const std::string row = "\nsluice_kv_fallbacks_total{action=\"recompute\",cause=\"" + cause + "\"} ";
        const auto at = text.find(row);
        REQUIRE(at != std::string::npos);
        return std::stod(text.substr(at + row.size()));
    }
    void cancel(std::uint64_t request) {
        REQUIRE(loop.post_command(worker::CancelRequest{key_of(request), test_support::kGateway, "client_gone"}));
        loop.work();
    }

    NotedAnswers answers;
    decode_worker::DecodePart part;
};

using Answers = std::vector<std::string>;

}  // namespace

TEST_CASE("room that is there is granted at once, and LATER is said once to who has to wait", "[decode_worker]") {
    DecodeBench bench(8);
    bench.start(1, 60);
    bench.start(2, 90);
    bench.ask_room(1, 60);
    REQUIRE(bench.answers.take() == Answers{"grant 1"});
    bench.ask_room(2, 90);
    bench.loop.work();
    REQUIRE(bench.answers.take() == Answers{"later 2"});
    bench.cancel(1);
    REQUIRE(bench.answers.take() == Answers{"abort 1"});  // its blocks are the transfer's until it has ended
    bench.event(ReceiverEvent::Kind::failed, 1);
    REQUIRE(bench.answers.take().empty());
    bench.event(ReceiverEvent::Kind::released, 1);
    REQUIRE(bench.answers.take() == Answers{"grant 2"});
    bench.cancel(2);
    bench.event(ReceiverEvent::Kind::released, 2);
}

TEST_CASE("room is granted in the order in which it was asked for, not in that of the starts", "[decode_worker]") {
    DecodeBench bench(8);
    for (const std::uint64_t request : {1u, 2u, 3u}) {
        bench.start(request, 100);
    }
    bench.ask_room(1, 100);
    bench.ask_room(3, 100);
    bench.ask_room(2, 100);
    REQUIRE(bench.answers.take() == Answers{"grant 1", "later 3", "later 2"});
    bench.cancel(1);
    bench.event(ReceiverEvent::Kind::released, 1);
    REQUIRE(bench.answers.take() == Answers{"abort 1", "grant 3"});
    bench.cancel(3);
    bench.event(ReceiverEvent::Kind::released, 3);
    REQUIRE(bench.answers.take() == Answers{"abort 3", "grant 2"});
    bench.cancel(2);
    bench.event(ReceiverEvent::Kind::released, 2);
}

TEST_CASE("who waits for room and whose hand-off fails is computed here when memory comes", "[decode_worker]") {
    DecodeBench bench(8);
    bench.start(1, 100);
    bench.start(2, 100);
    bench.ask_room(1, 100);
    bench.ask_room(2, 100);
    REQUIRE(bench.answers.take() == Answers{"grant 1", "later 2"});
    bench.event(ReceiverEvent::Kind::failed, 2);
    bench.event(ReceiverEvent::Kind::released, 2);
    bench.cancel(1);
    bench.event(ReceiverEvent::Kind::released, 1);
    REQUIRE(bench.answers.take() == Answers{"abort 1"});  // 2 does not want room any more
    const auto expected = test_support::ledger_continuation(std::vector<TokenId>(100, TokenId(2)), 4, 1000);
    REQUIRE(bench.loop.post_command(worker::ContinueRequest{key_of(2), test_support::kGateway, {expected[0]}}));
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(2)).tokens == std::vector<TokenId>(expected.begin() + 1, expected.end()));
}

TEST_CASE("how long KV was waited for is told, and by how many, of those whose prompt is computed", "[decode_worker]") {
    DecodeBench bench(64);
    bench.board.attach();
    const auto go_on = [&](std::uint64_t request) {
        REQUIRE(
            bench.loop.post_command(worker::ContinueRequest{key_of(request), test_support::kGateway, {TokenId{7}}}));
        bench.loop.work();
    };
    const auto awaited = [&] {
        bench.settle();
        sluice::proto::Heartbeat heartbeat;
        bench.board.take(heartbeat);
        return heartbeat;
    };
    for (const std::uint64_t request : {1u, 2u, 3u}) {
        bench.start(request, 100);
        bench.ask_room(request, 100);
    }
    REQUIRE(awaited().load().kv_awaited() == 0);  // the prompts compute
    bench.clock.advance(std::chrono::milliseconds(500));
    go_on(1);
    bench.clock.advance(std::chrono::milliseconds(40));
    go_on(2);
    REQUIRE(awaited().load().kv_awaited() == 2);
    bench.clock.advance(std::chrono::milliseconds(20));
    const auto arrive = [&](std::uint64_t request) {
        bench.event(ReceiverEvent::Kind::completed, request);
        bench.event(ReceiverEvent::Kind::released, request);
    };
    arrive(1);
    arrive(2);
    arrive(3);  // before its first token is known: nobody waits for it
    go_on(3);
    const auto heartbeat = awaited();
    REQUIRE(heartbeat.load().kv_awaited() == 0);
    REQUIRE(heartbeat.transfers_size() == 3);
    const std::uint64_t bytes = 100 * bench.engine.layout().bytes_per_token();
    const std::array<std::pair<std::uint32_t, std::uint32_t>, 3> told{{{60'000, 0}, {20'000, 1}, {100, 0}}};
    for (int i = 0; i < 3; ++i) {
        CAPTURE(i);
        REQUIRE(heartbeat.transfers(i).bytes() == bytes);
        REQUIRE(heartbeat.transfers(i).duration_us() == told.at(static_cast<std::size_t>(i)).first);
        REQUIRE(heartbeat.transfers(i).others() == told.at(static_cast<std::size_t>(i)).second);
    }
}

TEST_CASE("KV that is computed here is counted by why it did not come", "[decode_worker]") {
    const auto [code, cause] = GENERATE(table<base::ErrorCode, std::string>({
        {base::ErrorCode::deadline_exceeded, "timeout"},
        {base::ErrorCode::unavailable, "peer_lost"},
        {base::ErrorCode::data_loss, "checksum_mismatch"},
        {base::ErrorCode::resource_exhausted, "cancelled"},
        {base::ErrorCode::failed_precondition, "wrong_request"},
    }));
    CAPTURE(cause);
    DecodeBench bench(8);
    bench.start(1, 100);
    bench.ask_room(1, 100);
    bench.fail(1, code);
    REQUIRE(bench.recomputed(cause) == 0);  // its first token is not there yet
    const auto expected = test_support::ledger_continuation(std::vector<TokenId>(100, TokenId(1)), 4, 1000);
    REQUIRE(bench.loop.post_command(worker::ContinueRequest{key_of(1), test_support::kGateway, {expected[0]}}));
    bench.settle();
    for (const std::string one :
         {"timeout", "peer_lost", "checksum_mismatch", "cancelled", "wrong_request", "not_asked"}) {
        CAPTURE(one);
        REQUIRE(bench.recomputed(one) == (one == cause ? 1 : 0));
    }
}

TEST_CASE("KV that nobody asked room for is computed here, and counted as that", "[decode_worker]") {
    DecodeBench bench(8);
    bench.start(1, 100);
    const auto expected = test_support::ledger_continuation(std::vector<TokenId>(100, TokenId(1)), 4, 1000);
    REQUIRE(bench.loop.post_command(worker::ContinueRequest{key_of(1), test_support::kGateway, {expected[0]}}));
    bench.loop.work();
    bench.clock.advance(worker::WorkerOptions().room_pending);
    bench.settle();
    REQUIRE(bench.sink.answers.at(key_of(1)).tokens == std::vector<TokenId>(expected.begin() + 1, expected.end()));
    REQUIRE(bench.recomputed("not_asked") == 1);
    REQUIRE(bench.recomputed("timeout") == 0);
}

namespace {

constexpr std::uint32_t kLongTokens = 40 * 16 + 5;

/// Steps take a millisecond a token.
struct SlowWireBench : DecodeBench {
    explicit SlowWireBench(bool knows_prompts = true, worker::WorkerOptions limits = {}) : DecodeBench(100, limits) {
        if (knows_prompts) { test_support::teach_millisecond_a_token(*this); }
    }
    void ask_room(std::chrono::milliseconds sending, std::chrono::milliseconds computing,
                  std::optional<base::Duration> first_token_in = std::nullopt) {
        before = engine.tokens_computed();
        auto message = test_support::make_start(1, prompt, 4);
        message.part = worker::Part::decode;
        message.peer = {base::WorkerId{1}, kPrefill, "prefill"};
        message.kv_mode.set_lossy(may_lose);
        if (first_token_in) { message.slo.first_token = clock.now() + *first_token_in; }
        REQUIRE(loop.post_command(std::move(message)));
        loop.work();
        ReceiverEvent news;
        news.kind = ReceiverEvent::Kind::room_requested;
        news.key = handoff_of(1);
        news.kv_tokens = kLongTokens;
        news.sending = sending;
        news.computing = computing;
        news.computing_whole = std::chrono::milliseconds(kLongTokens);
        news.moves = moves;
        part.on_event(std::move(news));
        loop.work();
        auto answered = answers.take();
        REQUIRE(!answered.empty());
        REQUIRE(answered.front() == "grant 1");
        offers = static_cast<int>(answered.size()) - 1;
        computed_until = answers.have_tokens;
    }
    /// KV of these tokens comes from prefill.
    void come(std::uint32_t begin, std::uint32_t end) {
        if (begin >= end) { return; }
        engine::Batch batch;
        engine::BatchEntry& entry = batch.add();
        entry.position = begin;
        entry.tokens.assign(prompt.begin() + begin, prompt.begin() + end);
        entry.set_blocks(answers.blocks);
        before += entry.tokens.size();
        REQUIRE(engine::run_to_end(engine, std::move(batch)));
    }
    /// Tokens [computed_until, begin) have come, and those behind them up to `end` are decode's.
    void front(std::uint32_t begin, std::uint32_t end) {
        come(computed_until, begin);
        computed_until = end;
        ReceiverEvent news;
        news.kind = ReceiverEvent::Kind::front;
        news.key = handoff_of(1);
        news.front_begin = begin;
        news.front_end = end;
        part.on_event(std::move(news));
        loop.work();
    }
    /// The KV behind what decode says it has comes from prefill.
    void come() {
        come(computed_until, kLongTokens);
        event(ReceiverEvent::Kind::completed, 1, kLongTokens);
        event(ReceiverEvent::Kind::released, 1);
    }
    void go_on() {
        const std::vector<TokenId> first = test_support::ledger_continuation(prompt, 1, 1000);
        REQUIRE(loop.post_command(worker::ContinueRequest{key_of(1), test_support::kGateway, first}));
        loop.work();
    }
    void check(std::uint32_t cached_tokens) {
        settle();
        const auto all = test_support::ledger_continuation(prompt, 4, 1000);
        const auto& answer = sink.answers.at(key_of(1));
        REQUIRE(answer.tokens == std::vector<TokenId>(all.begin() + 1, all.end()));
        REQUIRE(answer.finals == 1);
        REQUIRE(answer.cached_tokens == cached_tokens);
        REQUIRE(engine.violations() == 0);
        REQUIRE(engine.tokens_computed() - before == kLongTokens - cached_tokens + 3);
        const auto counts = cache.counts();
        REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
    }

    const std::vector<TokenId> prompt = [] {
        test_support::Random random{3};
        return test_support::random_prompt(random, kLongTokens);
    }();
    std::uint64_t before = 0;
    bool may_lose = false;             // the request's KV
    bool moves = false;                // prefill heeds more fronts
    int offers = 0;                    // with the grant
    std::uint32_t computed_until = 0;  // the front, up to now
};

}  // namespace

TEST_CASE("over a slow wire the first tokens are computed while the others come", "[decode_worker]") {
    SlowWireBench bench(GENERATE(true, false));  // else it is taken for as quick as prefill says that it is
    bench.ask_room(std::chrono::milliseconds(kLongTokens), std::chrono::milliseconds(0));
    const std::uint32_t front = bench.answers.have_tokens;
    REQUIRE(front >= 17 * 16);
    REQUIRE(front <= 23 * 16);
    // In any order: the front, the rest, the first token.
    const int order = GENERATE(range(0, 6));
    CAPTURE(order);
    const std::array<std::array<int, 3>, 6> orders{{{0, 1, 2}, {0, 2, 1}, {1, 0, 2}, {1, 2, 0}, {2, 0, 1}, {2, 1, 0}}};
    for (const int step : orders[static_cast<std::size_t>(order)]) {
        if (step == 0) {
            bench.settle();
            REQUIRE(bench.engine.tokens_computed() - bench.before >= front);
        } else if (step == 1) {
            bench.come();
        } else {
            bench.go_on();
        }
    }
    bench.check(kLongTokens - front);
    REQUIRE(bench.metrics.text().find("sluice_kv_front_tokens_total " + std::to_string(front)) != std::string::npos);
}

TEST_CASE("where prefill heeds it the front is computed piece by piece, as the wire goes", "[decode_worker]") {
    SlowWireBench bench;
    bench.moves = true;
    bench.ask_room(std::chrono::milliseconds(kLongTokens), std::chrono::milliseconds(0));
    REQUIRE(bench.answers.from_end);
    REQUIRE(bench.offers == 0);  // it has something to do
    const std::uint32_t first = bench.answers.have_tokens;
    REQUIRE(first >= 8 * 16);
    REQUIRE(first <= 12 * 16);  // half of its share
    bench.settle();
    REQUIRE(bench.answers.take() == Answers{"offer 1"});
    REQUIRE(bench.answers.offer.tokens_per_s > 500);
    REQUIRE(bench.answers.offer.tokens_per_s <= 1001);
    bench.front(first, first + 64);
    bench.settle();
    REQUIRE(bench.answers.take() == Answers{"offer 1"});
    bench.front(first + 96, first + 128);  // what lies between has come
    if (GENERATE(false, true)) {
        bench.settle();
        REQUIRE(bench.answers.take() == Answers{"offer 1"});
        bench.come();
        bench.go_on();
    } else {
        bench.come();
        bench.go_on();
    }
    bench.check(kLongTokens - first - 96);
    REQUIRE(bench.metrics.text().find("sluice_kv_front_tokens_total " + std::to_string(first + 96)) !=
            std::string::npos);
}

TEST_CASE("what is in time over the wire is offered to be computed, should that get slower", "[decode_worker]") {
    SlowWireBench bench;
    bench.moves = true;
    const std::chrono::milliseconds all(kLongTokens);
    bench.ask_room(all, std::chrono::milliseconds(0), all * 2);
    REQUIRE(bench.answers.have_tokens == 0);
    REQUIRE_FALSE(bench.answers.from_end);
    REQUIRE(bench.offers == 1);
    REQUIRE(bench.answers.offer.due.has_value());
    if (GENERATE(false, true)) {
        bench.front(160, 320);
        bench.settle();
        REQUIRE(bench.answers.take() == Answers{"offer 1"});
        bench.come();
        bench.go_on();
        bench.check(kLongTokens - 160);
    } else {
        bench.come();
        bench.go_on();
        bench.check(kLongTokens);
    }
}

TEST_CASE("nothing is offered with both ends off, or where the KV may come with loss", "[decode_worker]") {
    worker::WorkerOptions limits;
    limits.kv_both_ends = GENERATE(true, false);
    SlowWireBench bench(true, limits);
    bench.moves = true;
    bench.may_lose = limits.kv_both_ends;
    bench.ask_room(std::chrono::milliseconds(0), std::chrono::milliseconds(0));
    REQUIRE(bench.offers == 0);
    bench.come();
    bench.go_on();
    bench.settle();
    REQUIRE(bench.answers.take().empty());
}

TEST_CASE("fronts, the rest and the first token in any order, or no rest at all: the tokens are as ever",
          "[decode_worker][property]") {
    const auto seed = GENERATE(range(0u, 100u));
    CAPTURE(seed);
    test_support::Random random{seed};
    SlowWireBench bench;
    bench.moves = true;
    bench.ask_room(std::chrono::milliseconds(kLongTokens), std::chrono::milliseconds(0));
    int offers = 0;
    std::uint32_t computed = bench.computed_until;
    bool has_first = false;
    const bool fails = random() % 3 == 0;
    for (int step = 0; step < 200; ++step) {
        const std::vector<std::string> answers = bench.answers.take();
        offers += static_cast<int>(answers.size());
        REQUIRE(std::count(answers.begin(), answers.end(), "offer 1") == std::ssize(answers));
        switch (random() % 6) {
            case 0:
            case 1:
                bench.driver.turn();
                break;
            case 2:
            case 3: {
                const std::uint32_t begin = bench.computed_until + 16 * static_cast<std::uint32_t>(random() % 3);
                const std::uint32_t end = begin + 16 * (1 + static_cast<std::uint32_t>(random() % 5));
                if (offers == 0 || end >= kLongTokens) { break; }
                bench.settle();
                bench.front(begin, end);
                computed += end - begin;
                offers = 0;
                break;
            }
            case 4:
                if (!std::exchange(has_first, true)) { bench.go_on(); }
                break;
            default:
                if (random() % 20 == 0) { step = 200; }
                break;
        }
    }
    if (!has_first && random() % 2 == 0) {
        bench.go_on();
        has_first = true;
    }
    if (random() % 2 == 0) { bench.settle(); }
    if (fails) {
        bench.event(ReceiverEvent::Kind::failed, 1);
        bench.event(ReceiverEvent::Kind::released, 1);
    } else {
        bench.settle();
        bench.come();
    }
    if (!has_first) { bench.go_on(); }
    bench.settle();
    const auto all = test_support::ledger_continuation(bench.prompt, 4, 1000);
    const auto& answer = bench.sink.answers.at(key_of(1));
    REQUIRE(answer.tokens == std::vector<TokenId>(all.begin() + 1, all.end()));
    REQUIRE(answer.cached_tokens == (fails ? 0 : kLongTokens - computed));
    REQUIRE(bench.engine.violations() == 0);
    const auto counts = bench.cache.counts();
    REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
}

TEST_CASE("with both ends off all of a slow hand-off comes over the wire", "[decode_worker]") {
    worker::WorkerOptions limits;
    limits.kv_both_ends = false;
    SlowWireBench bench(true, limits);
    bench.ask_room(std::chrono::milliseconds(kLongTokens), std::chrono::milliseconds(0));
    REQUIRE(bench.answers.have_tokens == 0);
    bench.come();
    bench.go_on();
    bench.check(kLongTokens);
}

TEST_CASE("nothing is computed twice where the wire is not what the KV waits for", "[decode_worker]") {
    SlowWireBench bench;
    const std::chrono::milliseconds all(kLongTokens);
    SECTION("nothing is known of it") {
        bench.ask_room(std::chrono::milliseconds(0), std::chrono::milliseconds(0));
    }
    SECTION("prefill computes for as long") {
        bench.ask_room(all, all);
    }
    SECTION("it is quick") {
        bench.ask_room(all / 20, std::chrono::milliseconds(0));
    }
    SECTION("all of it is there when the second token is due") {
        bench.ask_room(all, std::chrono::milliseconds(0), all * 2);
    }
    REQUIRE(bench.answers.have_tokens == 0);
    bench.come();
    bench.go_on();
    bench.check(kLongTokens);
}

TEST_CASE("a hand-off that fails while the first tokens are computed leaves the rest to steps", "[decode_worker]") {
    SlowWireBench bench;
    bench.ask_room(std::chrono::milliseconds(kLongTokens), std::chrono::milliseconds(0));
    REQUIRE(bench.answers.have_tokens > 0);
    if (GENERATE(false, true)) { bench.settle(); }
    bench.go_on();
    bench.event(ReceiverEvent::Kind::failed, 1);
    bench.event(ReceiverEvent::Kind::released, 1);
    bench.check(0);
}

TEST_CASE("who is cancelled while its first tokens are computed leaves nothing behind", "[decode_worker]") {
    SlowWireBench bench;
    bench.ask_room(std::chrono::milliseconds(kLongTokens), std::chrono::milliseconds(0));
    if (GENERATE(false, true)) { bench.driver.turn(); }
    bench.cancel(1);
    REQUIRE(bench.answers.take() == Answers{"abort 1"});
    bench.event(ReceiverEvent::Kind::failed, 1);
    bench.event(ReceiverEvent::Kind::released, 1);
    const auto counts = bench.cache.counts();
    REQUIRE(counts.used + counts.pinned + counts.stranded == 0);
}
