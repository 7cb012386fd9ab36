#include "engine/engine.h"

#include <chrono>
#include <condition_variable>
#include <cstring>
#include <fstream>
#include <limits>
#include <mutex>
#include <stop_token>
#include <string>
#include <vector>

#include "engine/model/checkpoint_writer.h"
#include "tests/engine/support.h"
#include "tests/kv_cache/support.h"
#include "tests/support/catch.h"

namespace {

using test_engine::block_run;
using test_engine::run_step;
using test_engine::Stream;

struct Setting {
    test_engine::TemporaryFolder folder;
    engine::EngineOptions options = test_engine::options_for(folder.file("model"), folder.file("packed"));

    explicit Setting(const std::string& dtype = "F32", const base::ModelShape& shape = test_engine::small_shape()) {
        test_engine::write_random_model(options.model_dir, shape, dtype);
    }
    std::string refused() const {
        const auto engine = engine::load_engine(options);
        return engine ? std::string("loaded") : engine.error().message;
    }
};

bool contains(const std::string& text, const std::string& part) {
    INFO(text);
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("an engine says what it is", "[engine]") {
    Setting setting;
    setting.options.kernels = "reference";
    const auto engine = test_engine::load(setting.options);
    REQUIRE(engine->shape() == test_engine::small_shape());
    REQUIRE(engine->blocks_total() == setting.options.kv_pool_bytes / engine->layout().block_bytes());
    REQUIRE(engine->layout().format().dtype == kv_cache::KvDtype::f32);
    REQUIRE(contains(engine->describe(), "reference"));
    REQUIRE(contains(engine->describe(), ".weights"));
}

TEST_CASE("formats follow the checkpoint unless they are set", "[engine]") {
    const auto dtype_of = [](const std::string& stored, const std::string& weights, const std::string& kv) {
        Setting setting(stored);
        setting.options.weight_format = weights;
        setting.options.kv_dtype = kv;
        const auto engine = test_engine::load(setting.options);
        return std::pair(contains(engine->describe(), "bf16 weights") ? "bf16" : "f32",
                         engine->layout().format().dtype == kv_cache::KvDtype::bf16 ? "bf16" : "f32");
    };
    using Pair = std::pair<std::string, std::string>;
    REQUIRE(Pair(dtype_of("BF16", "auto", "auto")) == Pair("bf16", "bf16"));
    REQUIRE(Pair(dtype_of("F32", "auto", "auto")) == Pair("f32", "f32"));
    REQUIRE(Pair(dtype_of("F16", "auto", "auto")) == Pair("f32", "f32"));
    REQUIRE(Pair(dtype_of("F32", "bf16", "f32")) == Pair("bf16", "f32"));
    REQUIRE(Pair(dtype_of("BF16", "f32", "auto")) == Pair("f32", "f32"));
}

TEST_CASE("options that cannot work are refused by name", "[engine]") {
    Setting setting;
    auto& options = setting.options;
    SECTION("weight_format") {
        options.weight_format = "int8";
        REQUIRE(contains(setting.refused(), "weight_format is 'int8'"));
    }
    SECTION("FP8 weights on a processor") {
        const std::string kernels = test_engine::families_here().back();
        options.kernels = kernels;
        options.weight_format = "fp8";
        REQUIRE(contains(setting.refused(), "'fp8', which the " + kernels + " kernels do not have: set it to auto"));
    }
    SECTION("kv_dtype") {
        options.kv_dtype = "fp8";
        REQUIRE(contains(setting.refused(), "kv_dtype is 'fp8'"));
    }
    SECTION("prefill_attention") {
        options.prefill_attention = "magic";
        REQUIRE(contains(setting.refused(), "prefill_attention is 'magic'"));
        options.prefill_attention = "wgmma";
        options.device = "host";
        REQUIRE(contains(setting.refused(), "the host has not"));
    }
    SECTION("dependent_launch") {
        options.dependent_launch = true;
        options.device = "host";
        REQUIRE(contains(setting.refused(), "dependent_launch is true"));
    }
    SECTION("kernels") {
        options.kernels = "magic";
        REQUIRE(contains(setting.refused(), "magic"));
    }
    SECTION("kv_pool_bytes") {
        options.kv_pool_bytes = 100;
        REQUIRE(contains(setting.refused(), "kv_pool_bytes is 100"));
    }
    SECTION("gpu_memory_share") {
        options.gpu_memory_share = 1.5;
        REQUIRE(contains(setting.refused(), "gpu_memory_share is 1.5"));
    }
    SECTION("batch_tokens_max") {
        options.batch_tokens_max = 0;
        REQUIRE(contains(setting.refused(), "batch_tokens_max is 0"));
    }
    SECTION("batch_sequences_max") {
        options.batch_sequences_max = 1000;
        REQUIRE(contains(setting.refused(), "batch_sequences_max is 1000"));
    }
    SECTION("threads") {
        options.threads = 0;
        REQUIRE(contains(setting.refused(), "threads is 0"));
    }
    SECTION("shard") {
        options.shard.ranks = 2;
        REQUIRE(contains(setting.refused(), "shard 0 of 2"));
    }
    SECTION("model_dir") {
        options.model_dir = "/nonexistent-folder";
        REQUIRE(contains(setting.refused(), "/nonexistent-folder/config.json"));
    }
    SECTION("packed_dir") {
        options.packed_dir = options.model_dir + "/config.json";
        REQUIRE(contains(setting.refused(), "config.json"));
    }
    SECTION("a truncated checkpoint") {
        const std::string path = options.model_dir + "/model.safetensors";
        std::filesystem::resize_file(path, std::filesystem::file_size(path) - 1);
        REQUIRE(contains(setting.refused(), "model.safetensors"));
    }
}

TEST_CASE("numerics_id follows weights, formats, config and kernels, and nothing else", "[engine]") {
    const auto id_of = [](const Setting& setting) { return test_engine::load(setting.options)->numerics_id(); };
    Setting setting;
    setting.options.kernels = "reference";
    const engine::NumericsId id = id_of(setting);
    SECTION("the same anywhere, with any threads, batches and pools") {
        Setting elsewhere;
        elsewhere.options.kernels = "reference";
        elsewhere.options.threads = 2;
        elsewhere.options.batch_tokens_max = 64;
        elsewhere.options.kv_pool_bytes *= 2;
        REQUIRE(id_of(elsewhere) == id);
        return;
    }
    SECTION("weight format") {
        setting.options.weight_format = "bf16";
    }
    SECTION("KV format") {
        setting.options.kv_dtype = "bf16";
    }
    SECTION("weights") {
        test_engine::write_random_model(setting.options.model_dir, test_engine::small_shape(), "F32", 2);
    }
    SECTION("config") {
        auto shape = test_engine::small_shape();
        shape.rope_theta = 5000.0;
        test_engine::write_random_model(setting.options.model_dir, shape, "F32");
    }
    SECTION("kernels") {
        if (test_engine::families_here().size() == 1) { return; }
        setting.options.kernels = test_engine::families_here().back();
    }
    REQUIRE(id_of(setting) != id);
}

TEST_CASE("layers are announced in ascending groups, each once", "[engine]") {
    Setting setting;
    setting.options.layer_group = GENERATE(0u, 1u, 2u, 3u, 7u);
    const auto engine = test_engine::load(setting.options);
    Stream stream;
    stream.prompt = {1, 2, 3};
    stream.blocks = block_run(0, 2);
    std::vector<std::pair<std::uint32_t, std::uint32_t>> seen;
    REQUIRE(run_step(*engine, {{&stream, 3}}, false,
                     [&](std::uint32_t begin, std::uint32_t end) { seen.emplace_back(begin, end); }));
    REQUIRE_FALSE(seen.empty());
    REQUIRE(seen.front().first == 0);
    REQUIRE(seen.back().second == 3);
    for (std::size_t i = 1; i < seen.size(); ++i) {
        REQUIRE(seen[i].first == seen[i - 1].second);
    }
    if (setting.options.layer_group == 2) { REQUIRE(seen.size() == 2); }
}

TEST_CASE("a score is the log-probability of the next token of the prompt", "[engine]") {
    Setting setting;
    setting.options.batch_sequences_max = 2;  // rows of logits at a time: scores of 10 tokens come in slabs
    const auto engine = test_engine::load(setting.options);
    const std::vector<base::TokenId> tokens{5, 9, 13, 2, 200, 7, 7, 31, 100, 3};
    std::vector<base::TokenId> targets(tokens.begin() + 1, tokens.end());
    targets.push_back(4);
    const std::vector<base::BlockId> blocks = block_run(0, 1);
    engine::Batch batch;
    engine::BatchEntry& entry = batch.add();
    entry.tokens = tokens;
    entry.set_blocks(blocks);
    entry.sample = true;
    entry.score = true;
    entry.score_targets = targets;
    entry.sampler.params.logprobs = true;
    entry.sampler.params.top_logprobs = 3;
    entry.sampler.position = tokens.size();
    for (const bool keep_logits : {true, false}) {
        batch.keep_logits = keep_logits;
        const auto result = engine::run_to_end(*engine, batch);
        REQUIRE(result);
        const engine::EntryResult& got = result->entries.at(0);
        REQUIRE(got.scores.size() == 10);
        REQUIRE(got.logits.size() == (keep_logits ? 10 * 250 : 0));
        REQUIRE(got.sampled);
        REQUIRE(got.sampled->token == got.scores.back().top.at(0).token);  // greedy
        for (std::size_t i = 0; i < 10; ++i) {
            REQUIRE(got.scores[i].token == targets[i]);
            REQUIRE(got.scores[i].top.size() == 3);
            REQUIRE(got.scores[i].logprob <= got.scores[i].top[0].logprob);
        }
        REQUIRE(result->ended > result->began);
    }
}

namespace {

/// A door that a test holds shut. Waiting in front of it has a deadline, so that a failing test ends.
class Door {
public:
    void open() {
        {
            const std::lock_guard lock(mutex_);
            is_open_ = true;
        }
        changed_.notify_all();
    }
    bool wait() {
        std::unique_lock lock(mutex_);
        return changed_.wait_for(lock, std::chrono::minutes(1), [this] { return is_open_; });
    }

private:
    std::mutex mutex_;
    std::condition_variable changed_;
    bool is_open_ = false;  // guarded by mutex_
};

constexpr base::TimePoint kPast{};

}  // namespace

TEST_CASE("a step that hangs is waited for until a deadline or a stop, and can be collected later", "[engine]") {
    Setting setting;
    const auto engine = test_engine::load(setting.options);
    const std::vector<base::TokenId> tokens{1, 2, 3};
    const std::vector<base::BlockId> blocks = block_run(0, 1);
    engine::Batch batch;
    engine::BatchEntry& entry = batch.add();
    entry.tokens = tokens;
    entry.set_blocks(blocks);
    entry.sample = true;
    entry.sampler.position = tokens.size();

    Door kernel;  // the step does not get beyond its first layers while it is shut
    Door ended;
    const engine::Ticket ticket =
        engine->launch(batch, [&](std::uint32_t, std::uint32_t) { kernel.wait(); }, [&] { ended.open(); });
    REQUIRE_FALSE(engine->ready(ticket));
    REQUIRE(engine->collect(ticket, kPast).error().code == base::ErrorCode::deadline_exceeded);
    std::stop_source stop;
    stop.request_stop();
    const auto far = std::chrono::steady_clock::now() + std::chrono::minutes(1);
    REQUIRE(engine->collect(ticket, far, stop.get_token()).error().code == base::ErrorCode::cancelled);

    kernel.open();
    REQUIRE(ended.wait());
    REQUIRE(engine->ready(ticket));
    const auto result = engine->collect(ticket, kPast, stop.get_token());  // it has ended: neither says anything
    REQUIRE(result);
    REQUIRE(result->entries.at(0).sampled);
    REQUIRE(engine::run_to_end(*engine, batch)->entries.at(0).sampled->token == result->entries[0].sampled->token);
}

TEST_CASE("a batch is a value: its maker's memory may go while the step runs, and its own is used again", "[engine]") {
    Setting setting;
    const auto engine = test_engine::load(setting.options);
    Stream stream;
    stream.prompt = {5, 9, 13, 2, 7};
    stream.blocks = block_run(0, 1);
    stream.params.temperature = 0.7f;
    stream.params.repetition_penalty = 1.2f;
    stream.params.seed = 3;
    Stream expected = stream;
    REQUIRE(run_step(*engine, {{&expected, 5}}, false));

    engine::Batch batch;
    const void* memory[4] = {};
    for (int time = 0; time < 2; ++time) {
        Door kernel;
        const auto ticket = [&] {
            const std::vector<base::TokenId> prompt = stream.prompt;
            const std::vector<base::BlockId> blocks = stream.blocks;
            const engine::SamplingParams params = stream.params;
            batch.clear();
            engine::BatchEntry& entry = batch.add();
            entry.tokens = prompt;
            entry.set_blocks(blocks);
            entry.sample = true;
            entry.sampler.assign({.params = &params, .position = prompt.size(), .prompt = prompt});
            const void* const now[] = {&entry, entry.tokens.data(), entry.block_tables[0].data(),
                                       entry.sampler.prompt.data()};
            for (int i = 0; i < 4; ++i) {
                if (time > 0) { REQUIRE(now[i] == memory[i]); }
                memory[i] = now[i];
            }
            return engine->launch(std::move(batch), [&](std::uint32_t, std::uint32_t) { kernel.wait(); });
        }();
        REQUIRE(batch.empty());
        kernel.open();  // only now: all that the entry was made from is gone
        auto result = engine->collect(ticket, std::chrono::steady_clock::now() + std::chrono::minutes(1));
        REQUIRE(result);
        REQUIRE(result->entries.at(0).sampled->token == expected.generated.at(0));
        batch = std::move(result->batch);
    }
}

TEST_CASE("an entry keeps of a sequence's tokens what its penalties look at", "[engine]") {
    const std::vector<base::TokenId> prompt{1, 2};
    const std::vector<base::TokenId> generated{3};
    engine::SamplingParams params;
    engine::EntrySampler sampler;
    const auto kept = [&] {
        sampler.assign({.params = &params, .position = 3, .prompt = prompt, .generated = generated});
        REQUIRE(sampler.context().position == 3);
        return std::pair(sampler.context().prompt.size(), sampler.context().generated.size());
    };
    using Sizes = std::pair<std::size_t, std::size_t>;
    REQUIRE(kept() == Sizes{0, 0});
    params.frequency_penalty = 1;
    REQUIRE(kept() == Sizes{0, 1});
    params.frequency_penalty = 0;
    params.presence_penalty = -1;
    REQUIRE(kept() == Sizes{0, 1});
    params.presence_penalty = 0;
    params.repetition_penalty = 1.1f;
    REQUIRE(kept() == Sizes{2, 1});
}

TEST_CASE("an entry that asks for nothing gets nothing, but its KV is there", "[engine]") {
    Setting setting;
    const auto engine = test_engine::load(setting.options);
    std::memset(engine->kv_store().block(base::BlockId{3}), 0, engine->layout().block_bytes());
    const std::vector<base::TokenId> tokens{1, 2, 3, 4};
    const std::vector<base::BlockId> blocks = block_run(3, 1);
    engine::Batch batch;
    engine::BatchEntry& entry = batch.add();
    entry.sequence = base::SequenceId{77};
    entry.tokens = tokens;
    entry.set_blocks(blocks);
    const auto result = engine::run_to_end(*engine, std::move(batch));
    REQUIRE(result);
    REQUIRE(result->entries.at(0).sequence == base::SequenceId{77});
    REQUIRE_FALSE(result->entries[0].sampled);
    REQUIRE(result->entries[0].scores.empty());
    for (std::uint32_t layer = 0; layer < 3; ++layer) {
        const std::byte* tile = engine->kv_store().tile(base::BlockId{3}, layer, kv_cache::KvPart::v, 1);
        const bool written =
            std::any_of(tile, tile + engine->layout().tile_bytes(), [](std::byte b) { return b != std::byte{0}; });
        REQUIRE(written);
    }
}

TEST_CASE("a token outside of the vocabulary fails the step and the engine goes on", "[engine]") {
    Setting setting;
    const auto engine = test_engine::load(setting.options);
    for (const base::TokenId bad : {-1, 250}) {
        Stream stream;
        stream.prompt = {1, bad, 3};
        stream.blocks = block_run(0, 1);
        const auto failed = run_step(*engine, {{&stream, 3}});
        REQUIRE_FALSE(failed);
        REQUIRE(failed.error().code == base::ErrorCode::invalid_argument);
        REQUIRE(contains(failed.error().message, "token " + std::to_string(bad)));
        stream.prompt = {1, 2, 3};
        REQUIRE(run_step(*engine, {{&stream, 3}}));
        REQUIRE(stream.generated.size() == 1);
    }
}

TEST_CASE("a block that is none stops the process before it is written or read", "[engine]") {
    Setting setting;
    const auto runs = [&](std::size_t wrong) {
        const auto engine = test_engine::load(setting.options);  // in the child, where its threads are needed
        Stream stream;
        stream.prompt.assign(40, 7);
        stream.blocks = block_run(0, 3);
        REQUIRE(run_step(*engine, {{&stream, 39}}));
        if (wrong < 3) { stream.blocks[wrong] = base::BlockId{engine->blocks_total()}; }
        static_cast<void>(run_step(*engine, {{&stream, 1}}));
    };
    REQUIRE_FALSE(kv_cache_test::stops_the_process([&] { runs(3); }));
    REQUIRE(kv_cache_test::stops_the_process([&] { runs(2); }));  // written by the step
    REQUIRE(kv_cache_test::stops_the_process([&] { runs(0); }));  // read by it
}

TEST_CASE("weights that give NaN end in an error, and the engine goes on", "[engine]") {
    Setting setting;
    auto tensors = engine::random_tensors(test_engine::small_shape(), "F32", 1);
    // Every weight is one that may be loaded; with token 7, which alone has an element 0, their products are infinite.
    const auto change = [&](const std::string& name, const std::function<float(std::uint64_t, float)>& changed) {
        for (auto& tensor : tensors) {
            if (tensor.name != name) { continue; }
            tensor.fill = [fill = tensor.fill, changed](std::uint64_t first, std::span<float> values) {
                fill(first, values);
                for (std::size_t i = 0; i < values.size(); ++i) {
                    values[i] = changed(first + i, values[i]);
                }
            };
        }
    };
    constexpr float kLarge = 9e7f;
    const std::string layer = "model.layers.0.";
    change("model.embed_tokens.weight", [](std::uint64_t i, float value) {
        return i % 64 != 0 ? value : i / 64 == 7 ? 1.0f : 0.0f;
    });
    change(layer + "self_attn.o_proj.weight", [](std::uint64_t i, float value) { return i < 64 ? 0.0f : value; });
    change(layer + "post_attention_layernorm.weight",
           [](std::uint64_t i, float value) { return i == 0 ? kLarge : value; });
    for (const char* name : {"mlp.gate_proj.weight", "mlp.up_proj.weight"}) {
        change(layer + name, [](std::uint64_t i, float value) { return i % 64 == 0 ? kLarge : value; });
    }
    change(layer + "mlp.down_proj.weight", [](std::uint64_t, float) { return kLarge; });
    REQUIRE(engine::write_checkpoint(setting.options.model_dir, test_engine::small_shape(), tensors, 1u << 30));
    for (const std::string& family : test_engine::families_here()) {
        CAPTURE(family);
        setting.options.kernels = family;
        const auto engine = test_engine::load(setting.options);
        Stream stream;
        stream.blocks = block_run(0, 1);
        stream.prompt = {7};
        const auto failed = run_step(*engine, {{&stream, 1}});
        REQUIRE_FALSE(failed);
        REQUIRE(failed.error().code == base::ErrorCode::internal);
        Stream healthy;
        healthy.blocks = block_run(1, 1);
        healthy.prompt = {8};
        REQUIRE(run_step(*engine, {{&healthy, 1}}));

        Stream beside = healthy;  // in one batch with the sick one, it gets the token it got alone
        beside.computed = 0;
        beside.generated.clear();
        stream.computed = 0;
        REQUIRE_FALSE(run_step(*engine, {{&stream, 1}, {&beside, 1}}));
        REQUIRE(beside.generated == healthy.generated);
    }
}
