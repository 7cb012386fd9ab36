// What a scheduler that has just begun knows of workers that were there before it.
#include <random>

#include "base/step_cost.h"
#include "scheduler/predictor.h"
#include "tests/support/catch.h"
#include "worker/board.h"

namespace {

constexpr base::StepCost kCost{.prefill = {5e-3, 4.8e-4, 2e-8}, .decode = {6e-3, 5e-4, 1.6e-6}};

/// What one heartbeat of the worker teaches.
void teach(scheduler::Predictor& predictor, worker::ReportBoard& board) {
    sluice::proto::Heartbeat heartbeat;
    board.take(heartbeat);
    for (const auto& step : heartbeat.steps()) {
        static_cast<void>(predictor.observe_step(base::WorkerId{1}, scheduler::Role::mixed, step));
    }
    for (const auto& transfer : heartbeat.transfers()) {
        static_cast<void>(predictor.observe_transfer(base::WorkerId{1}, scheduler::Role::mixed, transfer));
    }
}

}  // namespace

TEST_CASE("predictions outlive the scheduler in what workers report to the next one", "[goodput]") {
    const auto seed = GENERATE(range(0u, 5u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::uniform_real_distribution<double> noise(0.9, 1.1);
    worker::ReportBoard board;
    board.attach();
    scheduler::Predictor former;
    for (int second = 0; second < 60; ++second) {
        for (int i = 0; i < 20; ++i) {
            base::StepWork work;
            if (i % 4 == 0) {
                work.prefill_tokens = 16u << random() % 6u;
                work.prefill_context = base::context_sum(static_cast<double>(random() % 512), work.prefill_tokens);
            } else {
                work.decode_sequences = 1 + static_cast<double>(random() % 16);
                work.decode_context = work.decode_sequences * (200 + static_cast<double>(random() % 800));
            }
            sluice::proto::StepSample sample;
            sample.set_prefill_tokens(static_cast<std::uint32_t>(work.prefill_tokens));
            sample.set_prefill_context_tokens(static_cast<std::uint64_t>(work.prefill_context));
            sample.set_decode_sequences(static_cast<std::uint32_t>(work.decode_sequences));
            sample.set_decode_context_tokens(static_cast<std::uint64_t>(work.decode_context));
            sample.set_duration_us(static_cast<std::uint32_t>(1e6 * noise(random) * base::step_seconds(kCost, work)));
            board.add_step(sample);
        }
        sluice::proto::TransferSample transfer;
        transfer.set_bytes(1'000'000 * (1 + random() % 20));
        transfer.set_duration_us(static_cast<std::uint32_t>(1000 + transfer.bytes() / 500));
        board.add_transfer(transfer);
        teach(former, board);
    }
    // It dies; the next one hears of the worker for the first time.
    board.detach();
    board.attach();
    scheduler::Predictor next;
    teach(next, board);

    const scheduler::Costs before = former.costs(base::WorkerId{1}, scheduler::Role::mixed);
    const scheduler::Costs after = next.costs(base::WorkerId{1}, scheduler::Role::mixed);
    REQUIRE(before.learned);
    REQUIRE(after.learned);
    const double context = base::context_sum(0, 400);
    REQUIRE(base::prefill_seconds(after.prefill, 1, 400, context) ==
            Approx(base::prefill_seconds(before.prefill, 1, 400, context)).epsilon(0.1));
    for (const double sequences : {1.0, 8.0, 16.0}) {
        REQUIRE(base::decode_step_seconds(after.decode, sequences, sequences * 500) ==
                Approx(base::decode_step_seconds(before.decode, sequences, sequences * 500)).epsilon(0.1));
    }
    REQUIRE(scheduler::transfer_seconds(after.transfer, 5e6) ==
            Approx(scheduler::transfer_seconds(before.transfer, 5e6)).epsilon(0.1));
}

TEST_CASE("steps that are all alike are enough to predict by after a restart", "[goodput]") {
    worker::ReportBoard board;
    board.attach();
    scheduler::Predictor former;
    for (int i = 0; i < 100; ++i) {
        sluice::proto::StepSample sample;
        if (i % 2 == 0) {
            sample.set_prefill_tokens(400);
            sample.set_prefill_context_tokens(static_cast<std::uint64_t>(base::context_sum(0, 400)));
            sample.set_duration_us(20'000);
        } else {
            sample.set_decode_sequences(1);
            sample.set_decode_context_tokens(420);
            sample.set_duration_us(2'000);
        }
        board.add_step(sample);
    }
    teach(former, board);
    REQUIRE(former.costs(base::WorkerId{1}, scheduler::Role::mixed).learned);
    board.detach();
    board.attach();
    scheduler::Predictor next;
    teach(next, board);
    REQUIRE(next.costs(base::WorkerId{1}, scheduler::Role::mixed).learned);
}
