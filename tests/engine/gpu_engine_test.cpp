// Whole models on the first GPU. Where there is none, all of these say so and are skipped.
#include <algorithm>
#include <memory>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "device/cuda/cuda_device.h"
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
    explicit Setting(bool deterministic) {
        base::ModelShape shape = test_engine::small_shape();
        shape.hidden = 128;
        shape.head_dim = 64;
        shape.intermediate = 352;
        test_engine::write_random_model(model.path().string(), shape, "BF16");
        options = test_engine::options_for(model.path().string(), packed.path().string());
        options.device = "cuda:0";
        options.kernels = "auto";
        options.deterministic = deterministic;
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
        run_alone(*engine, on_host, 1000, true);  // read_logits(), engine::Sampler
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
    Stream stream = make_stream(4, 300, 0);
    run_alone(*fast_engine, stream, 128, false);
    if (device::cuda_report().has_blas) { REQUIRE(fixed_engine->numerics_id() != fast_engine->numerics_id()); }
}
