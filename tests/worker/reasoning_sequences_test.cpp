#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/reasoning.h"
#include "engine/grammars.h"
#include "worker/step_loop.h"

#include "tests/support/catch.h"
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::ledger_next;
using test_support::LedgerEngine;
using test_support::make_start;
using test_support::Random;
using test_support::random_prompt;
using Bench = test_support::StepBench;

namespace {

constexpr std::uint32_t kVocabulary = 1000;
constexpr TokenId kBegin = 998;
constexpr TokenId kEnd = 999;

/// What the engine gives where budgets count: its own next token, or the closing one when the budget is spent.
std::vector<TokenId> expected_answer(std::vector<TokenId> prompt, std::uint32_t length,
                                     const base::ReasoningRule& rule) {
    std::vector<TokenId> answer;
    while (answer.size() < length) {
        base::ReasoningState state(rule);
        state.follow(answer);
        answer.push_back(state.forced().value_or(ledger_next(prompt, kVocabulary)));
        prompt.push_back(answer.back());
    }
    return answer;
}

/// Allows all but the tokens of reasoning; keeps what it was asked.
class PlainGrammars final : public engine::Grammars {
public:
    struct Asked {
        std::vector<TokenId> generated;
        std::optional<TokenId> also;
    };
    std::unique_ptr<engine::GrammarSequence> begin(const engine::GrammarSpec&, std::function<void()>) override {
        return std::make_unique<Sequence>(*this);
    }
    std::vector<Asked> asked;

private:
    class Sequence final : public engine::GrammarSequence {
    public:
        explicit Sequence(PlainGrammars& of) : of_(of) {}
        bool is_ready() const override { return true; }
        std::shared_ptr<const engine::LateMask> next(std::span<const TokenId> generated,
                                                     std::optional<TokenId> also) override {
            of_.asked.push_back({{generated.begin(), generated.end()}, also});
            auto mask = std::make_shared<engine::LateMask>(kVocabulary);
            mask->set(std::vector<std::uint32_t>((kVocabulary + 31) / 32, ~0U));
            return mask;
        }
        std::vector<TokenId> take_forced() override { return {}; }

    private:
        PlainGrammars& of_;
    };
};

}  // namespace

TEST_CASE("a budget closes the reasoning after so many tokens, wherever the answer was begun", "[worker][property]") {
    const auto seed = GENERATE(range(0u, 20u));
    CAPTURE(seed);
    Random random{seed};
    worker::WorkerOptions limits;
    limits.batch_sequences_max = 1 + random() % 8;
    limits.batch_tokens_max = 1 + random() % 80;
    LedgerEngine::Options engine_options;
    engine_options.layers = 2;
    engine_options.blocks_total = 12 + random() % 20;  // small: preemptions happen
    Bench bench(engine_options, limits);
    std::map<std::uint64_t, std::vector<TokenId>> expected;
    for (std::uint64_t request = 1; request <= 8; ++request) {
        const std::vector<TokenId> prompt = random_prompt(random, 1 + random() % 70);
        const std::uint32_t length = 2 + random() % 40;
        const base::ReasoningRule rule{
            .begin = kBegin, .end = kEnd, .is_begun = random() % 4 != 0, .tokens_max = random() % 30};
        const auto answer = expected_answer(prompt, length, rule);
        const std::size_t known = random() % length;  // were generated elsewhere
        auto start = make_start(request, prompt, length);
        start.reasoning = rule;
        start.generated.assign(answer.begin(), answer.begin() + static_cast<std::ptrdiff_t>(known));
        expected[request].assign(answer.begin() + static_cast<std::ptrdiff_t>(known), answer.end());
        REQUIRE(bench.loop.post_command(std::move(start)));
    }
    bench.settle();
    for (const auto& [request, tokens] : expected) {
        CAPTURE(request);
        REQUIRE(bench.sink.answers.at({RequestId{request}, Epoch{0}}).tokens == tokens);
    }
    REQUIRE(bench.engine.violations() == 0);
}

TEST_CASE("with reasoning a grammar is about what follows it", "[worker]") {
    PlainGrammars grammars;
    Bench bench({}, {}, &grammars);
    auto start = make_start(1, {1, 2, 3}, 6);
    start.grammar = engine::GrammarSpec{engine::GrammarKind::lark, "a"};
    SECTION("that the prompt has opened") {
        start.reasoning = base::ReasoningRule{.begin = kBegin, .end = kEnd, .is_begun = true, .tokens_max = 2};
        REQUIRE(bench.loop.post_command(std::move(start)));
        bench.settle();
        const auto& tokens = bench.sink.answers.at({RequestId{1}, Epoch{0}}).tokens;
        REQUIRE(tokens.size() == 6);
        REQUIRE(tokens[2] == kEnd);
        REQUIRE(grammars.asked.size() == 3);
        for (std::size_t i = 0; i < 3; ++i) {
            const auto first = tokens.begin() + 3;
            REQUIRE(grammars.asked[i].generated == std::vector<TokenId>(first, first + static_cast<std::ptrdiff_t>(i)));
            REQUIRE_FALSE(grammars.asked[i].also);
        }
    }
    SECTION("that the answer may open, and does not") {
        start.reasoning = base::ReasoningRule{.begin = kBegin, .end = kEnd};
        REQUIRE(bench.loop.post_command(std::move(start)));
        bench.settle();
        const auto& tokens = bench.sink.answers.at({RequestId{1}, Epoch{0}}).tokens;
        REQUIRE(grammars.asked.size() == 6);
        REQUIRE(grammars.asked[0].also == kBegin);
        REQUIRE_FALSE(grammars.asked[1].also);
        REQUIRE(grammars.asked[5].generated == std::vector<TokenId>(tokens.begin(), tokens.begin() + 5));
    }
    SECTION("and no stop token ends it before") {
        start.reasoning = base::ReasoningRule{.begin = kBegin, .end = kEnd, .is_begun = true, .tokens_max = 3};
        const std::vector<TokenId> prompt = {1, 2, 3};
        start.stop.stop_tokens = {ledger_next(prompt, kVocabulary)};  // what the engine gives first
        REQUIRE(bench.loop.post_command(std::move(start)));
        bench.settle();
        const auto& tokens = bench.sink.answers.at({RequestId{1}, Epoch{0}}).tokens;
        REQUIRE(tokens.size() >= 4);
        REQUIRE(tokens[3] == kEnd);
    }
}

TEST_CASE("a rule whose tokens the model does not have is refused", "[worker]") {
    Bench bench;
    auto start = make_start(1, {1, 2, 3}, 4);
    start.reasoning = base::ReasoningRule{.begin = 1, .end = 1000, .is_begun = true};
    REQUIRE(bench.loop.post_command(std::move(start)));
    bench.settle();
    REQUIRE(bench.sink.answers.at({RequestId{1}, Epoch{0}}).error->code == base::ErrorCode::invalid_argument);
}
