#include "kv_cache/prefix_index.h"

#include <cstdint>
#include <optional>
#include <set>
#include <vector>

#include "tests/kv_cache/support.h"

#include "tests/support/catch.h"

using base::BlockHash;
using kv_cache::BlockId;
using kv_cache::PrefixIndex;
using kv_cache_test::make_chain;
using kv_cache_test::stops_the_process;

namespace {

/// Blocks first, first + 1, ... for the hashes from `from` on.
void insert_chain(PrefixIndex& index, const std::vector<BlockHash>& chain, std::uint32_t first, std::size_t from = 0) {
    for (std::size_t i = from; i < chain.size(); ++i) {
        const auto parent = i == 0 ? std::nullopt : std::optional(chain[i - 1]);
        REQUIRE(index.insert(chain[i], parent, BlockId{first + static_cast<std::uint32_t>(i - from)}));
    }
}

}  // namespace

TEST_CASE("a name belongs to the first block that took it", "[kv_cache]") {
    PrefixIndex index;
    const auto chain = make_chain(1, 1);
    REQUIRE_FALSE(index.find(chain[0]).has_value());
    REQUIRE(index.insert(chain[0], std::nullopt, BlockId{3}));
    REQUIRE_FALSE(index.insert(chain[0], std::nullopt, BlockId{4}));
    REQUIRE(index.find(chain[0]) == BlockId{3});
    REQUIRE(index.size() == 1);
    REQUIRE(index.blocks_idle() == 0);
}

TEST_CASE("blocks in use are never evicted", "[kv_cache]") {
    PrefixIndex index;
    const auto chain = make_chain(1, 2);
    insert_chain(index, chain, 0);
    REQUIRE_FALSE(index.evict().has_value());
    index.set_idle(chain[1]);
    index.set_idle(chain[0]);
    index.set_in_use(chain[0]);
    REQUIRE(index.evict() == BlockId{1});
    REQUIRE_FALSE(index.evict().has_value());
    REQUIRE(index.find(chain[0]) == BlockId{0});
    REQUIRE_FALSE(index.find(chain[1]).has_value());
}

TEST_CASE("the end of a chain is evicted before its beginning, whatever became idle first", "[kv_cache]") {
    PrefixIndex index;
    const auto chain = make_chain(1, 3);
    insert_chain(index, chain, 0);
    for (const BlockHash& hash : chain) {  // beginning first
        index.set_idle(hash);
    }
    REQUIRE(index.blocks_idle() == 3);
    REQUIRE(index.evict() == BlockId{2});
    REQUIRE(index.evict() == BlockId{1});
    REQUIRE(index.evict() == BlockId{0});
    REQUIRE_FALSE(index.evict().has_value());
    REQUIRE(index.size() == 0);
}

TEST_CASE("a shared beginning waits for all chains behind it", "[kv_cache]") {
    PrefixIndex index;
    const auto left = make_chain(1, 2, 1);
    const auto right = make_chain(2, 2, 1);
    REQUIRE(left[0] == right[0]);
    insert_chain(index, left, 0);
    insert_chain(index, right, 2, 1);
    index.set_idle(left[0]);
    index.set_idle(left[1]);
    index.set_idle(right[1]);
    REQUIRE(index.evict() == BlockId{1});
    REQUIRE(index.evict() == BlockId{2});
    REQUIRE(index.evict() == BlockId{0});
}

TEST_CASE("among ends of chains the one idle for longest goes first, and a touch renews it", "[kv_cache]") {
    PrefixIndex index;
    std::vector<BlockHash> hashes;
    for (std::uint32_t i = 0; i < 3; ++i) {
        hashes.push_back(make_chain(i + 1, 1)[0]);
        REQUIRE(index.insert(hashes[i], std::nullopt, BlockId{i}));
        index.set_idle(hashes[i]);
    }
    index.touch(hashes[0]);
    index.touch(make_chain(9, 1)[0]);  // unknown: nothing
    REQUIRE(index.evict() == BlockId{1});
    index.set_in_use(hashes[2]);
    index.touch(hashes[2]);  // in use: nothing
    index.set_idle(hashes[2]);
    REQUIRE(index.evict() == BlockId{0});
    REQUIRE(index.evict() == BlockId{2});
}

TEST_CASE("a beginning whose end is in use can still be evicted when nothing else is idle", "[kv_cache]") {
    PrefixIndex index;
    const auto chain = make_chain(1, 2);
    insert_chain(index, chain, 0);
    index.set_idle(chain[0]);
    REQUIRE(index.evict() == BlockId{0});
    // The beginning comes back under another block while the old end becomes idle.
    index.set_idle(chain[1]);
    REQUIRE(index.insert(chain[0], std::nullopt, BlockId{7}));
    index.set_idle(chain[0]);
    REQUIRE(index.evict() == BlockId{1});
    REQUIRE(index.evict() == BlockId{7});
}

TEST_CASE("events say what changed since the last ones, numbered without gaps", "[kv_cache]") {
    PrefixIndex index;
    REQUIRE_FALSE(index.take_events().has_value());
    const auto chain = make_chain(1, 2);
    insert_chain(index, chain, 0);
    auto events = index.take_events();
    REQUIRE(events.has_value());
    REQUIRE(events->number == 1);
    REQUIRE_FALSE(events->snapshot);
    REQUIRE(std::set<BlockHash>(events->stored.begin(), events->stored.end()) ==
            std::set<BlockHash>(chain.begin(), chain.end()));
    REQUIRE(events->removed.empty());
    REQUIRE_FALSE(index.take_events().has_value());

    index.set_idle(chain[1]);  // a use is no change of what can be found
    REQUIRE_FALSE(index.take_events().has_value());
    REQUIRE(index.evict() == BlockId{1});
    events = index.take_events();
    REQUIRE(events.has_value());
    REQUIRE(events->number == 2);
    REQUIRE(events->stored.empty());
    REQUIRE(events->removed == std::vector<BlockHash>{chain[1]});
}

TEST_CASE("what came and went, or went and came, between two events is no event", "[kv_cache]") {
    PrefixIndex index;
    const auto chain = make_chain(1, 1);
    insert_chain(index, chain, 0);
    index.set_idle(chain[0]);
    REQUIRE(index.evict().has_value());
    REQUIRE_FALSE(index.take_events().has_value());
    insert_chain(index, chain, 0);
    REQUIRE(index.take_events().has_value());
    index.set_idle(chain[0]);
    REQUIRE(index.evict().has_value());
    insert_chain(index, chain, 5);
    REQUIRE_FALSE(index.take_events().has_value());
    REQUIRE(index.find(chain[0]) == BlockId{5});
}

TEST_CASE("a snapshot replaces all events before it and takes a number", "[kv_cache]") {
    PrefixIndex index;
    const auto chain = make_chain(1, 3);
    insert_chain(index, chain, 0);
    const auto snapshot = index.take_part(chain, true, true);
    REQUIRE(snapshot.number == 1);
    REQUIRE(snapshot.snapshot);
    REQUIRE(snapshot.stored.size() == 3);
    REQUIRE(snapshot.removed.empty());
    REQUIRE_FALSE(index.take_events().has_value());
    index.set_idle(chain[2]);
    REQUIRE(index.evict().has_value());
    REQUIRE(index.take_events()->number == 2);
    const auto empty = PrefixIndex().take_part({}, true, true);
    REQUIRE(empty.number == 1);
    REQUIRE(empty.stored.empty());
}

TEST_CASE("using an index against its contract stops the process", "[kv_cache]") {
    PrefixIndex index;
    const auto chain = make_chain(1, 1);
    insert_chain(index, chain, 0);
    REQUIRE(stops_the_process([&] { index.set_in_use(chain[0]); }));
    REQUIRE(stops_the_process([&] { index.set_idle(make_chain(2, 1)[0]); }));
    REQUIRE(stops_the_process([&] { index.insert(chain[0], chain[0], BlockId{1}); }));
    index.set_idle(chain[0]);
    REQUIRE(stops_the_process([&] { index.set_idle(chain[0]); }));
}
