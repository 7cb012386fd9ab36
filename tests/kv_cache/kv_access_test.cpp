#include "kv_cache/kv_access.h"

#include <cstring>
#include <numeric>
#include <random>
#include <vector>

#include "device/cuda/cuda_device.h"
#include "kv_cache/kv_pack.h"
#include "tests/kv_cache/support.h"
#include "tests/support/distant_device.h"

#include "tests/support/catch.h"

using kv_cache::BlockId;
using kv_cache::BlockRun;
using kv_cache::KvAccess;
using kv_cache::KvDtype;
using kv_cache::KvLayout;
using kv_cache::KvRange;
using kv_cache::KvStore;
using kv_cache::TileOrder;

namespace {

constexpr std::uint32_t kBlocks = 12;

KvLayout layout_of(KvDtype dtype) {
    base::ModelShape shape;
    shape.layers = 5;
    shape.heads_q = 6;
    shape.heads_kv = 3;
    shape.head_dim = 8;
    auto layout = KvLayout::make(shape, {.dtype = dtype, .order = TileOrder::token_major}, 16);
    REQUIRE(layout);
    return *layout;
}

std::vector<std::byte> random_bytes(std::size_t count, std::mt19937& random) {
    std::vector<std::byte> bytes(count);
    for (std::byte& byte : bytes) {
        byte = static_cast<std::byte>(random());
    }
    return bytes;
}

constexpr BlockRun kWhole{.first = BlockId{0}, .count = kBlocks};

/// The store on `device` packs and unpacks as a store on the host with the same bytes does.
void gives_what_the_host_gives(device::Device& device, unsigned seed) {
    std::mt19937 random{seed};
    const KvLayout layout = layout_of(seed % 2 == 0 ? KvDtype::bf16 : KvDtype::f32);
    auto host_store = KvStore::make(device::host_device(), layout, kBlocks);
    auto store = KvStore::make(device, layout, kBlocks);
    REQUIRE((host_store && store));
    auto access = KvAccess::make(*store);
    REQUIRE(access);
    const auto content = random_bytes(kBlocks * layout.block_bytes(), random);
    std::memcpy(host_store->run(kWhole).data(), content.data(), content.size());
    REQUIRE(access->restore(std::span(&kWhole, 1), content));

    std::vector<BlockId> blocks;
    for (std::uint32_t i = 0; i < kBlocks; ++i) {
        blocks.emplace_back(BlockId{i});
    }
    std::shuffle(blocks.begin(), blocks.end(), random);
    blocks.resize(6);
    KvRange range;
    range.layer_begin = static_cast<std::uint32_t>(random() % 5);
    range.layer_end = range.layer_begin + 1 + static_cast<std::uint32_t>(random() % (5 - range.layer_begin));
    range.token_begin = static_cast<std::uint32_t>(random() % 90);
    range.token_end = range.token_begin + 1 + static_cast<std::uint32_t>(random() % (96 - range.token_begin));
    CAPTURE(range.layer_begin, range.layer_end, range.token_begin, range.token_end);

    std::vector<std::byte> expected(layout.wire_bytes(range));
    std::vector<std::byte> packed(layout.wire_bytes(range));
    kv_cache::pack(*host_store, blocks, range, expected);
    REQUIRE(access->pack(blocks, range, packed));
    REQUIRE(packed == expected);

    const auto received = random_bytes(packed.size(), random);
    kv_cache::unpack(*host_store, blocks, range, received);
    REQUIRE(access->unpack(blocks, range, received));
    std::vector<std::byte> all(content.size());
    REQUIRE(access->save(std::span(&kWhole, 1), all));
    REQUIRE(std::memcmp(all.data(), host_store->run(kWhole).data(), all.size()) == 0);
}

}  // namespace

TEST_CASE("KV of a distant store is packed and unpacked as KV of the host's", "[kv_cache][property]") {
    const auto seed = GENERATE(range(0u, 60u));
    CAPTURE(seed);
    test_device::DistantDevice distant;
    gives_what_the_host_gives(distant, seed);
    gives_what_the_host_gives(device::host_device(), seed);
}

TEST_CASE("KV in the first GPU is packed and unpacked as KV of the host's", "[kv_cache][property]") {
    auto gpu = device::cuda_device(0);
    if (!gpu) {
        WARN("SKIPPED: " << gpu.error().message);
        return;
    }
    for (unsigned seed = 0; seed < 60; ++seed) {
        CAPTURE(seed);
        gives_what_the_host_gives(**gpu, seed);
    }
}

TEST_CASE("runs of blocks are saved and restored with one copy each", "[kv_cache][property]") {
    std::mt19937 random{7};
    test_device::DistantDevice distant;
    const KvLayout layout = layout_of(KvDtype::bf16);
    auto store = KvStore::make(distant, layout, kBlocks);
    REQUIRE(store);
    auto access = KvAccess::make(*store);
    REQUIRE(access);
    const auto content = random_bytes(kBlocks * layout.block_bytes(), random);
    REQUIRE(access->restore(std::span(&kWhole, 1), content));
    const std::vector<BlockRun> runs{{.first = BlockId{7}, .count = 4}, {.first = BlockId{1}, .count = 2}};
    std::vector<std::byte> saved(6 * layout.block_bytes());
    distant.copies = 0;
    REQUIRE(access->save(runs, saved));
    REQUIRE(distant.copies == 2);
    REQUIRE(std::memcmp(saved.data(), content.data() + 7 * layout.block_bytes(), 4 * layout.block_bytes()) == 0);
    REQUIRE(std::memcmp(saved.data() + 4 * layout.block_bytes(), content.data() + layout.block_bytes(),
                        2 * layout.block_bytes()) == 0);
}

TEST_CASE("a device that fails is an error of the move", "[kv_cache][property]") {
    test_device::DistantDevice distant;
    auto store = KvStore::make(distant, layout_of(KvDtype::bf16), kBlocks);
    REQUIRE(store);
    auto access = KvAccess::make(*store);
    REQUIRE(access);
    distant.is_broken = true;
    const KvRange range{.layer_begin = 0, .layer_end = 1, .token_begin = 0, .token_end = 3};
    const std::vector<BlockId> blocks{BlockId{3}};
    std::vector<std::byte> bytes(store->layout().wire_bytes(range));
    REQUIRE(access->pack(blocks, range, bytes).error().code == base::ErrorCode::internal);
    REQUIRE(access->unpack(blocks, range, bytes).error().code == base::ErrorCode::internal);
    std::vector<std::byte> all(kBlocks * store->layout().block_bytes());
    REQUIRE_FALSE(access->save(std::span(&kWhole, 1), all));
    REQUIRE_FALSE(access->restore(std::span(&kWhole, 1), all));
}
