#include "engine/warm_up.h"

#include <algorithm>
#include <set>
#include <utility>

#include "tests/engine/support.h"
#include "tests/support/ledger_engine.h"

#include "tests/support/catch.h"

namespace {

/// Notes the size of each step: sequences, and tokens of all.
class SizesEngine final : public engine::Engine {
public:
    explicit SizesEngine(engine::Engine& inner) : inner_(inner) {}
    const base::ModelShape& shape() const override { return inner_.shape(); }
    const kv_cache::KvLayout& layout() const override { return inner_.layout(); }
    kv_cache::KvStore& kv_store() override { return inner_.kv_store(); }
    std::uint32_t blocks_total() const override { return inner_.blocks_total(); }
    engine::NumericsId numerics_id() const override { return inner_.numerics_id(); }
    std::string describe() const override { return inner_.describe(); }
    engine::Ticket launch(engine::Batch batch, engine::LayersDone layers_done, engine::StepDone done) override {
        std::size_t tokens = 0;
        for (const engine::BatchEntry& entry : batch.entries()) {
            tokens += entry.tokens.size();
        }
        sizes.emplace_back(batch.entries().size(), tokens);
        return inner_.launch(std::move(batch), std::move(layers_done), std::move(done));
    }
    bool ready(engine::Ticket ticket) const override { return inner_.ready(ticket); }
    base::Result<engine::StepResult> collect(engine::Ticket ticket, base::TimePoint deadline,
                                             const std::stop_token& stop) override {
        return inner_.collect(ticket, deadline, stop);
    }
    base::Result<void> truncate(base::SequenceId sequence, std::uint32_t tokens) override {
        return inner_.truncate(sequence, tokens);
    }

    std::vector<std::pair<std::size_t, std::size_t>> sizes;

private:
    engine::Engine& inner_;
};

}  // namespace

TEST_CASE("warming up runs chunks of every power of two, and two steps of every batch that may be recorded",
          "[engine]") {
    test_support::LedgerEngine ledger({.blocks_total = 40});
    SizesEngine engine(ledger);
    REQUIRE(engine::warm_up(engine, 300, 30));
    const std::vector<std::pair<std::size_t, std::size_t>> expected = {
        {1, 16}, {1, 32}, {1, 64},  {1, 128}, {1, 256}, {1, 300}, {1, 1},   {1, 1},  {2, 2}, {2, 2},
        {3, 3},  {3, 3},  {4, 4},   {4, 4},   {5, 5},   {5, 5},   {6, 6},   {6, 6},  {7, 7}, {7, 7},
        {8, 8},  {8, 8},  {16, 16}, {16, 16}, {24, 24}, {24, 24}, {30, 30}, {30, 30}};
    REQUIRE(engine.sizes == expected);
    REQUIRE(ledger.violations() == 0);
}

TEST_CASE("warming up stays within the pool and the context", "[engine]") {
    test_support::LedgerEngine ledger({.context_tokens = 100, .blocks_total = 5});
    SizesEngine engine(ledger);
    REQUIRE(engine::warm_up(engine, 4096, 64));
    for (const auto& [sequences, tokens] : engine.sizes) {
        REQUIRE(sequences <= 5);
        REQUIRE(tokens <= 80);  // five blocks of 16
    }
    REQUIRE(engine.sizes.back() == std::pair<std::size_t, std::size_t>{5, 5});
    REQUIRE(ledger.violations() == 0);
}

TEST_CASE("warming up says what fails", "[engine]") {
    test_support::LedgerEngine ledger({});
    ledger.is_broken = true;
    const auto warm = engine::warm_up(ledger, 64, 4);
    REQUIRE(!warm);
    REQUIRE(warm.error().code == base::ErrorCode::internal);
}

TEST_CASE("an engine gives the same tokens after warming up", "[engine]") {
    const test_engine::TemporaryFolder model;
    const test_engine::TemporaryFolder packed;
    test_engine::write_random_model(model.path().string(), test_engine::small_shape(), "F32");
    const auto options = test_engine::options_for(model.path().string(), packed.path().string());
    std::mt19937 random{1};
    test_engine::Stream expected;
    expected.prompt = test_engine::random_tokens(random, 50, 250);
    expected.blocks = test_engine::block_run(0, 6);
    test_engine::Stream got = expected;
    const auto generate = [](engine::Engine& engine, test_engine::Stream& stream) {
        REQUIRE(test_engine::run_step(engine, {{&stream, 50}}));
        for (int i = 0; i < 20; ++i) {
            REQUIRE(test_engine::run_step(engine, {{&stream, 1}}));
        }
    };
    generate(*test_engine::load(options), expected);
    const auto engine = test_engine::load(options);
    REQUIRE(engine::warm_up(*engine, options.batch_tokens_max, options.batch_sequences_max));
    generate(*engine, got);
    REQUIRE(got.generated == expected.generated);
}

TEST_CASE("a model is tried before it is served, with tokens from all over its vocabulary", "[engine]") {
    test_engine::TemporaryFolder folder;
    const std::string model = folder.file("model");
    auto options = test_engine::options_for(model, folder.path().string());
    test_engine::write_random_model(model, test_engine::small_shape(), "F32");
    REQUIRE(engine::try_model(*test_engine::load(options), 8));
    REQUIRE(engine::try_model(*test_engine::load(options), 1));

    // Weights that may be loaded one by one, and whose products are infinite.
    auto tensors = engine::random_tensors(test_engine::small_shape(), "F32", 1);
    for (auto& tensor : tensors) {
        if (tensor.name.find(".mlp.") == std::string::npos &&
            !tensor.name.ends_with("post_attention_layernorm.weight")) {
            continue;
        }
        tensor.fill = [](std::uint64_t, std::span<float> values) { std::fill(values.begin(), values.end(), 9e7f); };
    }
    REQUIRE(engine::write_checkpoint(model, test_engine::small_shape(), tensors, 1u << 30));
    const auto tried = engine::try_model(*test_engine::load(options), 8);
    REQUIRE_FALSE(tried);
    CHECK(tried.error().code == base::ErrorCode::data_loss);
    CHECK(tried.error().message.find("the model computes no numbers") == 0);
}
