// The decode part over a receiver that only notes what it is told: what is decided, without a network or a thread.
#include "decode_worker/decode_part.h"

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
    void grant(const kv_transfer::GrantRoom& room) override { note("grant", room.key); }
    void later(const kv_transfer::HandoffKey& key) override { note("later", key); }
    void refuse(const kv_transfer::HandoffKey& key, base::Error) override { note("refuse", key); }
    void abort(const kv_transfer::HandoffKey& key, base::Error) override { note("abort", key); }
    std::vector<std::string> take() { return std::exchange(answers_, {}); }

private:
    void note(const char* what, const kv_transfer::HandoffKey& key) {
        answers_.push_back(std::string(what) + " " + std::to_string(base::raw(key.request)));
    }
    std::vector<std::string> answers_;
};

struct DecodeBench : StepBench {
    explicit DecodeBench(std::uint32_t blocks_total)
        : StepBench({.blocks_total = blocks_total}), part({}, kDecode, loop, answers, metrics) {
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
