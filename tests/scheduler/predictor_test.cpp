#include "scheduler/predictor.h"

#include "tests/support/catch.h"

using base::WorkerId;
using scheduler::Predictor;
using scheduler::Role;

namespace {

sluice::proto::StepSample make_step(std::uint32_t prefill_tokens, std::uint32_t sequences, double seconds,
                                    std::uint64_t prefill_context = 0, std::uint64_t decode_context = 0) {
    sluice::proto::StepSample sample;
    sample.set_prefill_tokens(prefill_tokens);
    sample.set_prefill_context_tokens(prefill_context);
    sample.set_decode_sequences(sequences);
    sample.set_decode_context_tokens(decode_context);
    sample.set_duration_us(static_cast<std::uint32_t>(seconds * 1e6));
    return sample;
}

/// Steps of a worker with known costs.
void teach(Predictor& predictor, WorkerId worker, Role role, double speed, int rounds) {
    for (int i = 0; i < rounds; ++i) {
        const std::uint32_t tokens = 16 + 37 * static_cast<std::uint32_t>(i % 13);
        predictor.observe_step(worker, role, make_step(tokens, 0, speed * (0.004 + 0.0005 * tokens)));
        const std::uint32_t sequences = 1 + static_cast<std::uint32_t>(i % 16);
        predictor.observe_step(worker, role, make_step(0, sequences, speed * (0.010 + 0.0004 * sequences)));
    }
}

}  // namespace

TEST_CASE("a worker is predicted by itself, else by its role, else by the prior", "[scheduler][predictor]") {
    Predictor predictor;
    const double prior = predictor.costs(WorkerId{1}, Role::prefill).prefill.token_seconds;
    REQUIRE(prior > 0);

    teach(predictor, WorkerId{1}, Role::prefill, 1.0, 30);
    REQUIRE(predictor.costs(WorkerId{1}, Role::prefill).prefill.token_seconds == Approx(0.0005).epsilon(0.03));
    REQUIRE(predictor.costs(WorkerId{2}, Role::prefill).prefill.token_seconds == Approx(0.0005).epsilon(0.03));
    REQUIRE(predictor.costs(WorkerId{2}, Role::mixed).prefill.token_seconds == prior);

    teach(predictor, WorkerId{2}, Role::prefill, 4.0, 30);
    REQUIRE(predictor.costs(WorkerId{2}, Role::prefill).prefill.token_seconds == Approx(0.002).epsilon(0.03));
    REQUIRE(predictor.costs(WorkerId{1}, Role::prefill).prefill.token_seconds == Approx(0.0005).epsilon(0.03));
    REQUIRE(predictor.costs(WorkerId{1}, Role::prefill).decode.step_seconds == Approx(0.010).epsilon(0.05));

    predictor.forget(WorkerId{1});
    REQUIRE(predictor.workers() == 1);
    REQUIRE(predictor.costs(WorkerId{1}, Role::prefill).prefill.token_seconds != prior);
}

TEST_CASE("a mixed step teaches prefill what its decode sequences leave", "[scheduler][predictor]") {
    Predictor predictor;
    teach(predictor, WorkerId{1}, Role::mixed, 1.0, 100);
    Predictor mixed = predictor;
    for (int i = 0; i < 400; ++i) {
        const std::uint32_t tokens = 16 + 37 * static_cast<std::uint32_t>(i % 13);
        const std::uint32_t sequences = 1 + static_cast<std::uint32_t>(i % 16);
        mixed.observe_step(WorkerId{1}, Role::mixed,
                           make_step(tokens, sequences, 0.004 + 0.0005 * tokens + 0.0004 * sequences));
    }
    const auto costs = mixed.costs(WorkerId{1}, Role::mixed);
    REQUIRE(costs.prefill.token_seconds == Approx(0.0005).epsilon(0.03));
    REQUIRE(costs.prefill.step_seconds == Approx(0.004).epsilon(0.1));
    REQUIRE(costs.decode.sequence_seconds == predictor.costs(WorkerId{1}, Role::mixed).decode.sequence_seconds);
}

TEST_CASE("what mixed steps take longer than the sum of both models is known", "[scheduler][predictor]") {
    Predictor predictor;
    teach(predictor, WorkerId{1}, Role::mixed, 1.0, 100);
    REQUIRE(predictor.costs(WorkerId{1}, Role::mixed).mixed.ratio == 1);
    const double longer = GENERATE(0.8, 1.0, 1.3);
    for (int i = 0; i < 100; ++i) {
        const std::uint32_t tokens = 16 + 37 * static_cast<std::uint32_t>(i % 13);
        predictor.observe_step(WorkerId{1}, Role::mixed, make_step(tokens, 0, 0.004 + 0.0005 * tokens));
        predictor.observe_step(WorkerId{1}, Role::mixed, make_step(tokens, 8, longer * (0.0072 + 0.0005 * tokens)));
    }
    // The fit of prefill lies between steps with decodes and those without; the ratio is the rest.
    const auto costs = predictor.costs(WorkerId{1}, Role::mixed);
    const double predicted =
        base::step_seconds({costs.prefill, costs.decode}, {.prefill_tokens = 256, .decode_sequences = 8});
    REQUIRE(predicted * costs.mixed.ratio == Approx(longer * (0.0072 + 0.0005 * 256)).epsilon(0.06));
}

TEST_CASE("a step that is nearly all decode teaches prefill nothing", "[scheduler][predictor]") {
    Predictor predictor;
    teach(predictor, WorkerId{1}, Role::mixed, 1.0, 30);
    const double before = predictor.costs(WorkerId{1}, Role::mixed).prefill.token_seconds;
    const auto ratios = predictor.observe_step(WorkerId{1}, Role::mixed, make_step(1, 16, 0.0065));
    REQUIRE_FALSE(ratios.prefill.has_value());
    REQUIRE_FALSE(ratios.decode.has_value());
    REQUIRE(predictor.costs(WorkerId{1}, Role::mixed).prefill.token_seconds == before);
}

TEST_CASE("hand-offs teach every worker until it has its own", "[scheduler][predictor]") {
    Predictor predictor;
    const auto arrive = [&](WorkerId worker, int megabytes, double us_each) {
        sluice::proto::TransferSample sample;
        sample.set_bytes(static_cast<std::uint64_t>(megabytes) << 20);
        sample.set_duration_us(static_cast<std::uint32_t>(500 + megabytes * us_each));
        REQUIRE(predictor.observe_transfer(worker, Role::decode, sample).has_value());
    };
    const auto byte_seconds = [&](WorkerId worker, Role role) {
        return predictor.costs(worker, role).transfer.byte_seconds;
    };
    for (int i = 1; i <= 40; ++i) {
        arrive(WorkerId{1}, i, 10'000);  // 0.5 ms and about 105 MB/s
    }
    const double expected = 0.010 / (1 << 20);
    REQUIRE(byte_seconds(WorkerId{1}, Role::decode) == Approx(expected).epsilon(0.02));
    REQUIRE(byte_seconds(WorkerId{5}, Role::decode) == Approx(expected).epsilon(0.02));
    REQUIRE(byte_seconds(WorkerId{6}, Role::mixed) == Approx(expected).epsilon(0.02));
    for (int i = 1; i <= 40; ++i) {
        arrive(WorkerId{2}, i, 100'000);  // over a link of a tenth
    }
    REQUIRE(byte_seconds(WorkerId{2}, Role::decode) == Approx(10 * expected).epsilon(0.02));
    REQUIRE(byte_seconds(WorkerId{1}, Role::decode) == Approx(expected).epsilon(0.02));
    REQUIRE_FALSE(predictor.observe_transfer(WorkerId{1}, Role::decode, {}).has_value());
}

TEST_CASE("what others on its link cost a hand-off is learned apart from what it takes alone",
          "[scheduler][predictor]") {
    Predictor predictor;
    for (int i = 1; i <= 60; ++i) {
        sluice::proto::TransferSample sample;
        const int others = i % 4;
        sample.set_bytes(static_cast<std::uint64_t>(10 + i % 7) << 20);
        sample.set_others(static_cast<std::uint32_t>(others));
        sample.set_duration_us(static_cast<std::uint32_t>((10 + i % 7) * 10'000 * (1 + 0.8 * others)));
        static_cast<void>(predictor.observe_transfer(WorkerId{1}, Role::decode, sample));
    }
    const auto transfer = predictor.costs(WorkerId{1}, Role::decode).transfer;
    const double bytes = 12 << 20;
    REQUIRE(scheduler::transfer_seconds(transfer, bytes) == Approx(0.120).epsilon(0.05));
    REQUIRE(scheduler::transfer_seconds(transfer, bytes, 3) == Approx(0.120 * 3.4).epsilon(0.05));
}

TEST_CASE("what a worker for prefill tells of hand-offs is when it computed them, too: nothing to learn",
          "[scheduler][predictor]") {
    Predictor predictor;
    sluice::proto::TransferSample sample;
    sample.set_bytes(20 << 20);
    sample.set_duration_us(230'000);
    const auto before = predictor.costs(WorkerId{2}, Role::decode).transfer;
    for (int i = 0; i < 20; ++i) {
        REQUIRE_FALSE(predictor.observe_transfer(WorkerId{1}, Role::prefill, sample).has_value());
    }
    REQUIRE(predictor.costs(WorkerId{2}, Role::decode).transfer.byte_seconds == before.byte_seconds);
}

TEST_CASE("an empty step teaches nothing", "[scheduler][predictor]") {
    Predictor predictor;
    const auto ratios = predictor.observe_step(WorkerId{1}, Role::mixed, make_step(0, 0, 0.01));
    REQUIRE_FALSE(ratios.prefill.has_value());
    REQUIRE_FALSE(ratios.decode.has_value());
    REQUIRE_FALSE(predictor.observe_step(WorkerId{1}, Role::mixed, make_step(5, 0, 0)).prefill.has_value());
}
