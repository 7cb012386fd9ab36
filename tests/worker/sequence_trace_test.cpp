// Where a sequence's time went, as the step loop tells it.
#include "worker/sequence_trace.h"

#include <chrono>
#include <vector>

#include "worker/messages.h"

#include "tests/support/catch.h"
#include "tests/support/step_bench.h"

namespace {

using namespace std::chrono_literals;
using base::StepWork;
using base::TokenId;
using test_support::make_start;
using test_support::StepBench;
using worker::KnownCosts;
using worker::PartTimes;
using worker::SequenceTrace;
using worker::split_step;
using Wait = worker::SequenceTrace::Wait;

constexpr base::TimePoint kBegin{};
const KnownCosts kCosts{.prefill = base::PrefillCost{0, 1e-3, 0}, .decode = base::DecodeCost{10e-3, 1e-3, 0}};

worker::RequestKey key_of(std::uint64_t request) {
    return {base::RequestId{request}, base::Epoch{0}};
}

worker::StartRequest explained(std::uint64_t request, std::size_t prompt, std::uint32_t new_tokens) {
    auto start = make_start(request, std::vector<TokenId>(prompt, static_cast<TokenId>(request)), new_tokens);
    start.explain = true;
    start.slo.tpot = 20ms;
    return start;
}

/// One step that takes `took`.
void step(StepBench& bench, base::Duration took) {
    bench.loop.work();
    const auto ticket = bench.loop.begin_step();
    REQUIRE(ticket);
    bench.clock.advance(took);
    bench.driver.collect(*ticket);
    bench.loop.settle();
}

const std::vector<PartTimes>& times_of(const StepBench& bench, std::uint64_t request) {
    return bench.sink.answers.at(key_of(request)).times;
}

}  // namespace

TEST_CASE("a decode's step is split by what its prompts cost, as far as that is known", "[worker][explain]") {
    const StepWork all{.prefill_tokens = 30, .decode_sequences = 2};
    const StepWork own{.decode_sequences = 1};
    // Prompts 30 ms and both decodes 2 ms; without the prompts 12 ms.
    auto split = split_step(all, own, 40ms, kCosts);
    REQUIRE(std::chrono::duration<double>(split.others).count() == Approx(20e-3));
    REQUIRE(std::chrono::duration<double>(split.alone).count() == Approx(11e-3));
    REQUIRE(split.turn == base::Duration::zero());
    split = split_step(all, own, 5ms, kCosts);  // never more than the step took
    REQUIRE(split.others == base::Duration(5ms));
    split = split_step(all, own, 32ms, {});  // by tokens
    REQUIRE(split.others == base::Duration(30ms));
    REQUIRE(split.alone == base::Duration::zero());
    split = split_step(own, own, 40ms, kCosts);
    REQUIRE(split.others == base::Duration::zero());
}

TEST_CASE("a prompt's step is split into its own, other prompts and decodes", "[worker][explain]") {
    const StepWork all{.prefill_tokens = 30, .decode_sequences = 10};
    const StepWork own{.prefill_tokens = 10};
    auto split = split_step(all, own, 40ms, kCosts);
    REQUIRE(std::chrono::duration<double>(split.others).count() == Approx(10e-3));
    REQUIRE(std::chrono::duration<double>(split.turn).count() == Approx(20e-3));
    REQUIRE(std::chrono::duration<double>(split.alone).count() == Approx(10e-3));
    split = split_step(all, own, 40ms, {});
    REQUIRE(split.others == base::Duration(10ms));
    REQUIRE(std::chrono::duration<double>(split.turn).count() == Approx(20e-3));
    // A prefill worker never learns of decodes, and needs not.
    split = split_step({.prefill_tokens = 10}, own, 40ms, {.prefill = kCosts.prefill, .decode = std::nullopt});
    REQUIRE(std::chrono::duration<double>(split.alone).count() == Approx(10e-3));
}

TEST_CASE("a trace adds up what a sequence waits for", "[worker][explain]") {
    SequenceTrace trace;
    trace.wait_for(Wait::kv, kBegin);  // nobody asked: nothing
    REQUIRE_FALSE(trace.is_on());
    trace.begin(kBegin, Wait::memory);
    trace.wait_for(Wait::kv, kBegin + 5ms);
    trace.wait_for(Wait::turn, kBegin + 12ms);
    trace.launched(kBegin + 20ms);  // a step without it ended then
    trace.stepped(kBegin + 51ms, 30ms, {.prefill_tokens = 10}, {.prefill_tokens = 10}, kCosts);
    const PartTimes first = trace.take(kBegin + 51ms);
    REQUIRE(first.since == kBegin);
    REQUIRE(first.memory == base::Duration(5ms));
    REQUIRE(first.kv == base::Duration(7ms));
    REQUIRE(first.turn == base::Duration(8ms));
    REQUIRE(first.steps == base::Duration(30ms));
    REQUIRE(first.prompt_tokens == 10u);
    trace.launched(kBegin + 51ms);  // no step ran without it
    trace.stepped(kBegin + 70ms, 18ms, {.decode_sequences = 3}, {.decode_sequences = 1}, kCosts);
    const PartTimes second = trace.take(kBegin + 70ms);
    REQUIRE(second.turn == base::Duration::zero());
    REQUIRE(second.memory == base::Duration::zero());
    REQUIRE(second.batch == 3u);
}

TEST_CASE("from its preemption to its next token all time is the preemption's", "[worker][explain]") {
    SequenceTrace trace;
    trace.begin(kBegin, Wait::turn);
    trace.wait_for(Wait::preempted, kBegin + 10ms);
    trace.wait_for(Wait::turn, kBegin + 50ms);
    trace.launched(kBegin + 60ms);
    trace.stepped(kBegin + 90ms, 30ms, {.prefill_tokens = 40}, {.prefill_tokens = 40}, kCosts);
    const PartTimes times = trace.take(kBegin + 90ms);
    REQUIRE(times.preempted == base::Duration(80ms));
    REQUIRE(times.steps == base::Duration::zero());
    REQUIRE(trace.take(kBegin + 100ms).preempted == base::Duration::zero());
}

TEST_CASE("a prompt that waited for another one's step says so", "[worker][explain]") {
    worker::WorkerOptions limits;
    limits.batch_tokens_max = 40;
    StepBench bench({}, limits);
    REQUIRE(bench.loop.post_command(explained(1, 40, 1)));
    REQUIRE(bench.loop.post_command(explained(2, 40, 1)));
    step(bench, 100ms);
    step(bench, 30ms);
    REQUIRE(times_of(bench, 1).size() == 1u);
    REQUIRE(times_of(bench, 1)[0].turn == base::Duration::zero());
    REQUIRE(times_of(bench, 1)[0].steps == base::Duration(100ms));
    REQUIRE(times_of(bench, 2)[0].turn == base::Duration(100ms));
    REQUIRE(times_of(bench, 2)[0].steps == base::Duration(30ms));
    REQUIRE(times_of(bench, 2)[0].total == base::Duration(130ms));
}

TEST_CASE("a prompt that waited for memory says so", "[worker][explain]") {
    StepBench bench({.blocks_total = 4});
    REQUIRE(bench.loop.post_command(explained(1, 60, 2)));
    REQUIRE(bench.loop.post_command(explained(2, 60, 1)));
    step(bench, 40ms);
    step(bench, 10ms);
    step(bench, 30ms);
    REQUIRE(times_of(bench, 2)[0].memory == base::Duration(50ms));
    REQUIRE(times_of(bench, 2)[0].steps == base::Duration(30ms));
}

TEST_CASE("of later tokens only late ones say anything", "[worker][explain]") {
    StepBench bench;
    REQUIRE(bench.loop.post_command(explained(1, 10, 4)));
    step(bench, 40ms);
    step(bench, 20ms);
    REQUIRE(times_of(bench, 1).size() == 1u);
    step(bench, 21ms);
    REQUIRE(times_of(bench, 1).size() == 2u);
    REQUIRE(times_of(bench, 1)[1].total == base::Duration(21ms));
    REQUIRE(times_of(bench, 1)[1].steps == base::Duration(21ms));
    REQUIRE(times_of(bench, 1)[1].batch == 1u);
}

TEST_CASE("an output that leaves late is late", "[worker][explain]") {
    StepBench bench;
    REQUIRE(bench.loop.post_command(explained(1, 10, 3)));
    step(bench, 40ms);
    bench.loop.work();
    const auto ticket = bench.loop.begin_step();
    bench.clock.advance(5ms);
    bench.driver.collect(*ticket);
    bench.clock.advance(100ms);  // the thread stood still
    bench.loop.settle();
    REQUIRE(times_of(bench, 1).size() == 2u);
    REQUIRE(times_of(bench, 1)[1].total == base::Duration(105ms));
    REQUIRE(times_of(bench, 1)[1].steps == base::Duration(5ms));
}

TEST_CASE("without being asked, and without a target, workers say nothing", "[worker][explain]") {
    StepBench bench;
    auto silent = explained(1, 10, 3);
    silent.explain = false;
    auto untargeted = explained(2, 10, 3);
    untargeted.slo.tpot = {};
    REQUIRE(bench.loop.post_command(std::move(silent)));
    REQUIRE(bench.loop.post_command(std::move(untargeted)));
    for (int i = 0; i < 3; ++i) {
        step(bench, 500ms);
    }
    REQUIRE(times_of(bench, 1).empty());
    REQUIRE(times_of(bench, 2).size() == 1u);  // of the first output
}

TEST_CASE("who lost its memory to others says so", "[worker][explain]") {
    StepBench bench({.blocks_total = 8});  // each needs six in the end
    REQUIRE(bench.loop.post_command(explained(1, 30, 60)));
    REQUIRE(bench.loop.post_command(explained(2, 30, 60)));
    for (int steps = 0; steps < 200 && bench.sink.answers[key_of(2)].finals == 0; ++steps) {
        step(bench, 30ms);
    }
    REQUIRE(bench.sink.answers.at(key_of(2)).finals == 1);
    base::Duration preempted{};
    for (const PartTimes& times : times_of(bench, 2)) {
        preempted += times.preempted;
    }
    REQUIRE(preempted > base::Duration(60ms));
    for (const PartTimes& times : times_of(bench, 1)) {
        REQUIRE(times.preempted == base::Duration::zero());
    }
}

TEST_CASE("times travel in microseconds", "[worker][explain]") {
    worker::SequenceOutput output;
    output.times.emplace();
    output.times->total = 1500us;
    output.times->turn = 300us;
    output.times->others = -5us;  // never below nothing
    output.times->step_count = 2;
    sluice::proto::SequenceOutput message;
    worker::write_output(output, message);
    REQUIRE(message.trace().total_us() == 1500u);
    REQUIRE(message.trace().turn_us() == 300u);
    REQUIRE(message.trace().others_us() == 0u);
    REQUIRE(message.trace().steps() == 2u);
    output.times.reset();
    sluice::proto::SequenceOutput silent;
    worker::write_output(output, silent);
    REQUIRE_FALSE(silent.has_trace());
}
