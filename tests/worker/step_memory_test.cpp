// How the step loop acts on the plan of KV memory.
#include <vector>

#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/step_bench.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::kGateway;
using test_support::ledger_continuation;
using test_support::make_start;
using test_support::StepBench;
using worker::Finish;
using worker::RequestKey;
using worker::SequenceState;

namespace {

const RequestKey kKey{RequestId{1}, Epoch{0}};

/// Loads the KV of everything that is admitted, when the test says so.
class LoadingPart final : public worker::RolePart {
public:
    explicit LoadingPart(worker::StepControl& control) : control_(control) {}
    void admitted(worker::Sequence& sequence) override {
        hold = control_.cache().hold(*sequence.kv, 0, control_.cache().blocks_for(48));
        control_.make_loading(sequence);
    }
    kv_cache::BlockHold hold;  // what is written

private:
    worker::StepControl& control_;
};

struct LoadingBench : StepBench {
    LoadingBench() : part(loop) { loop.attach(worker::Part::whole, &part); }
    LoadingPart part;
};

}  // namespace

TEST_CASE("who loads its KV holds its memory and runs when it is told, with what was loaded", "[worker]") {
    LoadingBench bench;
    const std::vector<TokenId> prompt(50, 7);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 3)));
    bench.settle();
    REQUIRE(bench.loop.find(kKey)->state == SequenceState::loading);
    REQUIRE(bench.engine.steps() == 0);
    REQUIRE(bench.cache.counts().pinned == 3);

    // What a tier would write, here by computing it: the ledger would notice if it were not there.
    engine::Batch batch;
    engine::BatchEntry& entry = batch.add();
    entry.tokens.assign(prompt.begin(), prompt.begin() + 48);
    entry.set_blocks(bench.part.hold.blocks());
    REQUIRE(engine::run_to_end(bench.engine, std::move(batch)));
    bench.part.hold.release();
    bench.loop.loaded(kKey, 48u);
    const auto before = bench.engine.tokens_computed();
    bench.settle();
    REQUIRE(bench.sink.answers.at(kKey).tokens == ledger_continuation(prompt, 3, 1000));
    REQUIRE(bench.engine.tokens_computed() == before + 2 + 2);
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("KV that could not be loaded is computed", "[worker]") {
    LoadingBench bench;
    const std::vector<TokenId> prompt(50, 7);
    REQUIRE(bench.loop.post_command(make_start(1, prompt, 3)));
    bench.settle();
    bench.part.hold.release();
    bench.loop.loaded(kKey, base::fail(base::ErrorCode::data_loss, "the file is damaged"));
    bench.settle();
    REQUIRE(bench.sink.answers.at(kKey).tokens == ledger_continuation(prompt, 3, 1000));
    REQUIRE(bench.engine.tokens_computed() == 50 + 2);
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("who is cancelled while it loads leaves its blocks to what writes them", "[worker]") {
    LoadingBench bench;
    REQUIRE(bench.loop.post_command(make_start(1, std::vector<TokenId>(50, 7), 3)));
    bench.settle();
    REQUIRE(bench.loop.post_command(worker::CancelRequest{kKey, kGateway, "client_gone"}));
    bench.settle();
    REQUIRE(bench.sink.answers.at(kKey).finish == Finish::cancelled);
    REQUIRE(bench.cache.counts().stranded == 3);
    bench.part.hold.release();
    bench.loop.loaded(kKey, 48u);  // late: nobody is there
    bench.settle();
    REQUIRE(bench.cache.counts().used + bench.cache.counts().stranded == 0);
}

TEST_CASE("a stream of a lower class gives its memory to a newcomer of a higher one, and goes on where it was",
          "[worker]") {
    const bool overlapped = GENERATE(false, true);
    CAPTURE(overlapped);
    StepBench bench({.blocks_total = 6});
    const std::vector<TokenId> low(40, 1);
    const std::vector<TokenId> high(70, 2);
    const RequestKey low_key{RequestId{1}, Epoch{0}};
    const RequestKey high_key{RequestId{2}, Epoch{0}};
    const auto turn = [&] { return overlapped ? bench.driver.overlapped_turn() : bench.driver.turn(); };
    REQUIRE(bench.loop.post_command(make_start(1, low, 40)));
    for (int i = 0; i < 8; ++i) {
        turn();
    }
    REQUIRE(bench.loop.find(low_key)->state == SequenceState::running);
    worker::StartRequest start = make_start(2, high, 12);
    start.priority = 1;
    REQUIRE(bench.loop.post_command(std::move(start)));
    for (int i = 0; bench.sink.answers[high_key].finals == 0; ++i) {
        REQUIRE(i < 100);
        turn();
    }
    REQUIRE(bench.sink.answers.at(low_key).finals == 0);
    for (int i = 0; turn(); ++i) {
        REQUIRE(i < 200);
    }
    REQUIRE(bench.sink.answers.at(low_key).tokens == ledger_continuation(low, 40, 1000));
    REQUIRE(bench.sink.answers.at(high_key).tokens == ledger_continuation(high, 12, 1000));
    REQUIRE(bench.engine.violations() == 0);
    REQUIRE(bench.cache.counts().used + bench.cache.counts().stranded == 0);
    const auto& preempted =
        bench.metrics.counter("sluice_worker_preemptions_total",
                              "Sequences that lost their KV memory to others, which grew or have a higher priority",
                              {{"model", "ledger"}, {"cause", "priority"}});
    REQUIRE(preempted.Value() == 1);
}

TEST_CASE("who waited as long as makes up for its class keeps its memory when a higher one comes", "[worker]") {
    worker::WorkerOptions limits;
    limits.priority_wait = std::chrono::milliseconds(1000);
    StepBench bench({.blocks_total = 6}, limits);
    worker::StartRequest first = make_start(1, std::vector<TokenId>(70, 1), 8);
    first.priority = 1;
    REQUIRE(bench.loop.post_command(std::move(first)));
    bench.driver.turn();
    REQUIRE(bench.loop.post_command(make_start(2, std::vector<TokenId>(70, 2), 8)));
    bench.driver.turn();
    bench.clock.advance(std::chrono::seconds(1));
    const RequestKey low_key{RequestId{2}, Epoch{0}};
    for (int i = 0; bench.loop.find(low_key)->state != SequenceState::running; ++i) {
        REQUIRE(i < 20);
        bench.driver.turn();
    }
    worker::StartRequest late = make_start(3, std::vector<TokenId>(70, 3), 8);
    late.priority = 1;
    REQUIRE(bench.loop.post_command(std::move(late)));
    while (bench.sink.answers[low_key].finals == 0) {
        bench.driver.turn();
        REQUIRE(bench.sink.answers[RequestKey{RequestId{3}, Epoch{0}}].tokens.empty());
    }
    bench.settle();
    REQUIRE(bench.sink.answers.at(RequestKey{RequestId{3}, Epoch{0}}).tokens.size() == 8);
    REQUIRE(bench.engine.violations() == 0);
}
