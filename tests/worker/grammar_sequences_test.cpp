#include <algorithm>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "engine/grammars.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/forcing_grammars.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::ForcingGrammars;
using test_support::ledger_continuation;
using test_support::LedgerEngine;
using test_support::make_start;
using test_support::Random;
using test_support::random_prompt;
using worker::RequestKey;
using Bench = test_support::StepBench;

namespace {

/// Grammars that allow everything, compiled when the test says so; keeps what it was asked, by the grammar's text.
class FakeGrammars final : public engine::Grammars {
public:
    struct Asked {
        bool is_ready = false;
        std::function<void()> ready;
        std::vector<std::vector<TokenId>> generated;
        bool is_over = false;
    };
    std::unique_ptr<engine::GrammarSequence> begin(const engine::GrammarSpec& spec,
                                                   std::function<void()> ready) override {
        auto& asked = all[spec.text];
        asked = std::make_shared<Asked>();
        asked->ready = std::move(ready);
        return std::make_unique<Sequence>(asked);
    }
    void compile(const std::string& text) {
        all.at(text)->is_ready = true;
        all.at(text)->ready();
    }
    std::map<std::string, std::shared_ptr<Asked>> all;

private:
    class Sequence final : public engine::GrammarSequence {
    public:
        explicit Sequence(std::shared_ptr<Asked> asked) : asked_(std::move(asked)) {}
        ~Sequence() override { asked_->is_over = true; }
        bool is_ready() const override { return asked_->is_ready; }
        std::shared_ptr<const engine::LateMask> next(std::span<const TokenId> generated,
                                                     std::optional<TokenId>) override {
            asked_->generated.emplace_back(generated.begin(), generated.end());
            auto mask = std::make_shared<engine::LateMask>(1000);
            mask->set(std::vector<std::uint32_t>(32, ~0U));
            return mask;
        }
        std::vector<TokenId> take_forced() override { return {}; }

    private:
        std::shared_ptr<Asked> asked_;
    };
};

worker::StartRequest with_grammar(worker::StartRequest request, std::string text) {
    request.grammar = engine::GrammarSpec{engine::GrammarKind::lark, std::move(text)};
    return request;
}

}  // namespace

TEST_CASE("a sequence is in no step until its grammar is compiled, and others do not wait", "[worker]") {
    FakeGrammars grammars;
    Bench bench({}, {}, &grammars);
    const std::vector<TokenId> prompt = {1, 2, 3, 4, 5};
    REQUIRE(bench.loop.post_command(with_grammar(make_start(1, prompt, 4), "a")));
    REQUIRE(bench.loop.post_command(make_start(2, prompt, 4)));
    bench.settle();
    REQUIRE(bench.sink.answers.count({RequestId{1}, Epoch{0}}) == 0);
    REQUIRE(bench.sink.answers.at({RequestId{2}, Epoch{0}}).finals == 1);
    REQUIRE(grammars.all.at("a")->generated.empty());

    grammars.compile("a");
    bench.settle();
    const auto expected = ledger_continuation(prompt, 4, 1000);
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).tokens == expected);
    const auto& asked = *grammars.all.at("a");
    REQUIRE(asked.generated.size() == 4);  // one mask for each token, after all before it
    for (std::size_t count = 0; count < 4; ++count) {
        REQUIRE(asked.generated[count] ==
                std::vector<TokenId>(expected.begin(), expected.begin() + static_cast<std::ptrdiff_t>(count)));
    }
    REQUIRE(asked.is_over);
}

TEST_CASE("a mask follows from all tokens of an answer, also of one that goes on here or was preempted",
          "[worker][property]") {
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    Random random{seed};
    worker::WorkerOptions limits;
    limits.batch_sequences_max = 1 + random() % 8;
    limits.batch_tokens_max = 1 + random() % 80;
    LedgerEngine::Options engine_options;
    engine_options.layers = 2;
    engine_options.blocks_total = 12 + random() % 20;  // small: preemptions happen
    FakeGrammars grammars;
    Bench bench(engine_options, limits, &grammars);
    std::map<std::uint64_t, std::vector<TokenId>> expected;
    std::map<std::uint64_t, std::size_t> known;
    for (std::uint64_t request = 1; request <= 8; ++request) {
        const std::vector<TokenId> prompt = random_prompt(random, 1 + random() % 70);
        const std::uint32_t length = 2 + random() % 40;
        expected[request] = ledger_continuation(prompt, length, 1000);
        auto start = with_grammar(make_start(request, prompt, length), std::to_string(request));
        known[request] = random() % length;  // were generated elsewhere
        start.generated.assign(expected[request].begin(),
                               expected[request].begin() + static_cast<std::ptrdiff_t>(known[request]));
        REQUIRE(bench.loop.post_command(std::move(start)));
        bench.driver.turn();
        grammars.compile(std::to_string(request));
    }
    bench.settle();
    for (const auto& [request, tokens] : expected) {
        CAPTURE(request);
        const auto& asked = *grammars.all.at(std::to_string(request));
        REQUIRE(asked.is_over);
        REQUIRE(asked.generated.size() == tokens.size() - known[request]);
        for (std::size_t i = 0; i < asked.generated.size(); ++i) {
            REQUIRE(
                asked.generated[i] ==
                std::vector<TokenId>(tokens.begin(), tokens.begin() + static_cast<std::ptrdiff_t>(known[request] + i)));
        }
    }
    REQUIRE(bench.engine.violations() == 0);
}

namespace {

/// So many tokens may come at once.
worker::WorkerOptions with_runs(std::uint32_t most = 32) {
    worker::WorkerOptions limits;
    limits.forced_tokens_max = most;
    return limits;
}

worker::StartRequest forcing(std::uint64_t request, const std::vector<TokenId>& prompt, std::uint32_t length) {
    auto start = make_start(request, prompt, length);
    start.grammar = ForcingGrammars::of(prompt);
    return start;
}

}  // namespace

TEST_CASE("what a grammar leaves no choice about comes in one step, whoever shares it", "[worker][property]") {
    const auto seed = GENERATE(range(0u, 30u));
    CAPTURE(seed);
    Random random{seed};
    worker::WorkerOptions limits = with_runs();
    limits.batch_sequences_max = 1 + random() % 8;
    limits.batch_tokens_max = 1 + random() % 80;
    limits.chunk_tokens_max = 1 + random() % 80;
    LedgerEngine::Options engine_options;
    engine_options.layers = 2;
    engine_options.blocks_total = 12 + random() % 20;  // small: preemptions happen
    ForcingGrammars grammars;
    Bench bench(engine_options, limits, &grammars);
    std::map<std::uint64_t, std::vector<TokenId>> expected;
    std::size_t outputs = 0;  // of sequences with a grammar
    const auto turn = [&bench, overlaps = seed % 2 == 0] {
        return overlaps ? bench.driver.overlapped_turn() : bench.driver.turn();
    };
    for (std::uint64_t request = 1; request <= 8; ++request) {
        const std::vector<TokenId> prompt = random_prompt(random, 1 + random() % 70);
        const std::uint32_t length = 2 + random() % 60;
        auto start = make_start(request, prompt, length);
        ForcingGrammars::Answer answer{ledger_continuation(prompt, length, 1000), {0}};
        if (request % 4 != 0) {
            start = forcing(request, prompt, length);
            answer = ForcingGrammars::answer(prompt, length);
        }
        // It goes on here, from where another worker had told what it made.
        const std::size_t at = random() % 2 == 0 ? 0 : random() % answer.outputs.size();
        const auto begin = answer.tokens.begin() + static_cast<std::ptrdiff_t>(answer.outputs[at]);
        start.generated.assign(answer.tokens.begin(), begin);
        expected[request].assign(begin, answer.tokens.end());
        if (start.grammar) { outputs += answer.outputs.size() - at; }
        REQUIRE(bench.loop.post_command(std::move(start)));
        turn();
    }
    for (int turns = 0; turn(); ++turns) {
        REQUIRE(turns < 100'000);
    }
    for (const auto& [request, tokens] : expected) {
        CAPTURE(request);
        const auto& told = bench.sink.answers.at({RequestId{request}, Epoch{0}});
        REQUIRE(told.tokens == tokens);
        REQUIRE(told.finals == 1);
        REQUIRE(told.finish == worker::Finish::length);
    }
    REQUIRE(grammars.masks() == outputs);  // one for each output
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("a run ends where its answer ends: at a stop token, at the most tokens", "[worker]") {
    const std::vector<TokenId> prompt = {1, 2, 3, 4, 5};
    const auto answer = ForcingGrammars::answer(prompt, 200);
    // The longest run, and a token in its middle that has not come before.
    std::size_t run = 0;
    for (std::size_t i = 0; i + 1 < answer.outputs.size(); ++i) {
        const auto length = [&](std::size_t at) { return answer.outputs[at + 1] - answer.outputs[at]; };
        if (length(i) > length(run)) { run = i; }
    }
    const auto middle = static_cast<std::uint32_t>((answer.outputs[run] + answer.outputs[run + 1]) / 2);
    REQUIRE(middle > answer.outputs[run]);
    const auto first = std::find(answer.tokens.begin(), answer.tokens.end(), answer.tokens[middle]);
    REQUIRE(first == answer.tokens.begin() + middle);

    const bool stops = GENERATE(true, false);
    ForcingGrammars grammars;
    Bench bench({}, with_runs(), &grammars);
    auto start = forcing(1, prompt, stops ? 200 : middle + 1);
    if (stops) { start.stop.stop_tokens = {answer.tokens[middle]}; }
    REQUIRE(bench.loop.post_command(std::move(start)));
    bench.settle();
    const auto& told = bench.sink.answers.at({RequestId{1}, Epoch{0}});
    REQUIRE(told.tokens == std::vector<TokenId>(answer.tokens.begin(), answer.tokens.begin() + middle + 1));
    REQUIRE(told.finish == (stops ? worker::Finish::stop : worker::Finish::length));
    REQUIRE(told.finals == 1);
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("a sequence may be cancelled while a run of its tokens is still to be computed", "[worker]") {
    const std::vector<TokenId> prompt = {1, 2, 3, 4, 5};
    ForcingGrammars grammars;
    worker::WorkerOptions limits = with_runs();
    limits.batch_tokens_max = 2;  // a run takes several steps
    Bench bench({}, limits, &grammars);
    REQUIRE(bench.loop.post_command(forcing(1, prompt, 200)));
    const RequestKey key{RequestId{1}, Epoch{0}};
    while (bench.sink.answers[key].tokens.size() < 6) {  // the first output has a run of five
        REQUIRE(bench.driver.overlapped_turn());
    }
    REQUIRE(bench.sink.answers[key].tokens.size() == 6);
    REQUIRE(bench.loop.post_command(worker::CancelRequest{key, test_support::kGateway, "client_gone"}));
    while (bench.driver.overlapped_turn()) {}
    REQUIRE(bench.sink.answers[key].tokens.size() == 6);
    REQUIRE(bench.sink.answers[key].finish == worker::Finish::cancelled);
    REQUIRE(bench.sink.answers[key].finals == 1);
    REQUIRE(bench.cache.counts().used == 0);
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("every token has its step where probabilities are asked for, and where nothing is to be forced", "[worker]") {
    const std::vector<TokenId> prompt = {1, 2, 3, 4, 5};
    const bool scores = GENERATE(true, false);
    ForcingGrammars grammars;
    Bench bench({}, with_runs(scores ? 32 : 0), &grammars);
    auto start = forcing(1, prompt, 30);
    start.sampling.logprobs = scores;
    REQUIRE(bench.loop.post_command(std::move(start)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).tokens == ledger_continuation(prompt, 30, 1000));
    REQUIRE(grammars.masks() == 30);
}

TEST_CASE("a worker without grammars refuses who needs one", "[worker]") {
    Bench bench;
    REQUIRE(bench.loop.post_command(with_grammar(make_start(1, {1, 2, 3}, 4), "a")));
    bench.settle();
    const auto& answer = bench.sink.answers.at({RequestId{1}, Epoch{0}});
    REQUIRE(answer.error->code == base::ErrorCode::unimplemented);
}
