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
#include "tests/support/ledger_engine.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"

using base::Epoch;
using base::RequestId;
using base::TokenId;
using test_support::ledger_continuation;
using test_support::LedgerEngine;
using test_support::make_start;
using test_support::Random;
using test_support::random_prompt;
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

TEST_CASE("a worker without grammars refuses who needs one", "[worker]") {
    Bench bench;
    REQUIRE(bench.loop.post_command(with_grammar(make_start(1, {1, 2, 3}, 4), "a")));
    bench.settle();
    const auto& answer = bench.sink.answers.at({RequestId{1}, Epoch{0}});
    REQUIRE(answer.error->code == base::ErrorCode::unimplemented);
}
