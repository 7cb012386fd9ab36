// How long the runs of sequences are where memory is short: room that a group reserves, and who takes it from it.
#include <map>
#include <span>
#include <utility>
#include <vector>

#include "kv_cache/kv_cache.h"

#include "tests/kv_cache/support.h"
#include "tests/support/catch.h"

using kv_cache::BlockCounts;
using kv_cache::BlockId;
using kv_cache::BlockRun;
using kv_cache::KvCache;
using kv_cache::SequenceKv;
using kv_cache_test::make_chain;

namespace {

constexpr std::uint32_t kTokens = 16;  // per block

KvCache::Options make_options(std::uint32_t blocks_total, std::uint32_t group_blocks_initial) {
    return {.blocks_total = blocks_total, .block_tokens = kTokens, .group_blocks_initial = group_blocks_initial};
}

SequenceKv open(KvCache& cache, std::uint32_t tokens) {
    auto sequence = cache.open({}, tokens);
    REQUIRE(sequence.has_value());
    return std::move(*sequence);
}

}  // namespace

TEST_CASE("who is long when it begins has room for half as much again", "[kv_cache]") {
    KvCache cache(make_options(256, 8));
    SequenceKv first = open(cache, 40 * kTokens);
    SequenceKv second = open(cache, 40 * kTokens);
    for (std::uint32_t blocks = 41; blocks <= 60; ++blocks) {
        REQUIRE(first.reserve(blocks * kTokens).has_value());
        REQUIRE(second.reserve(blocks * kTokens).has_value());
    }
    CHECK(first.runs().size() == 1);
    CHECK(second.runs().size() == 1);
}

TEST_CASE("where no run is as long as a group wants it takes the longest", "[kv_cache]") {
    KvCache cache(make_options(256, 8));
    const SequenceKv a = open(cache, 16 * kTokens);
    SequenceKv b = open(cache, 24 * kTokens);  // reserves 12
    const SequenceKv c = open(cache, 8 * kTokens);
    const SequenceKv d = open(cache, 196 * kTokens);  // the rest
    b.close();
    REQUIRE(cache.pool().free_runs() == std::map<std::uint32_t, std::uint32_t>{{16, 36}});
    SequenceKv e = open(cache, 30 * kTokens);
    CHECK(cache.counts().free == 0);
    REQUIRE(e.reserve(36 * kTokens).has_value());
    CHECK(e.runs() == std::vector<BlockRun>{{BlockId{16}, 36}});
}

TEST_CASE("tails beyond an eighth of the pool go before what is cached", "[kv_cache]") {
    KvCache cache(make_options(256, 8));
    const SequenceKv a = open(cache, 64 * kTokens);  // reserves 32
    const SequenceKv b = open(cache, 48 * kTokens);  // 24
    {
        const auto chain = make_chain(1, 88);
        SequenceKv sequence = open(cache, 88 * kTokens);
        sequence.publish(chain);
    }
    REQUIRE(cache.counts() == BlockCounts{.used = 168, .cached = 88});
    const SequenceKv c = open(cache, 16 * kTokens);
    CHECK(cache.counts().cached == 88);
    const SequenceKv d = open(cache, 16 * kTokens);  // 8 of the tails are left to be taken so
    CHECK(cache.counts().cached == 80);
    CHECK(cache.counts().free == 0);
}

TEST_CASE("who grows by a block at a time out of another's tail gets a run of it", "[kv_cache]") {
    KvCache cache(make_options(64, 8));
    const SequenceKv a = open(cache, 32 * kTokens);  // reserves 16
    SequenceKv b = open(cache, 16 * kTokens);        // the rest
    REQUIRE(cache.counts() == BlockCounts{.used = 64});
    for (std::uint32_t blocks = 17; blocks <= 24; ++blocks) {
        REQUIRE(b.reserve(blocks * kTokens).has_value());
    }
    CHECK(b.runs().size() == 2);
}
