#include "kv_cache/block_pool.h"

#include "tests/kv_cache/support.h"

#include "tests/support/catch.h"

using kv_cache::BlockId;
using kv_cache::BlockPool;
using kv_cache::BlockRun;
using kv_cache_test::stops_the_process;

namespace {

using Runs = std::map<std::uint32_t, std::uint32_t>;

/// A pool whose free runs are exactly these.
BlockPool make_pool(std::uint32_t blocks_total, const Runs& free) {
    BlockPool pool(blocks_total);
    REQUIRE(pool.take_best_fit(blocks_total).has_value());
    for (const auto& [first, count] : free) {
        pool.give_back({BlockId{first}, count});
    }
    REQUIRE(pool.free_runs() == free);
    return pool;
}

}  // namespace

TEST_CASE("a new pool is one free run", "[kv_cache]") {
    const BlockPool pool(10);
    REQUIRE(pool.blocks_total() == 10);
    REQUIRE(pool.blocks_free() == 10);
    REQUIRE(pool.free_runs() == Runs{{0, 10}});
}

TEST_CASE("best fit takes the smallest run that is large enough and splits it", "[kv_cache]") {
    BlockPool pool = make_pool(40, {{0, 8}, {10, 4}, {20, 5}, {30, 4}});
    REQUIRE(pool.take_best_fit(4) == BlockRun{BlockId{10}, 4});
    REQUIRE(pool.take_best_fit(3) == BlockRun{BlockId{30}, 3});
    REQUIRE(pool.free_runs() == Runs{{0, 8}, {20, 5}, {33, 1}});
    REQUIRE(pool.take_best_fit(6) == BlockRun{BlockId{0}, 6});
    REQUIRE_FALSE(pool.take_best_fit(6).has_value());
    REQUIRE(pool.blocks_free() == 8);
}

TEST_CASE("the largest run is taken whole, the lower one when two are equal", "[kv_cache]") {
    BlockPool pool = make_pool(30, {{0, 2}, {10, 5}, {20, 5}});
    REQUIRE(pool.take_largest() == BlockRun{BlockId{10}, 5});
    REQUIRE(pool.take_largest() == BlockRun{BlockId{20}, 5});
    REQUIRE(pool.take_largest() == BlockRun{BlockId{0}, 2});
    REQUIRE_FALSE(pool.take_largest().has_value());
}

TEST_CASE("growing in place takes what is free right there", "[kv_cache]") {
    BlockPool pool = make_pool(30, {{10, 5}});
    REQUIRE(pool.take_at(BlockId{9}, 3) == 0);
    REQUIRE(pool.take_at(BlockId{15}, 3) == 0);
    REQUIRE(pool.take_at(BlockId{12}, 0) == 0);
    REQUIRE(pool.take_at(BlockId{11}, 2) == 2);
    REQUIRE(pool.free_runs() == Runs{{10, 1}, {13, 2}});
    REQUIRE(pool.take_at(BlockId{13}, 9) == 2);
    REQUIRE(pool.take_at(BlockId{30}, 1) == 0);
    REQUIRE(pool.blocks_free() == 1);
}

TEST_CASE("a freed run joins its neighbours on both sides", "[kv_cache]") {
    BlockPool pool = make_pool(30, {{0, 4}, {8, 4}, {20, 2}});
    pool.give_back({BlockId{4}, 4});
    REQUIRE(pool.free_runs() == Runs{{0, 12}, {20, 2}});
    pool.give_back({BlockId{22}, 8});
    REQUIRE(pool.free_runs() == Runs{{0, 12}, {20, 10}});
    pool.give_back({BlockId{12}, 8});
    REQUIRE(pool.free_runs() == Runs{{0, 30}});
}

TEST_CASE("giving back what is free, or what does not exist, stops the process", "[kv_cache]") {
    BlockPool pool = make_pool(30, {{10, 5}});
    for (const BlockRun wrong : {BlockRun{BlockId{10}, 1}, BlockRun{BlockId{14}, 3}, BlockRun{BlockId{8}, 3},
                                 BlockRun{BlockId{0}, 30}, BlockRun{BlockId{29}, 2}, BlockRun{BlockId{30}, 1},
                                 BlockRun{BlockId{0}, 0}, BlockRun{BlockId{5}, 0xffffffff}}) {
        CAPTURE(base::raw(wrong.first), wrong.count);
        REQUIRE(stops_the_process([&] { pool.give_back(wrong); }));
    }
    REQUIRE_FALSE(stops_the_process([&] { pool.give_back({BlockId{15}, 1}); }));
}
