#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "kv_cache/kv_cache.h"
#include "tests/kv_cache/support.h"

#include "tests/support/catch.h"

namespace {

using base::BlockHash;
using kv_cache::BlockCounts;
using kv_cache::BlockHold;
using kv_cache::BlockId;
using kv_cache::KvCache;
using kv_cache::SequenceKv;
using kv_cache_test::make_chain;

constexpr std::uint32_t kTokens = 16;  // per block

SequenceKv open(KvCache& cache, std::uint32_t tokens) {
    auto sequence = cache.open({}, tokens);
    REQUIRE(sequence.has_value());
    return std::move(*sequence);
}

/// Opens a sequence of the whole chain, publishes it and closes it: its blocks are cached afterwards.
void fill_cache(KvCache& cache, std::span<const BlockHash> chain) {
    SequenceKv sequence = open(cache, static_cast<std::uint32_t>(chain.size()) * kTokens);
    sequence.publish(chain);
}

}  // namespace

TEST_CASE("dropped prefixes are found by nobody, whoever still uses their blocks", "[kv_cache]") {
    KvCache cache({.blocks_total = 20, .block_tokens = kTokens, .group_blocks_initial = 1});
    const auto cached = make_chain(1, 4);
    const auto used = make_chain(2, 3);
    const auto moved = make_chain(3, 2);
    fill_cache(cache, cached);
    SequenceKv sequence = open(cache, 3 * kTokens);
    sequence.publish(std::span(used).first(2));
    std::optional<BlockHold> hold;
    {
        SequenceKv short_lived = open(cache, 2 * kTokens);
        short_lived.publish(moved);
        hold = cache.hold(short_lived, 0, 2);
    }
    REQUIRE(cache.take_events()->stored.size() == 8u);
    const auto before = std::vector<BlockId>(sequence.blocks().begin(), sequence.blocks().end());

    REQUIRE(cache.drop_prefixes() == 8u);
    for (const auto& chain : {cached, used, moved}) {
        CHECK(cache.cached_tokens(chain, 1000) == 0u);
        CHECK(cache.match(chain, 1000).tokens() == 0u);
    }
    const auto events = cache.take_events();
    REQUIRE(events->removed.size() == 8u);
    REQUIRE(events->stored.empty());
    REQUIRE(cache.counts() == BlockCounts{.free = 15, .used = 3, .cached = 0, .pinned = 0, .stranded = 2});
    REQUIRE(std::vector<BlockId>(sequence.blocks().begin(), sequence.blocks().end()) == before);

    sequence.publish(used);  // what it computes now stands on what was dropped
    REQUIRE(cache.cached_tokens(used, 1000) == 0u);
    REQUIRE_FALSE(cache.take_events());
    hold.reset();
    sequence.close();
    REQUIRE(cache.counts() == BlockCounts{.free = 20});
    REQUIRE(cache.drop_prefixes() == 0u);

    fill_cache(cache, used);  // computed anew
    REQUIRE(cache.cached_tokens(used, 1000) == 3 * kTokens);
}
