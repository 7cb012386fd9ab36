// The step loop over an encoder: texts in, vectors out, no KV.
#include <algorithm>
#include <map>
#include <optional>
#include <span>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#include "engine/engine.h"
#include "kv_cache/kv_cache.h"
#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"
#include "tests/support/step_bench.h"
#include "worker/plan_batch.h"
#include "worker/step_loop.h"

namespace {

using base::Epoch;
using base::ErrorCode;
using base::RequestId;
using base::TokenId;
using test_support::kGateway;
using worker::Finish;
using worker::Part;
using worker::RequestKey;

constexpr std::uint32_t kLongest = 64;
constexpr std::uint32_t kVocabulary = 1000;

/// What a text's vector is here: a function of its tokens.
std::vector<float> vector_of(const std::vector<TokenId>& tokens) {
    float sum = 0;
    for (const TokenId token : tokens) {
        sum = sum * 0.5f + static_cast<float>(token);
    }
    return {sum, static_cast<float>(tokens.size())};
}

/// An engine without KV that checks what it is given and keeps books of its steps.
class VectorEngine final : public engine::Engine {
public:
    VectorEngine() {
        shape_.architecture = "Vectors";
        shape_.hidden = 2;
        shape_.vocabulary = kVocabulary;
        shape_.context_tokens = kLongest;
    }
    const base::ModelShape& shape() const override { return shape_; }
    const kv_cache::KvLayout& layout() const override { throw std::logic_error("an encoder has no KV"); }
    kv_cache::KvStore& kv_store() override { throw std::logic_error("an encoder has no KV"); }
    std::uint32_t blocks_total() const override { return 0; }
    engine::NumericsId numerics_id() const override { return engine::NumericsId{1}; }
    std::string describe() const override { return "vectors"; }
    engine::Ticket launch(engine::Batch batch, engine::LayersDone, engine::StepDone done) override {
        engine::StepResult result;
        std::size_t tokens = 0;
        for (const engine::BatchEntry& entry : batch.entries()) {
            REQUIRE(entry.position == 0);
            REQUIRE(entry.pooling == engine::Pooling::own);
            REQUIRE_FALSE(entry.sample);
            tokens += entry.tokens.size();
            engine::EntryResult& row = result.entries.emplace_back();
            row.sequence = entry.sequence;
            row.pooled = vector_of(entry.tokens);
        }
        steps.push_back({batch.entries().size(), tokens});
        result.batch = std::move(batch);
        result_ = std::move(result);
        if (done) { done(); }
        return engine::Ticket{steps.size()};
    }
    bool ready(engine::Ticket) const override { return true; }
    base::Result<engine::StepResult> collect(engine::Ticket, base::TimePoint, const std::stop_token&) override {
        return std::move(*result_);
    }
    base::Result<void> truncate(base::SequenceId, std::uint32_t) override { return {}; }

    struct Step {
        std::size_t texts = 0;
        std::size_t tokens = 0;
    };
    std::vector<Step> steps;

private:
    base::ModelShape shape_;
    std::optional<engine::StepResult> result_;
};

/// What the loop told of each text.
class Vectors final : public worker::OutputSink {
public:
    void deliver(worker::GatewayId, std::vector<worker::SequenceOutput> outputs) override {
        for (worker::SequenceOutput& output : outputs) {
            REQUIRE(output.finish != Finish::none);
            REQUIRE(answers.emplace(output.key, std::move(output)).second);
        }
    }
    const worker::SequenceOutput& of(std::uint64_t request) const { return answers.at({RequestId{request}, Epoch{0}}); }
    std::map<RequestKey, worker::SequenceOutput> answers;
};

struct Bench {
    explicit Bench(worker::WorkerOptions limits = {})
        : loop(options(limits), engine, cache, sink, board, clock, metrics) {
        loop.attach(Part::encode, &part);
    }
    static worker::StepLoop::Options options(worker::WorkerOptions limits) {
        return {.limits = limits,
                .hash_key = {},
                .model = "vectors",
                .worker = "encode-0",
                .role = worker::Role::encode,
                .device_lost = {}};
    }
    void post(std::uint64_t request, std::vector<TokenId> text) {
        worker::StartRequest start;
        start.key = {RequestId{request}, Epoch{0}};
        start.gateway = kGateway;
        start.part = Part::encode;
        start.prompt = std::move(text);
        REQUIRE(loop.post_command(std::move(start)));
    }
    void settle() {
        while (driver.turn()) {}
    }

    base::FakeClock clock;
    base::Metrics metrics;
    VectorEngine engine;
    kv_cache::KvCache cache{{.blocks_total = 0, .block_tokens = 16}};
    Vectors sink;
    worker::ReportBoard board;
    worker::RolePart part;
    worker::StepLoop loop;
    test_support::StepDriver driver{loop};
};

}  // namespace

TEST_CASE("texts go through one step together, and each gets its vector and one final answer", "[worker][encode]") {
    Bench bench;
    bench.post(1, {1, 2, 3});
    bench.post(2, {7});
    bench.post(3, {5, 6});
    bench.settle();
    REQUIRE(bench.engine.steps.size() == 1);
    REQUIRE(bench.engine.steps[0].texts == 3);
    REQUIRE(bench.engine.steps[0].tokens == 6);
    REQUIRE(bench.sink.answers.size() == 3);
    REQUIRE(bench.sink.of(1).finish == Finish::stop);
    REQUIRE(bench.sink.of(1).vector == vector_of({1, 2, 3}));
    REQUIRE(bench.sink.of(2).vector == vector_of({7}));
    REQUIRE(bench.sink.of(3).vector == vector_of({5, 6}));
    REQUIRE(bench.loop.idle());
    const std::string text = bench.metrics.text();
    REQUIRE(text.find("sluice_worker_prompt_tokens_total{model=\"vectors\"} 6") != std::string::npos);
    REQUIRE(text.find("sluice_worker_step_duration_seconds_count{phase=\"encode\"} 1") != std::string::npos);
}

TEST_CASE("steps of an encoder keep to the bounds, and every text comes whole, whatever arrives meanwhile",
          "[worker][encode][property]") {
    const auto seed = GENERATE(range(0u, 40u));
    CAPTURE(seed);
    test_support::Random random{seed};
    worker::WorkerOptions limits;
    limits.batch_sequences_max = 1 + random() % 6;
    limits.batch_tokens_max = kLongest + random() % 60;
    Bench bench(limits);
    std::map<std::uint64_t, std::vector<TokenId>> texts;
    std::vector<std::uint64_t> cancelled;
    const bool overlapped = random() % 2 == 0;
    for (std::uint64_t request = 1; request <= 40; ++request) {
        std::vector<TokenId> text(1 + random() % kLongest);
        for (TokenId& token : text) {
            token = static_cast<TokenId>(random() % kVocabulary);
        }
        texts[request] = text;
        const auto post = [&] {
            bench.post(request, text);
            if (random() % 8 != 0) { return; }
            const std::uint64_t victim = 1 + random() % request;
            cancelled.push_back(victim);
            REQUIRE(
                bench.loop.post_command(worker::CancelRequest{{RequestId{victim}, Epoch{0}}, kGateway, "client_gone"}));
        };
        bool is_posted = false;
        if (overlapped) {
            bench.driver.overlapped_turn([&] {
                post();
                is_posted = true;
            });
        }
        if (!is_posted) { post(); }
        for (auto turns = random() % 3; turns > 0; --turns) {
            overlapped ? bench.driver.overlapped_turn() : bench.driver.turn();
        }
    }
    if (overlapped) {
        while (bench.driver.overlapped_turn()) {}
    }
    bench.settle();
    for (const auto& step : bench.engine.steps) {
        REQUIRE(step.texts <= limits.batch_sequences_max);
        REQUIRE(step.tokens <= limits.batch_tokens_max);
    }
    REQUIRE(bench.sink.answers.size() == texts.size());
    for (const auto& [request, answer] : bench.sink.answers) {
        CAPTURE(base::raw(request.request));
        const bool may_be_cancelled =
            std::find(cancelled.begin(), cancelled.end(), base::raw(request.request)) != cancelled.end();
        REQUIRE((answer.finish == Finish::stop || (may_be_cancelled && answer.finish == Finish::cancelled)));
        if (answer.finish == Finish::stop) {
            REQUIRE(answer.vector == vector_of(texts.at(base::raw(request.request))));
        }
    }
    REQUIRE(bench.loop.idle());
}

TEST_CASE("what an encoder cannot take is refused with the numbers", "[worker][encode]") {
    Bench bench;
    bench.post(1, std::vector<TokenId>(kLongest + 1, 1));
    bench.post(2, {});
    bench.post(3, {static_cast<TokenId>(kVocabulary)});
    bench.post(4, std::vector<TokenId>(kLongest, 1));
    worker::StartRequest whole = test_support::make_start(5, {1}, 1);
    REQUIRE(bench.loop.post_command(std::move(whole)));
    bench.settle();
    const auto message = [&](std::uint64_t request) { return bench.sink.of(request).error->message; };
    REQUIRE(message(1).find("65 tokens") != std::string::npos);
    REQUIRE(message(1).find("64") != std::string::npos);
    REQUIRE(bench.sink.of(1).error->code == ErrorCode::invalid_argument);
    REQUIRE(message(2).find("no tokens") != std::string::npos);
    REQUIRE(message(3).find("token id 1000") != std::string::npos);
    REQUIRE(bench.sink.of(4).finish == Finish::stop);
    REQUIRE(bench.sink.of(5).error->code == ErrorCode::failed_precondition);
    bench.loop.begin_drain();
    bench.post(6, {1});
    bench.settle();
    REQUIRE(bench.sink.of(6).error->code == ErrorCode::unavailable);
}

TEST_CASE("deadlines and gateways that go end texts as they end sequences", "[worker][encode]") {
    Bench bench;
    worker::StartRequest late;
    late.key = {RequestId{1}, Epoch{0}};
    late.gateway = kGateway;
    late.part = Part::encode;
    late.prompt = {1, 2};
    late.deadline = bench.clock.now();
    REQUIRE(bench.loop.post_command(std::move(late)));
    bench.post(2, {3});
    bench.loop.work();
    const auto ticket = bench.loop.begin_step();
    REQUIRE(ticket);
    bench.loop.settle();
    REQUIRE(bench.sink.of(1).error->code == ErrorCode::deadline_exceeded);
    REQUIRE(bench.loop.post_command(worker::GatewayGone{kGateway}));
    bench.loop.work();
    bench.driver.collect(*ticket);
    bench.loop.settle();
    REQUIRE(bench.sink.answers.size() == 1);  // nobody waits for the other
    REQUIRE(bench.loop.idle());
}

TEST_CASE("a step of texts takes them whole and in order, and lets shorter ones fill it", "[worker][encode]") {
    using Plan = std::vector<worker::PlanEntry>;
    const std::vector<worker::PlanCandidate> texts{{30}, {50}, {40}, {10}, {1}};
    REQUIRE(worker::plan_texts(texts, {.sequences_max = 8, .tokens_max = 80}) == Plan{{0, 30}, {1, 50}});
    REQUIRE(worker::plan_texts(texts, {.sequences_max = 8, .tokens_max = 75}) == Plan{{0, 30}, {2, 40}, {4, 1}});
    REQUIRE(worker::plan_texts(texts, {.sequences_max = 2, .tokens_max = 75}) == Plan{{0, 30}, {2, 40}});
    REQUIRE(worker::plan_texts(std::span(texts).subspan(1), {.sequences_max = 8, .tokens_max = 50}) == Plan{{0, 50}});
    REQUIRE(worker::plan_texts({}, {.sequences_max = 8, .tokens_max = 50}).empty());
}
