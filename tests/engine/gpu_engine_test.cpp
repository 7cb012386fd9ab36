// Whole models on the first GPU. Where there is none, all of these say so and are skipped.
#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "engine/warm_up.h"
#include "kv_cache/kv_access.h"
#include "tests/engine/support.h"

#include "tests/support/catch.h"

using test_engine::run_step;
using test_engine::Share;
using test_engine::Stream;

namespace {

constexpr std::uint32_t kTokensMax = 40;  // that a stream generates

bool has_gpu() {
    const auto gpu = device::cuda_device(0);
    if (!gpu) { WARN("SKIPPED: " << gpu.error().message); }
    return gpu.has_value();
}

/// A model of three layers with head_dim 64 and grouped heads, on the GPU.
struct Setting {
    explicit Setting(bool deterministic, const std::string& weight_format = "auto") {
        base::ModelShape shape = test_engine::small_shape();
        shape.hidden = 128;
        shape.head_dim = 64;
        shape.intermediate = 352;
        test_engine::write_random_model(model.path().string(), shape, "BF16");
        options = test_engine::options_for(model.path().string(), packed.path().string());
        options.device = "cuda:0";
        options.kernels = "auto";
        options.deterministic = deterministic;
        options.weight_format = weight_format;
        options.kv_pool_bytes = 32u << 20;
    }

    test_engine::TemporaryFolder model;
    test_engine::TemporaryFolder packed;
    engine::EngineOptions options;
};

Stream make_stream(unsigned seed, std::uint32_t prompt_tokens, std::uint32_t first_block) {
    std::mt19937 random{seed};
    Stream stream;
    stream.prompt = test_engine::random_tokens(random, prompt_tokens, 250);
    stream.blocks = test_engine::block_run(first_block, (prompt_tokens + kTokensMax + 16) / 16);
    return stream;
}

/// Prompt in pieces of `chunk`, then token by token.
void run_alone(engine::Engine& engine, Stream& stream, std::uint32_t chunk, bool keep_logits) {
    while (stream.generated.size() < kTokensMax) {
        const auto left = static_cast<std::uint32_t>(stream.tokens().size()) - stream.computed;
        const auto done = run_step(engine, {{&stream, std::min(left, chunk)}}, keep_logits);
        REQUIRE(done);
    }
}

/// Logits of all positions of a prompt, in pieces of `chunk` tokens.
std::vector<std::vector<float>> logits_of(engine::Engine& engine, Stream stream, std::uint32_t chunk) {
    while (stream.computed < stream.prompt.size()) {
        const auto left = static_cast<std::uint32_t>(stream.prompt.size()) - stream.computed;
        REQUIRE(run_step(engine, {{&stream, std::min(left, chunk)}}, true));
    }
    return stream.logits;
}

/// |a - b| / |b| over all logits.
double relative_distance(const std::vector<std::vector<float>>& a, const std::vector<std::vector<float>>& b) {
    REQUIRE(a.size() == b.size());
    double distance = 0;
    double norm = 0;
    for (std::size_t row = 0; row < a.size(); ++row) {
        REQUIRE(a[row].size() == b[row].size());
        for (std::size_t i = 0; i < a[row].size(); ++i) {
            const double there = static_cast<double>(b[row][i]);
            distance += std::pow(static_cast<double>(a[row][i]) - there, 2);
            norm += there * there;
        }
    }
    return std::sqrt(distance / norm);
}

}  // namespace

TEST_CASE("the GPU samples as the host samples from its logits, recorded steps or not", "[engine][gpu]") {
    if (!has_gpu()) { return; }
    Setting setting(true);
    const auto engine = test_engine::load(setting.options);
    for (const float temperature : {0.0f, 0.8f}) {
        CAPTURE(temperature);
        Stream on_gpu = make_stream(1, 77, 0);
        on_gpu.params.temperature = temperature;
        on_gpu.params.top_p = 0.9f;
        on_gpu.params.seed = 5;
        Stream on_host = on_gpu;
        run_alone(*engine, on_gpu, 1000, false);  // choose()
        run_alone(*engine, on_host, 1000, true);  // read_rows(), engine::Sampler
        REQUIRE(on_gpu.generated == on_host.generated);
    }
}

TEST_CASE("in its deterministic mode the GPU's numbers do not depend on chunks or company", "[engine][gpu]") {
    if (!has_gpu()) { return; }
    Setting setting(true);
    const auto engine = test_engine::load(setting.options);
    std::vector<Stream> alone;
    std::vector<Stream> together;
    for (unsigned i = 0; i < 9; ++i) {
        alone.push_back(make_stream(i, 5 + 31 * i, 30 * i));
        together.push_back(alone.back());
    }
    for (Stream& stream : alone) {
        run_alone(*engine, stream, 1000, true);
    }
    std::mt19937 random{3};
    while (true) {
        std::vector<Share> shares;
        for (Stream& stream : together) {
            if (stream.generated.size() >= kTokensMax) { continue; }
            const auto left = static_cast<std::uint32_t>(stream.tokens().size()) - stream.computed;
            shares.push_back({&stream, 1 + static_cast<std::uint32_t>(random()) % std::min(left, 60u)});
        }
        if (shares.empty()) { break; }
        REQUIRE(run_step(*engine, shares, true));
    }
    for (std::size_t i = 0; i < alone.size(); ++i) {
        CAPTURE(i);
        REQUIRE(together[i].generated == alone[i].generated);
        REQUIRE(together[i].logits == alone[i].logits);
    }
}

TEST_CASE("KV that left one GPU engine continues in another with the same tokens", "[engine][gpu]") {
    if (!has_gpu()) { return; }
    Setting setting(true);
    const auto from = test_engine::load(setting.options);
    const auto to = test_engine::load(setting.options);
    REQUIRE(from->numerics_id() == to->numerics_id());
    Stream expected = make_stream(8, 200, 3);
    Stream moved = expected;
    run_alone(*from, expected, 64, false);

    std::vector<std::pair<std::uint32_t, std::uint32_t>> groups;
    REQUIRE(run_step(*from, {{&moved, 200}}, false,
                     [&](std::uint32_t begin, std::uint32_t end) { groups.emplace_back(begin, end); }));
    REQUIRE(groups == std::vector<std::pair<std::uint32_t, std::uint32_t>>{{0, 1}, {1, 2}, {2, 3}});
    auto out = kv_cache::KvAccess::make(from->kv_store());
    auto in = kv_cache::KvAccess::make(to->kv_store());
    REQUIRE((out && in));
    const kv_cache::KvRange range{0, 3, 0, 200};
    std::vector<std::byte> wire(from->layout().wire_bytes(range));
    REQUIRE(out->pack(moved.blocks, range, wire));
    moved.blocks = test_engine::block_run(50, static_cast<std::uint32_t>(moved.blocks.size()));
    REQUIRE(in->unpack(moved.blocks, range, wire));
    run_alone(*to, moved, 64, false);
    REQUIRE(moved.generated == expected.generated);
}

TEST_CASE("two GPU engines of one process record and repeat their steps side by side", "[engine][gpu]") {
    if (!has_gpu()) { return; }
    Setting setting(true);
    std::vector<std::unique_ptr<engine::Engine>> engines;
    std::vector<Stream> alone;
    for (unsigned i = 0; i < 2; ++i) {
        engines.push_back(test_engine::load(setting.options));
        alone.push_back(make_stream(20 + i, 50 + 90 * i, 0));
    }
    std::vector<Stream> beside = alone;
    for (std::size_t i = 0; i < engines.size(); ++i) {
        run_alone(*engines[i], alone[i], 64, false);
    }
    // New engines, so that each records while the other allocates, uploads and launches.
    std::vector<int> failures(engines.size(), 0);
    {
        std::vector<std::jthread> threads;
        for (std::size_t i = 0; i < engines.size(); ++i) {
            threads.emplace_back([&, i] {
                auto engine = engine::load_engine(setting.options);
                if (!engine) {
                    failures[i] = 1;
                    return;
                }
                Stream& stream = beside[i];
                while (stream.generated.size() < kTokensMax && failures[i] == 0) {
                    const auto left = static_cast<std::uint32_t>(stream.tokens().size()) - stream.computed;
                    if (!run_step(**engine, {{&stream, std::min(left, 64u)}}, false)) { failures[i] = 1; }
                }
            });
        }
    }
    for (std::size_t i = 0; i < engines.size(); ++i) {
        CAPTURE(i);
        REQUIRE(failures[i] == 0);
        REQUIRE(beside[i].generated == alone[i].generated);
    }
}

TEST_CASE("with the library's products a GPU engine still generates, and says in its id that it is another",
          "[engine][gpu]") {
    if (!has_gpu()) { return; }
    Setting fixed(true);
    Setting fast(false);
    const auto fixed_engine = test_engine::load(fixed.options);
    const auto fast_engine = test_engine::load(fast.options);
    REQUIRE(engine::warm_up(*fast_engine, 128, 9));
    Stream stream = make_stream(4, 300, 0);
    run_alone(*fast_engine, stream, 128, false);
    if (device::cuda_report().has_blas) { REQUIRE(fixed_engine->numerics_id() != fast_engine->numerics_id()); }
}

TEST_CASE("kernels that begin before the one before has ended give the same bits and keep the id", "[engine][gpu]") {
    if (!has_gpu()) { return; }
    const bool deterministic = GENERATE(true, false);
    const std::string weight_format = deterministic ? "auto" : "fp8";
    CAPTURE(weight_format, deterministic);
    Setting usual(deterministic, weight_format);
    Setting dependent(deterministic, weight_format);
    dependent.options.model_dir = usual.options.model_dir;
    dependent.options.dependent_launch = true;
    const auto dependent_engine = engine::load_engine(dependent.options);
    if (!dependent_engine && dependent_engine.error().code == base::ErrorCode::unimplemented) {
        WARN("SKIPPED: " << dependent_engine.error().message);
        return;
    }
    REQUIRE(dependent_engine);
    const auto usual_engine = test_engine::load(usual.options);
    REQUIRE((*dependent_engine)->numerics_id() == usual_engine->numerics_id());
    for (unsigned round = 0; round < 3; ++round) {  // steps kernel by kernel, then recorded ones
        Stream expected = make_stream(7 + round, 90 + 40 * round, 0);
        Stream got = expected;
        run_alone(*usual_engine, expected, 70, true);
        run_alone(**dependent_engine, got, 70, true);
        REQUIRE(got.generated == expected.generated);
        REQUIRE(got.logits == expected.logits);
    }
}

TEST_CASE("attention of chunks by Hopper's own instructions gives the same logits within rounding", "[engine][gpu]") {
    if (!has_gpu()) { return; }
    Setting usual(false);
    Setting hopper(false);
    hopper.options.model_dir = usual.options.model_dir;
    hopper.options.prefill_attention = "wgmma";
    const auto hopper_engine = engine::load_engine(hopper.options);
    if (!hopper_engine && hopper_engine.error().code == base::ErrorCode::unimplemented) {
        WARN("SKIPPED: " << hopper_engine.error().message);
        return;
    }
    REQUIRE(hopper_engine);
    const auto usual_engine = test_engine::load(usual.options);
    REQUIRE((*hopper_engine)->numerics_id() != usual_engine->numerics_id());
    Stream expected = make_stream(6, 300, 0);
    Stream got = expected;
    run_alone(*usual_engine, expected, 140, true);  // chunks end inside blocks and inside steps of keys
    run_alone(**hopper_engine, got, 140, true);
    double difference = 0;
    double norm = 0;
    const std::vector<float>& want_row = expected.logits.at(expected.prompt.size() - 1);
    const std::vector<float>& got_row = got.logits.at(got.prompt.size() - 1);
    REQUIRE(got_row.size() == want_row.size());
    for (std::size_t i = 0; i < want_row.size(); ++i) {
        difference += std::pow(static_cast<double>(got_row[i]) - static_cast<double>(want_row[i]), 2);
        norm += std::pow(static_cast<double>(want_row[i]), 2);
    }
    REQUIRE(std::isfinite(difference));
    REQUIRE(std::sqrt(difference / norm) < 0.02);

    hopper.options.deterministic = true;
    const auto refused = engine::load_engine(hopper.options);
    REQUIRE(!refused);
    REQUIRE(refused.error().message.find("deterministic") != std::string::npos);
}

TEST_CASE("with FP8 weights a GPU engine computes the same model, a little off, and says in its id that it is another",
          "[engine][gpu]") {
    if (!has_gpu()) { return; }
    const bool deterministic = GENERATE(true, false);
    CAPTURE(deterministic);
    Setting exact(deterministic);
    Setting rounded(deterministic, "fp8");
    const auto bf16 = test_engine::load(exact.options);
    const auto fp8 = test_engine::load(rounded.options);
    CAPTURE(fp8->describe());
    REQUIRE(fp8->describe().find("fp8 weights") != std::string::npos);
    REQUIRE(fp8->numerics_id() != bf16->numerics_id());
    const Stream stream = make_stream(11, 90, 0);
    const auto expected = logits_of(*bf16, stream, 90);
    for (const std::uint32_t chunk : {90u, 45u, 13u, 1u}) {  // products by the library, streaming, and recorded steps
        CAPTURE(chunk);
        const double distance = relative_distance(logits_of(*fp8, stream, chunk), expected);
        CAPTURE(distance);
        REQUIRE(distance > 0.01);  // else it is not FP8
        REQUIRE(distance < 0.12);
    }
}

TEST_CASE("with FP8 weights, too, the GPU's deterministic mode gives a row the same bits in any company",
          "[engine][gpu]") {
    if (!has_gpu()) { return; }
    Setting setting(true, "fp8");
    const auto engine = test_engine::load(setting.options);
    const Stream stream = make_stream(12, 100, 0);
    const auto whole = logits_of(*engine, stream, 100);  // the wide kernel
    for (const std::uint32_t chunk : {33u, 5u, 1u}) {
        CAPTURE(chunk);
        REQUIRE(logits_of(*engine, stream, chunk) == whole);
    }
}

TEST_CASE("on a GPU, too, an entry may have a mask or ask for a hidden state, and changes nobody else's token",
          "[engine][gpu]") {
    if (!has_gpu()) { return; }
    Setting setting(true);
    const auto engine = test_engine::load(setting.options);
    const bool is_decode = GENERATE(false, true);  // steps that are recorded, or not
    CAPTURE(is_decode);
    std::vector<std::vector<base::TokenId>> prompts;
    std::mt19937 random{17};
    for (std::uint32_t i = 0; i < 4; ++i) {
        prompts.push_back(test_engine::random_tokens(random, is_decode ? 1 : 11 + i, 250));
    }
    const auto add = [&](engine::Batch& batch, std::size_t i) -> engine::BatchEntry& {
        engine::BatchEntry& entry = batch.add();
        entry.tokens = prompts[i];
        entry.set_blocks(test_engine::block_run(static_cast<std::uint32_t>(i), 1));
        entry.sampler.position = prompts[i].size();
        return entry;
    };
    engine::Batch plain;
    plain.keep_logits = true;
    for (std::size_t i = 0; i < 2; ++i) {
        add(plain, i).sample = true;
    }
    const auto expected = engine::run_to_end(*engine, plain);
    REQUIRE(expected);
    std::vector<float> logits(expected->entries.at(1).logits.end() - 250, expected->entries[1].logits.end());
    const auto best = static_cast<std::size_t>(expected->entries[1].sampled->token);
    logits[best] = -INFINITY;
    const auto second = static_cast<base::TokenId>(std::max_element(logits.begin(), logits.end()) - logits.begin());

    setting.options.device = "host";
    setting.options.kernels = "reference";
    const auto host = test_engine::load(setting.options);
    for (int time = 0; time < 4; ++time) {  // first, recorded, repeated
        engine::Batch batch;
        add(batch, 0).sample = true;
        add(batch, 2).pooling = engine::Pooling::last;
        engine::BatchEntry& masked = add(batch, 1);
        masked.sample = true;
        const auto mask = std::make_shared<engine::LateMask>(250);
        std::vector<std::uint32_t> words(8, 0xffffffffu);
        words[best / 32] &= ~(1u << (best % 32));
        mask->set(words);
        masked.mask = mask;
        add(batch, 3).pooling = engine::Pooling::mean;
        const auto got = engine::run_to_end(*engine, batch);
        const auto near = engine::run_to_end(*host, batch);
        REQUIRE(got);
        REQUIRE(near);
        REQUIRE(got->entries.at(0).sampled->token == expected->entries[0].sampled->token);
        REQUIRE(got->entries.at(2).sampled->token == second);
        REQUIRE(relative_distance({got->entries.at(1).pooled}, {near->entries.at(1).pooled}) < 0.03);
        REQUIRE(relative_distance({got->entries.at(3).pooled}, {near->entries.at(3).pooled}) < 0.03);
    }
}
