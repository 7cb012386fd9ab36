#include "engine/host_fit.h"

#include <filesystem>
#include <string>
#include <vector>

#include "engine/kv_sizing.h"
#include "tests/engine/support.h"

#include "tests/support/catch.h"

namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;
constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;

/// 512 MiB of weights, 64 MiB of steps; KV of 1 MiB for each token of a context of 2048.
engine::HostUse some_use(std::uint32_t engines = 1, std::uint64_t kv_pool_bytes = 0) {
    engine::HostUse use{.name = "some", .needs = {}, .engines = engines};
    use.needs.shape.context_tokens = 2048;
    use.needs.weight_bytes = 512 * kMiB;
    use.needs.scratch_bytes = 64 * kMiB;
    use.needs.kv_token_bytes = kMiB;
    use.needs.kv_pool_bytes = kv_pool_bytes;
    return use;
}

std::vector<std::uint64_t> pools(const std::vector<engine::HostUse>& uses, std::uint64_t available) {
    const auto fitted = engine::fit_on_host(uses, {available, "the test"});
    if (!fitted) { FAIL(fitted.error().message); }
    return *fitted;
}

std::string refusal(const std::vector<engine::HostUse>& uses, std::uint64_t available) {
    const auto fitted = engine::fit_on_host(uses, {available, "the test"});
    REQUIRE(!fitted);
    REQUIRE(fitted.error().code == base::ErrorCode::resource_exhausted);
    return fitted.error().message;
}

bool holds(const std::string& text, const std::string& part) {
    CAPTURE(text, part);
    return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("an open KV pool has a size of its own, or what memory leaves", "[engine]") {
    REQUIRE(pools({some_use()}, 64 * kGiB) == std::vector{engine::kHostKvBytes});
    const std::uint64_t beside = (512 + 64) * kMiB + engine::kProcessBytes;
    REQUIRE(pools({some_use()}, beside + 800 * kMiB) == std::vector{600 * kMiB});
    REQUIRE(pools({some_use(2)}, beside + 64 * kMiB + 1600 * kMiB) == std::vector{600 * kMiB});  // each of both
    REQUIRE(pools({some_use()}, beside + 512 * kMiB) == std::vector{512 * kMiB});  // never below the least

    engine::HostUse other = some_use();
    other.needs.kv_token_bytes = 2 * kMiB;
    const std::uint64_t left = 2400 * kMiB;
    REQUIRE(pools({some_use(), other}, 2 * beside - engine::kProcessBytes + left) ==
            std::vector{600 * kMiB, engine::kHostKvBytes});
}

TEST_CASE("weights count once for a model, steps and KV for each of its engines", "[engine]") {
    const std::uint64_t one = (512 + 64 + 512) * kMiB + engine::kProcessBytes;
    REQUIRE(pools({some_use()}, one).front() == 512 * kMiB);
    REQUIRE(holds(refusal({some_use()}, one - 1), "KV 536.9 MB (1048576 bytes a token)"));
    const std::uint64_t two = one + (64 + 512) * kMiB;
    REQUIRE(pools({some_use(2)}, two).front() == 512 * kMiB);
    REQUIRE(holds(refusal({some_use(2)}, two - 1), "KV 2 x 536.9 MB"));
    REQUIRE(holds(refusal({some_use(1, 600 * kMiB)}, one), "Lower engine.kv_pool_bytes"));
    REQUIRE(pools({some_use(1, 600 * kMiB)}, one + 88 * kMiB) == std::vector{600 * kMiB});
}

TEST_CASE("what does not fit is refused with every figure and what to lower", "[engine]") {
    const std::string message = refusal({some_use(2, kGiB)}, kGiB);
    for (const char* part :
         {"some", "weights 536.9 MB (f32)", "KV 2 x 1073.7 MB", "steps 2 x 67.1 MB", "the test has 1073.7 MB", "3.",
          "engine.kv_pool_bytes", "worker.batch_tokens_max", "smaller model"}) {
        REQUIRE(holds(message, part));
    }
}

TEST_CASE("an engine that does not fit is refused before anything is packed", "[engine]") {
    const test_engine::TemporaryFolder folder;
    test_engine::write_random_model(folder.file("model"), test_engine::small_shape(), "F32");
    auto options = test_engine::options_for(folder.file("model"), folder.file("packed"));
    options.device = "host";
    const auto needs = engine::inspect_model(options);
    REQUIRE(needs);
    REQUIRE(needs->shape == test_engine::load(options)->shape());
    std::filesystem::remove_all(folder.file("packed"));
    REQUIRE(needs->on_host);
    REQUIRE(needs->kv_token_bytes == needs->shape.kv_elements_per_token() * 4);
    REQUIRE(needs->checkpoint_bytes > 4 * needs->shape.parameters());

    const std::uint64_t takes =
        needs->weight_bytes + needs->scratch_bytes + options.kv_pool_bytes + engine::kProcessBytes;
    options.host_memory_bytes = takes - 1;
    const auto refused = engine::load_engine(options);
    REQUIRE(!refused);
    REQUIRE(refused.error().code == base::ErrorCode::resource_exhausted);
    REQUIRE(holds(refused.error().message, "engine.host_memory_bytes"));
    REQUIRE(holds(refused.error().message, folder.file("model")));
    REQUIRE(!std::filesystem::exists(folder.file("packed")));
    options.host_memory_bytes = takes;
    REQUIRE(engine::load_engine(options));

    options.kv_pool_bytes = 0;  // open: three quarters of what is left, in blocks
    options.host_memory_bytes = takes;
    const auto engine = test_engine::load(options);
    const std::uint64_t pool = engine->blocks_total() * engine->layout().block_bytes();
    REQUIRE(pool <= 3 * (std::uint64_t{4} << 20) / 4);
    REQUIRE(pool + engine->layout().block_bytes() > 3 * (std::uint64_t{4} << 20) / 4);
}

TEST_CASE("what a checkpoint has and the graph does not read is named", "[engine]") {
    const test_engine::TemporaryFolder folder;
    const base::ModelShape shape = test_engine::small_shape();
    auto tensors = engine::random_tensors(shape, "F32", 1);
    auto extra = tensors.front();
    extra.name = "vision_tower.embed.weight";
    tensors.push_back(extra);
    extra.name = "model.layers.0.self_attn.rotary_emb.inv_freq";
    tensors.push_back(extra);
    REQUIRE(engine::write_checkpoint(folder.file("model"), shape, tensors, std::uint64_t{1} << 40));
    auto options = test_engine::options_for(folder.file("model"), folder.file("packed"));
    options.device = "host";
    const auto needs = engine::inspect_model(options);
    REQUIRE(needs);
    REQUIRE(needs->unused_tensors ==
            std::vector<std::string>{"model.layers.0.self_attn.rotary_emb.inv_freq", "vision_tower.embed.weight"});
}
