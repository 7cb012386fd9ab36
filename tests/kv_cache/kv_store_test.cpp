#include "kv_cache/kv_store.h"

#include <string>

#include "tests/kv_cache/support.h"

#include "tests/support/catch.h"

using kv_cache::BlockId;
using kv_cache::KvLayout;
using kv_cache::KvPart;
using kv_cache::KvStore;
using kv_cache_test::stops_the_process;

namespace {

KvLayout make_layout() {
    base::ModelShape shape;
    shape.layers = 2;
    shape.heads_kv = 2;
    shape.head_dim = 8;
    return *KvLayout::make(shape, {}, 16);
}

}  // namespace

TEST_CASE("blocks lie one after the other and a run of them is one range", "[kv_cache]") {
    const KvLayout layout = make_layout();
    auto store = KvStore::make(device::host_device(), layout, 10);
    REQUIRE(store.has_value());
    REQUIRE(store->blocks_total() == 10);
    REQUIRE(store->layout() == layout);
    const std::byte* begin = store->block(BlockId{0});
    REQUIRE(store->block(BlockId{7}) == begin + 7 * layout.block_bytes());
    REQUIRE(store->tile(BlockId{7}, 1, KvPart::v, 1) ==
            begin + 7 * layout.block_bytes() + layout.tile_offset(1, KvPart::v, 1));
    const auto run = store->run({BlockId{4}, 6});
    REQUIRE(run.data() == store->block(BlockId{4}));
    REQUIRE(run.size() == 6 * layout.block_bytes());
    run.back() = std::byte{1};
    const KvStore& constant = *store;
    REQUIRE(constant.run({BlockId{9}, 1}).back() == std::byte{1});
    REQUIRE(constant.block(BlockId{9}) == store->block(BlockId{9}));
    REQUIRE(constant.tile(BlockId{9}, 0, KvPart::k, 0) == store->block(BlockId{9}));
}

TEST_CASE("a block outside the store stops the process", "[kv_cache]") {
    auto store = KvStore::make(device::host_device(), make_layout(), 10);
    REQUIRE(store.has_value());
    REQUIRE(stops_the_process([&] { store->block(BlockId{10}); }));
    REQUIRE(stops_the_process([&] { store->run({BlockId{9}, 2}); }));
    REQUIRE(stops_the_process([&] { store->run({BlockId{0xffffffff}, 2}); }));
}

TEST_CASE("a store larger than the machine is refused with its size", "[kv_cache]") {
    base::ModelShape shape;
    shape.layers = 1000;
    shape.heads_kv = 1000;
    shape.head_dim = 1000;
    const auto layout = KvLayout::make(shape, {}, 16);
    REQUIRE(layout.has_value());
    const auto refused = KvStore::make(device::host_device(), *layout, 4'000'000);
    REQUIRE_FALSE(refused.has_value());
    REQUIRE(refused.error().code == base::ErrorCode::resource_exhausted);
    REQUIRE(refused.error().message.find("4000000 blocks") != std::string::npos);
}
