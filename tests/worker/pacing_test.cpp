// Steps that keep what was promised, over an engine whose steps take what a model says, on a virtual clock.
#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "base/metrics.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/modelled_engine.h"

using test_support::ModelledEngine;

namespace {

using Seconds = std::chrono::duration<double>;

double seconds_between(base::TimePoint from, base::TimePoint to) {
    return Seconds(to - from).count();
}

/// About what two cores do with a model of 110M parameters: 6 ms to read the weights, half a millisecond a token.
constexpr base::StepCost kTwoCores{.prefill = {5e-3, 4.8e-4, 2e-8}, .decode = {6e-3, 5e-4, 1.6e-6}};

struct Load {
    double rate = 1;  // requests a second
    int requests = 300;
    std::uint32_t prompt_tokens = 512;
    std::uint32_t answer_tokens = 64;
    double ttft_seconds = 1.0;
    double tpot_seconds = 0.020;
    bool promised = true;  // the worker knows the targets
    std::uint32_t seed = 1;
};

struct Attained {
    double both = 0;
    double ttft = 0;
    double tpot = 0;
    double gap_p99 = 0;  // seconds between two tokens of a stream
    int answered = 0;
};

/// Notes when each token of each request came.
class TokenTimes final : public worker::OutputSink {
public:
    explicit TokenTimes(const base::Clock& clock) : clock_(clock) {}
    void deliver(worker::GatewayId, std::vector<worker::SequenceOutput> outputs) override {
        for (const auto& output : outputs) {
            auto& times = of[output.key];
            times.insert(times.end(), output.tokens.size(), clock_.now());
            if (output.finish != worker::Finish::none) { ++finals; }
        }
    }
    std::map<worker::RequestKey, std::vector<base::TimePoint>> of;
    int finals = 0;

private:
    const base::Clock& clock_;
};

Attained serve(const Load& load) {
    base::FakeClock clock;
    base::Metrics metrics;
    ModelledEngine engine({.cost = kTwoCores, .noise = 0.1, .seed = load.seed}, clock);
    kv_cache::KvCache cache({.blocks_total = engine.blocks_total(), .block_tokens = 16});
    TokenTimes sink(clock);
    worker::ReportBoard board;
    worker::RolePart whole;
    worker::StepLoop loop(
        {.limits = {}, .hash_key = {}, .model = "m", .worker = "mixed-0", .role = worker::Role::mixed}, engine, cache,
        sink, board, clock, metrics);
    loop.attach(worker::Part::whole, &whole);

    std::mt19937 random{load.seed};
    std::exponential_distribution<double> gap(load.rate);
    std::map<worker::RequestKey, base::TimePoint> asked;
    std::vector<std::pair<base::TimePoint, worker::StartRequest>> arrivals;
    base::TimePoint at = clock.now();
    for (int i = 1; i <= load.requests; ++i) {
        at += std::chrono::duration_cast<base::Duration>(Seconds(gap(random)));
        worker::StartRequest start;
        start.key = {base::RequestId{static_cast<std::uint64_t>(i)}, base::Epoch{0}};
        start.gateway = worker::GatewayId{1};
        for (std::uint32_t t = 0; t < load.prompt_tokens; ++t) {
            start.prompt.push_back(static_cast<base::TokenId>(random() % 100));
        }
        start.stop.new_tokens_max = load.answer_tokens;
        if (load.promised) {
            start.slo.first_token = at + std::chrono::duration_cast<base::Duration>(Seconds(load.ttft_seconds));
            start.slo.tpot = std::chrono::duration_cast<base::Duration>(Seconds(load.tpot_seconds));
        }
        asked[start.key] = at;
        arrivals.emplace_back(at, std::move(start));
    }

    std::size_t next = 0;
    const auto arrive = [&] {
        while (next < arrivals.size() && arrivals[next].first <= clock.now()) {
            REQUIRE(loop.post_command(std::move(arrivals[next++].second)));
        }
    };
    const auto advance_to = [&](base::TimePoint to) {
        clock.advance(std::max(base::Duration::zero(), to - clock.now()));
    };
    std::optional<engine::Ticket> step;
    while (sink.finals < load.requests) {
        arrive();
        loop.work();
        if (!step) {
            step = loop.begin_step();
            loop.settle();
        }
        if (!step) {
            REQUIRE(next < arrivals.size());
            advance_to(arrivals[next].first);
            continue;
        }
        if (next < arrivals.size() && arrivals[next].first < engine.ends_at()) {
            advance_to(arrivals[next].first);
            continue;
        }
        advance_to(engine.ends_at());
        loop.finish_step(engine.collect(*step, clock.now(), {}));
        step = loop.begin_step();
        loop.settle();
    }

    Attained attained;
    attained.answered = sink.finals;
    std::vector<double> gaps;
    for (const auto& [key, times] : sink.of) {
        const double ttft = seconds_between(asked.at(key), times.front());
        const double tpot =
            times.size() < 2 ? 0 : seconds_between(times.front(), times.back()) / static_cast<double>(times.size() - 1);
        attained.ttft += ttft <= load.ttft_seconds;
        attained.tpot += tpot <= load.tpot_seconds;
        attained.both += ttft <= load.ttft_seconds && tpot <= load.tpot_seconds;
        for (std::size_t i = 1; i < times.size(); ++i) {
            gaps.push_back(seconds_between(times[i - 1], times[i]));
        }
    }
    std::sort(gaps.begin(), gaps.end());
    attained.gap_p99 = gaps[gaps.size() * 99 / 100];
    for (double* share : {&attained.ttft, &attained.tpot, &attained.both}) {
        *share /= load.requests;
    }
    return attained;
}

}  // namespace

TEST_CASE("steps filled by time keep both targets at rates where chunks of a fixed size break TPOT",
          "[worker][property]") {
    const auto seed = GENERATE(1u, 2u, 3u);
    CAPTURE(seed);
    const Load load{.rate = 1.25, .seed = seed};
    Load unpromised = load;
    unpromised.promised = false;
    const Attained with = serve(load);
    const Attained without = serve(unpromised);
    CAPTURE(with.both, with.ttft, with.tpot, without.both, without.ttft, without.tpot);
    REQUIRE(with.both >= 0.9);
    REQUIRE(with.both >= without.both + 0.1);
}

TEST_CASE("no load makes a stream miss its TPOT where its prompts could be in time or not", "[worker][property]") {
    const auto rate = GENERATE(0.5, 1.5, 3.0);
    const auto targets = GENERATE(std::pair{1.0, 0.020}, std::pair{0.6, 0.030});
    CAPTURE(rate, targets.second);
    const Attained attained = serve({.rate = rate, .ttft_seconds = targets.first, .tpot_seconds = targets.second});
    CAPTURE(attained.tpot, attained.gap_p99);
    REQUIRE(attained.tpot >= 0.97);
    REQUIRE(attained.gap_p99 < 2 * targets.second);
}

TEST_CASE("under twice the load that can be served every request is answered", "[worker][property]") {
    const Load load{.rate = 5, .requests = 200, .tpot_seconds = 0.010};  // less than a step of decodes takes
    const Attained attained = serve(load);
    REQUIRE(attained.answered == load.requests);
}
