#include "engine/kv_sizing.h"

#include "device/device.h"
#include "tests/engine/support.h"
#include "tests/support/distant_device.h"

#include "tests/support/catch.h"

TEST_CASE("KV gets what the share of a GPU leaves, and a fixed size on the host", "[engine]") {
    constexpr std::uint64_t kGiB = std::uint64_t{1} << 30;
    test_device::DistantDevice gpu;
    gpu.memory = 80 * kGiB;
    const engine::MemoryUse use{.weight_bytes = 16 * kGiB, .scratch_bytes = 2 * kGiB, .kv_token_bytes = 128 << 10};
    REQUIRE(engine::choose_kv_bytes(gpu, 0.9, use) == (72 - 16 - 2) * kGiB - engine::kDriverBytes);
    REQUIRE(engine::choose_kv_bytes(gpu, 0.5, use) == (40 - 16 - 2) * kGiB - engine::kDriverBytes);
    REQUIRE(engine::choose_kv_bytes(device::host_device(), 0.9, use) == kGiB);

    engine::MemoryUse small = use;
    small.kv_token_bytes = 640;
    REQUIRE(engine::choose_kv_bytes(gpu, 0.9, small) == engine::kKvTokens * 640);

    const auto nothing = engine::choose_kv_bytes(gpu, 0.2, use);
    REQUIRE(!nothing);
    REQUIRE(nothing.error().code == base::ErrorCode::resource_exhausted);
    for (const char* part : {"gpu_memory_share", "17179869184", "distant", "batch_tokens_max"}) {
        CAPTURE(part, nothing.error().message);
        REQUIRE(nothing.error().message.find(part) != std::string::npos);
    }
}

TEST_CASE("an engine whose KV size is left open has the host's", "[engine]") {
    const test_engine::TemporaryFolder model;
    const test_engine::TemporaryFolder packed;
    test_engine::write_random_model(model.path().string(), test_engine::small_shape(), "F32");
    auto options = test_engine::options_for(model.path().string(), packed.path().string());
    options.kv_pool_bytes = 0;
    const auto engine = test_engine::load(options);
    REQUIRE(engine->blocks_total() == engine::kHostKvBytes / engine->layout().block_bytes());
}
