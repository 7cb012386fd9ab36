#include "kv_cache/kv_cache.h"

#include <algorithm>
#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "tests/kv_cache/support.h"

#include "tests/support/catch.h"

using base::BlockHash;
using kv_cache::BlockCounts;
using kv_cache::BlockHold;
using kv_cache::BlockId;
using kv_cache::BlockRun;
using kv_cache::KvCache;
using kv_cache::PrefixMatch;
using kv_cache::SequenceKv;
using kv_cache_test::make_chain;
using kv_cache_test::stops_the_process;

namespace {

constexpr std::uint32_t kTokens = 16;  // per block

KvCache::Options make_options(std::uint32_t blocks_total, std::uint32_t group_blocks_initial = 1) {
    return {.blocks_total = blocks_total, .block_tokens = kTokens, .group_blocks_initial = group_blocks_initial};
}

SequenceKv open(KvCache& cache, std::uint32_t tokens, PrefixMatch prefix = {}) {
    auto sequence = cache.open(std::move(prefix), tokens);
    REQUIRE(sequence.has_value());
    return std::move(*sequence);
}

/// Opens a sequence of the whole chain, publishes it and closes it: its blocks are cached afterwards.
void fill_cache(KvCache& cache, std::span<const BlockHash> chain) {
    SequenceKv sequence = open(cache, static_cast<std::uint32_t>(chain.size()) * kTokens);
    sequence.publish(chain);
}

std::vector<BlockId> table(const SequenceKv& sequence) {
    return {sequence.blocks().begin(), sequence.blocks().end()};
}

}  // namespace

TEST_CASE("a sequence takes the blocks for its tokens and gives them back when it dies", "[kv_cache]") {
    KvCache cache(make_options(10));
    REQUIRE(cache.counts() == BlockCounts{.free = 10});
    {
        const SequenceKv sequence = open(cache, 33);
        REQUIRE(sequence.is_open());
        REQUIRE(sequence.blocks().size() == 3);
        REQUIRE(sequence.tokens_capacity() == 48);
        REQUIRE(sequence.prefix_tokens() == 0);
        REQUIRE(cache.counts() == BlockCounts{.free = 7, .used = 3});
    }
    REQUIRE(cache.counts() == BlockCounts{.free = 10});
    REQUIRE(cache.pool().free_runs().size() == 1);
}

TEST_CASE("open is all or nothing: without room the prefix stays the caller's", "[kv_cache]") {
    KvCache cache(make_options(10));
    const auto chain = make_chain(1, 3);
    fill_cache(cache, chain);
    const SequenceKv other = open(cache, 5 * kTokens);
    PrefixMatch prefix = cache.match(chain, 100);
    REQUIRE(prefix.blocks().size() == 3);
    const BlockCounts before = cache.counts();
    const auto refused = cache.open(std::move(prefix), 6 * kTokens);
    REQUIRE_FALSE(refused.has_value());
    REQUIRE(refused.error().code == base::ErrorCode::resource_exhausted);
    REQUIRE(refused.error().message == "a sequence needs 3 more KV blocks, 2 of 10 can be had");
    REQUIRE(cache.counts() == before);
    REQUIRE(prefix.blocks().size() == 3);
    REQUIRE(open(cache, 5 * kTokens, std::move(prefix)).blocks().size() == 5);
}

TEST_CASE("a sequence that cannot grow keeps what it has", "[kv_cache]") {
    KvCache cache(make_options(4));
    SequenceKv sequence = open(cache, 3 * kTokens);
    const auto before = table(sequence);
    const auto refused = sequence.reserve(5 * kTokens);
    REQUIRE_FALSE(refused.has_value());
    REQUIRE(refused.error().code == base::ErrorCode::resource_exhausted);
    REQUIRE(table(sequence) == before);
    REQUIRE(cache.counts() == BlockCounts{.free = 1, .used = 3});
    REQUIRE(sequence.reserve(4 * kTokens).has_value());
    REQUIRE(sequence.reserve(1).has_value());  // never gives back
    REQUIRE(sequence.blocks().size() == 4);
}

TEST_CASE("a sequence alone grows in place and stays one run", "[kv_cache]") {
    KvCache cache(make_options(64));
    SequenceKv sequence = open(cache, 1);
    for (std::uint32_t tokens = 1; tokens <= 64 * kTokens; tokens += 7) {
        REQUIRE(sequence.reserve(tokens).has_value());
    }
    REQUIRE(sequence.runs() == std::vector<BlockRun>{{BlockId{0}, 64}});
}

TEST_CASE("sequences that grow side by side have runs of the reserved size", "[kv_cache]") {
    KvCache cache(make_options(64, 8));
    SequenceKv first = open(cache, 1);
    SequenceKv second = open(cache, 1);
    for (std::uint32_t blocks = 1; blocks <= 32; ++blocks) {
        REQUIRE(first.reserve(blocks * kTokens).has_value());
        REQUIRE(second.reserve(blocks * kTokens).has_value());
    }
    REQUIRE(first.runs().size() <= 4);
    REQUIRE(second.runs().size() <= 4);
    REQUIRE(cache.counts() == BlockCounts{.used = 64});
}

TEST_CASE("a group that cannot grow in place takes a second run by best fit", "[kv_cache]") {
    KvCache cache(make_options(20));
    SequenceKv a = open(cache, 4 * kTokens);
    const SequenceKv b = open(cache, 2 * kTokens);
    SequenceKv c = open(cache, 3 * kTokens);
    const SequenceKv d = open(cache, 1 * kTokens);
    c.close();  // free: [6, 9) and [10, 20)
    REQUIRE(a.reserve(7 * kTokens).has_value());
    REQUIRE(a.runs() == std::vector<BlockRun>{{BlockId{0}, 4}, {BlockId{6}, 3}});
    REQUIRE(a.reserve(9 * kTokens).has_value());
    REQUIRE(a.runs() == std::vector<BlockRun>{{BlockId{0}, 4}, {BlockId{6}, 3}, {BlockId{10}, 2}});
}

TEST_CASE("growing in place goes before a better fit elsewhere", "[kv_cache]") {
    KvCache cache(make_options(20));
    SequenceKv a = open(cache, 4 * kTokens);
    SequenceKv b = open(cache, 8 * kTokens);
    const SequenceKv c = open(cache, 1 * kTokens);
    SequenceKv d = open(cache, 2 * kTokens);
    const SequenceKv e = open(cache, 5 * kTokens);
    b.close();
    d.close();  // free: [4, 12) and [13, 15)
    REQUIRE(a.reserve(6 * kTokens).has_value());
    REQUIRE(a.runs() == std::vector<BlockRun>{{BlockId{0}, 6}});
}

TEST_CASE("when no free run is long enough the pieces are taken, largest first", "[kv_cache]") {
    KvCache cache(make_options(12));
    std::vector<SequenceKv> singles;
    for (int i = 0; i < 12; ++i) {
        singles.push_back(open(cache, 1));
    }
    for (const std::size_t i : {0u, 1u, 2u, 5u, 6u, 9u}) {
        singles[i].close();
    }
    const SequenceKv pieces = open(cache, 6 * kTokens);
    REQUIRE(pieces.runs() == std::vector<BlockRun>{{BlockId{0}, 3}, {BlockId{5}, 2}, {BlockId{9}, 1}});
}

TEST_CASE("reserved tails are taken from others when nothing else is left", "[kv_cache]") {
    KvCache cache(make_options(16, 8));
    SequenceKv a = open(cache, 1);
    const SequenceKv b = open(cache, 1);
    REQUIRE(cache.counts() == BlockCounts{.used = 16});
    REQUIRE(cache.blocks_available() == 14);
    SequenceKv c = open(cache, 10 * kTokens);
    REQUIRE(c.blocks().size() == 10);
    REQUIRE(cache.blocks_available() == 4);
    REQUIRE(a.reserve(5 * kTokens).has_value());  // its own rest and the other's
    REQUIRE_FALSE(a.reserve(6 * kTokens).has_value());
    c.close();
    REQUIRE(cache.counts() == BlockCounts{.free = 10, .used = 6});
}

TEST_CASE("cached blocks are given up before reserved tails", "[kv_cache]") {
    KvCache cache(make_options(16, 8));
    fill_cache(cache, make_chain(1, 8));
    const SequenceKv a = open(cache, 1);  // reserves the other 8
    REQUIRE(cache.counts() == BlockCounts{.used = 8, .cached = 8});
    const SequenceKv b = open(cache, 6 * kTokens);
    REQUIRE(cache.counts().cached == 2);
    REQUIRE(cache.blocks_available() == 2 + 7);
}

TEST_CASE("a published prefix is found, shared, and not counted twice", "[kv_cache]") {
    KvCache cache(make_options(20));
    const auto chain = make_chain(1, 4);
    SequenceKv first = open(cache, 4 * kTokens + 5);
    REQUIRE(cache.match(chain, 1000).tokens() == 0);  // nothing is found before it is published
    first.publish(chain);
    PrefixMatch match = cache.match(chain, 1000);
    REQUIRE(match.tokens() == 4 * kTokens);
    const SequenceKv second = open(cache, 6 * kTokens, std::move(match));
    REQUIRE(second.prefix_tokens() == 4 * kTokens);
    REQUIRE(std::equal(second.blocks().begin(), second.blocks().begin() + 4, first.blocks().begin()));
    REQUIRE(cache.counts() == BlockCounts{.free = 13, .used = 7});
    first.close();
    REQUIRE(cache.counts() == BlockCounts{.free = 14, .used = 6});
}

TEST_CASE("a match covers whole blocks and at most the tokens allowed", "[kv_cache]") {
    KvCache cache(make_options(20));
    const auto chain = make_chain(1, 4, 3);
    fill_cache(cache, chain);
    REQUIRE(cache.match(chain, 4 * kTokens).tokens() == 4 * kTokens);
    REQUIRE(cache.match(chain, 4 * kTokens - 1).tokens() == 3 * kTokens);
    REQUIRE(cache.match(chain, kTokens - 1).tokens() == 0);
    REQUIRE(cache.match(chain, 0).blocks().empty());
    REQUIRE(cache.match({}, 100).blocks().empty());
    REQUIRE(cache.match(std::span(chain).first(2), 100).tokens() == 2 * kTokens);
    REQUIRE(cache.match(make_chain(2, 4, 3), 100).tokens() == 3 * kTokens);
    REQUIRE(cache.match(make_chain(2, 4), 100).tokens() == 0);
    REQUIRE(cache.counts() == BlockCounts{.free = 16, .cached = 4});
}

TEST_CASE("a match keeps its blocks from being evicted until it dies", "[kv_cache]") {
    KvCache cache(make_options(4));
    const auto chain = make_chain(1, 3);
    fill_cache(cache, chain);
    PrefixMatch match = cache.match(chain, 2 * kTokens);
    REQUIRE(cache.counts() == BlockCounts{.free = 1, .used = 2, .cached = 1});
    REQUIRE_FALSE(cache.open({}, 3 * kTokens).has_value());
    match = PrefixMatch();
    REQUIRE(cache.counts() == BlockCounts{.free = 1, .cached = 3});
    REQUIRE(open(cache, 3 * kTokens).blocks().size() == 3);
}

TEST_CASE("of two sequences with the same tokens one keeps private blocks", "[kv_cache]") {
    KvCache cache(make_options(20));
    const auto chain = make_chain(1, 2);
    const auto longer = make_chain(1, 3);
    SequenceKv first = open(cache, 2 * kTokens);
    SequenceKv second = open(cache, 3 * kTokens);
    first.publish(chain);
    second.publish(longer);  // two duplicates and one new block behind them
    REQUIRE(cache.match(longer, 100).tokens() == 3 * kTokens);
    REQUIRE(table(second)[2] == cache.match(longer, 100).blocks()[2]);
    REQUIRE(table(first)[0] == cache.match(longer, 100).blocks()[0]);
    second.close();
    REQUIRE(cache.counts() == BlockCounts{.free = 17, .used = 2, .cached = 1});
    first.close();
    REQUIRE(cache.counts() == BlockCounts{.free = 17, .cached = 3});
}

TEST_CASE("the use of a private duplicate keeps the block of that name warm", "[kv_cache]") {
    KvCache cache(make_options(4));
    const auto chain = make_chain(1, 1);
    const auto other = make_chain(2, 1);
    SequenceKv first = open(cache, kTokens);
    SequenceKv second = open(cache, kTokens);
    first.publish(chain);
    second.publish(chain);
    first.close();
    fill_cache(cache, other);
    second.close();
    REQUIRE(cache.counts() == BlockCounts{.free = 2, .cached = 2});
    const SequenceKv pressure = open(cache, 3 * kTokens);
    REQUIRE(cache.match(chain, 100).tokens() == kTokens);
    REQUIRE(cache.match(other, 100).tokens() == 0);
}

TEST_CASE("publishing goes on where it stopped and a shorter chain changes nothing", "[kv_cache]") {
    KvCache cache(make_options(20));
    const auto chain = make_chain(1, 3);
    SequenceKv sequence = open(cache, 3 * kTokens);
    sequence.publish(std::span(chain).first(1));
    sequence.publish(chain);
    REQUIRE(cache.take_events()->stored.size() == 3);
    sequence.publish(std::span(chain).first(2));
    sequence.publish({});
    REQUIRE_FALSE(cache.take_events().has_value());
    cache.begin_snapshot();
    const auto snapshot = cache.take_events();
    REQUIRE(snapshot->snapshot);
    REQUIRE(snapshot->stored.size() == 3);
    REQUIRE_FALSE(cache.snapshot_unfinished());
    REQUIRE_FALSE(cache.take_events().has_value());
}

TEST_CASE("what is kept private is never found, what was published before stays", "[kv_cache]") {
    KvCache cache(make_options(10));
    const auto chain = make_chain(1, 4);
    {
        SequenceKv sequence = open(cache, 4 * kTokens);
        sequence.publish(std::span(chain).first(1));
        sequence.keep_private();
        sequence.publish(chain);
        REQUIRE(cache.match(chain, 4 * kTokens).tokens() == kTokens);
    }
    REQUIRE(cache.counts() == BlockCounts{.free = 9, .cached = 1});
}

TEST_CASE("the coldest ends of chains make room, and the scheduler is told", "[kv_cache]") {
    KvCache cache(make_options(8));
    const auto old_chain = make_chain(1, 3);
    const auto new_chain = make_chain(2, 3);
    fill_cache(cache, old_chain);
    fill_cache(cache, new_chain);
    REQUIRE(cache.take_events()->stored.size() == 6);
    {
        const SequenceKv sequence = open(cache, 4 * kTokens);
        REQUIRE(cache.counts() == BlockCounts{.used = 4, .cached = 4});
    }
    REQUIRE(cache.match(old_chain, 100).tokens() == kTokens);
    REQUIRE(cache.match(new_chain, 100).tokens() == 3 * kTokens);
    const auto events = cache.take_events();
    REQUIRE(events->stored.empty());
    REQUIRE(events->removed.size() == 2);
}

TEST_CASE("blocks of a transfer are pinned, stranded once the sequence is gone, then free", "[kv_cache]") {
    KvCache cache(make_options(10));
    SequenceKv sequence = open(cache, 4 * kTokens);
    const auto blocks = table(sequence);
    BlockHold hold = cache.hold(sequence, 1, 2);
    REQUIRE(std::equal(hold.blocks().begin(), hold.blocks().end(), blocks.begin() + 1));
    REQUIRE(cache.counts() == BlockCounts{.free = 6, .used = 2, .pinned = 2});
    sequence.close();
    REQUIRE_FALSE(sequence.is_open());
    REQUIRE(cache.counts() == BlockCounts{.free = 8, .stranded = 2});
    REQUIRE(cache.blocks_available() == 8);
    {
        const SequenceKv all = open(cache, 8 * kTokens);  // reuses everything but the stranded blocks
        for (const BlockId id : all.blocks()) {
            REQUIRE(id != blocks[1]);
            REQUIRE(id != blocks[2]);
        }
        REQUIRE_FALSE(cache.open({}, 1).has_value());
    }
    hold.release();
    REQUIRE(cache.counts() == BlockCounts{.free = 10});
    hold.release();  // once is enough
    REQUIRE(cache.counts() == BlockCounts{.free = 10});
}

TEST_CASE("stranded published blocks become cached when their transfer ends", "[kv_cache]") {
    KvCache cache(make_options(10));
    const auto chain = make_chain(1, 2);
    SequenceKv sequence = open(cache, 3 * kTokens);
    sequence.publish(chain);
    BlockHold first = cache.hold(sequence, 0, 3);
    BlockHold second = cache.hold(sequence, 0, 1);
    sequence.close();
    REQUIRE(cache.counts() == BlockCounts{.free = 7, .stranded = 3});
    // Still findable: a new sequence turns them into pinned ones.
    PrefixMatch match = cache.match(chain, 100);
    REQUIRE(match.tokens() == 2 * kTokens);
    REQUIRE(cache.counts() == BlockCounts{.free = 7, .pinned = 2, .stranded = 1});
    match = PrefixMatch();
    first = BlockHold();
    REQUIRE(cache.counts() == BlockCounts{.free = 8, .cached = 1, .stranded = 1});
    second.release();
    REQUIRE(cache.counts() == BlockCounts{.free = 8, .cached = 2});
}

TEST_CASE("cached blocks that are lent are found and shared, and not evicted until they are back", "[kv_cache]") {
    KvCache cache(make_options(4));
    const auto chain = make_chain(1, 3);
    fill_cache(cache, chain);
    PrefixMatch match = cache.match(chain, 2 * kTokens);
    BlockHold hold = cache.hold(match);
    REQUIRE(std::equal(hold.blocks().begin(), hold.blocks().end(), match.blocks().begin(), match.blocks().end()));
    match = PrefixMatch();
    REQUIRE(cache.counts() == BlockCounts{.free = 1, .cached = 1, .stranded = 2});
    REQUIRE_FALSE(cache.open({}, 3 * kTokens).has_value());
    match = cache.match(chain, 100);
    REQUIRE(cache.counts() == BlockCounts{.free = 1, .used = 1, .pinned = 2});
    hold.release();
    REQUIRE(cache.counts() == BlockCounts{.free = 1, .used = 3});
}

TEST_CASE("a hold that ends first leaves the sequence as it was", "[kv_cache]") {
    KvCache cache(make_options(10));
    const SequenceKv sequence = open(cache, 2 * kTokens);
    {
        const BlockHold hold = cache.hold(sequence, 0, 2);
        const BlockHold nothing = cache.hold(sequence, 2, 0);
        REQUIRE(nothing.blocks().empty());
        REQUIRE(cache.counts().pinned == 2);
    }
    REQUIRE(cache.counts() == BlockCounts{.free = 8, .used = 2});
}

TEST_CASE("truncate gives back the blocks behind and strands those of a transfer", "[kv_cache]") {
    KvCache cache(make_options(20, 8));
    const auto chain = make_chain(1, 2);
    SequenceKv sequence = open(cache, 5 * kTokens);
    sequence.publish(chain);
    REQUIRE(cache.counts() == BlockCounts{.free = 12, .used = 8});
    BlockHold hold = cache.hold(sequence, 4, 1);
    sequence.truncate(3 * kTokens - 4);
    REQUIRE(sequence.blocks().size() == 3);
    REQUIRE(cache.counts() == BlockCounts{.free = 16, .used = 3, .stranded = 1});
    hold.release();
    sequence.truncate(100 * kTokens);  // nothing is behind
    REQUIRE(sequence.blocks().size() == 3);
    REQUIRE(sequence.reserve(4 * kTokens).has_value());
    REQUIRE(sequence.runs().size() == 1);
    sequence.truncate(kTokens);  // a published block goes: it is cached
    REQUIRE(cache.counts().cached == 1);
    sequence.publish(std::span(chain).first(1));
    sequence.truncate(0);
    REQUIRE(sequence.blocks().empty());
    REQUIRE(sequence.tokens_capacity() == 0);
    REQUIRE(cache.counts() == BlockCounts{.free = 18, .cached = 2});
    REQUIRE(sequence.reserve(kTokens).has_value());
    REQUIRE(sequence.blocks().size() == 1);
}

TEST_CASE("truncate inside the shared prefix shortens the prefix", "[kv_cache]") {
    KvCache cache(make_options(20));
    const auto chain = make_chain(1, 3);
    fill_cache(cache, chain);
    SequenceKv sequence = open(cache, 4 * kTokens, cache.match(chain, 100));
    sequence.truncate(kTokens);
    REQUIRE(sequence.prefix_tokens() == kTokens);
    REQUIRE(cache.counts() == BlockCounts{.free = 17, .used = 1, .cached = 2});
    sequence.publish(std::span(chain).first(1));  // no change
    REQUIRE(sequence.reserve(2 * kTokens).has_value());
    REQUIRE(sequence.blocks()[1] != cache.match(chain, 100).blocks()[1]);  // a shared block is never rewritten
}

TEST_CASE("the next turn of a conversation grows right behind its cached blocks", "[kv_cache]") {
    KvCache cache(make_options(64, 8));
    const auto chain = make_chain(1, 10);
    fill_cache(cache, std::span(chain).first(6));
    const SequenceKv next = open(cache, 10 * kTokens, cache.match(chain, 1000));
    REQUIRE(next.prefix_tokens() == 6 * kTokens);
    REQUIRE(next.runs().size() == 1);
}

TEST_CASE("evictions in portions leave room that is contiguous", "[kv_cache]") {
    KvCache cache(make_options(256, 8));
    for (std::uint32_t document = 1; document <= 16; ++document) {
        fill_cache(cache, make_chain(document, 16));
    }
    REQUIRE(cache.counts() == BlockCounts{.cached = 256});
    SequenceKv first = open(cache, 1);
    SequenceKv second = open(cache, 1);
    for (std::uint32_t blocks = 1; blocks <= 64; ++blocks) {
        REQUIRE(first.reserve(blocks * kTokens).has_value());
        REQUIRE(second.reserve(blocks * kTokens).has_value());
    }
    REQUIRE(first.runs().size() <= 8);
    REQUIRE(second.runs().size() <= 8);
}

TEST_CASE("leases can be moved and assigned without losing or doubling a block", "[kv_cache]") {
    KvCache cache(make_options(10));
    SequenceKv a = open(cache, 2 * kTokens);
    SequenceKv b = open(cache, 3 * kTokens);
    BlockHold hold = cache.hold(a, 0, 2);
    a = std::move(b);
    REQUIRE(a.blocks().size() == 3);
    REQUIRE_FALSE(b.is_open());
    REQUIRE(cache.counts() == BlockCounts{.free = 5, .used = 3, .stranded = 2});
    BlockHold moved = std::move(hold);
    REQUIRE(hold.blocks().empty());
    hold = cache.hold(a, 0, 1);
    moved = std::move(hold);
    REQUIRE(cache.counts() == BlockCounts{.free = 7, .used = 2, .pinned = 1});
    a = SequenceKv();
    REQUIRE(cache.counts() == BlockCounts{.free = 9, .stranded = 1});
}

TEST_CASE("blocks of an earlier life are found under their names, the last adopted longest", "[kv_cache]") {
    KvCache cache(make_options(6));
    const auto chain = make_chain(1, 3);
    const auto other = make_chain(2, 2);
    REQUIRE(cache.adopt(BlockId{4}, chain[1], chain[0]));  // in any order
    REQUIRE(cache.adopt(BlockId{0}, chain[0], std::nullopt));
    REQUIRE(cache.adopt(BlockId{2}, other[0], std::nullopt));
    REQUIRE(cache.adopt(BlockId{5}, chain[2], chain[1]));
    REQUIRE_FALSE(cache.adopt(BlockId{1}, chain[0], std::nullopt));  // the name is taken
    REQUIRE_FALSE(cache.adopt(BlockId{2}, other[1], other[0]));      // the block is
    REQUIRE_FALSE(cache.adopt(BlockId{6}, other[1], other[0]));      // there is none
    REQUIRE_FALSE(cache.adopt(BlockId{1}, other[1], other[1]));      // nobody comes before himself
    REQUIRE(cache.counts() == BlockCounts{.free = 2, .cached = 4});
    {
        const PrefixMatch match = cache.match(chain, 1000);
        REQUIRE(std::vector(match.blocks().begin(), match.blocks().end()) ==
                std::vector{BlockId{0}, BlockId{4}, BlockId{5}});
    }
    const SequenceKv sequence = open(cache, 3 * kTokens);  // one has to go
    REQUIRE(cache.match(other, 1000).tokens() == 0);
    REQUIRE(cache.match(chain, 1000).tokens() == 3 * kTokens);
}

TEST_CASE("what is forgotten is not found, and free when nobody uses it any more", "[kv_cache]") {
    KvCache cache(make_options(6));
    const auto chain = make_chain(1, 4);
    fill_cache(cache, chain);
    {
        const PrefixMatch match = cache.match(chain, 1000);
        const PrefixMatch user = cache.match(chain, 1000);
        cache.forget(match, 2);
        cache.forget(user, 3);  // again: nothing
        REQUIRE(cache.match(chain, 1000).tokens() == 2 * kTokens);
        REQUIRE(cache.counts() == BlockCounts{.free = 2, .used = 4});
    }
    REQUIRE(cache.counts() == BlockCounts{.free = 4, .cached = 2});
    fill_cache(cache, chain);
    REQUIRE(cache.match(chain, 1000).tokens() == 4 * kTokens);
}

TEST_CASE("what only a conversation had that is over is evicted first, what others found with it is not",
          "[kv_cache]") {
    KvCache cache(make_options(8));
    const auto ours = make_chain(1, 4, 2);
    const auto other = make_chain(2, 3, 2);
    const auto turn = [&](std::span<const BlockHash> chain, std::uint64_t conversation, bool is_last) {
        auto sequence =
            cache.open(cache.match(chain, 1000), static_cast<std::uint32_t>(chain.size()) * kTokens, conversation);
        REQUIRE(sequence.has_value());
        sequence->publish(chain);
        if (is_last) { sequence->give_up_first(); }
    };
    const auto found = [&](std::span<const BlockHash> chain) { return cache.cached_tokens(chain, 1000) / kTokens; };
    const bool is_shared = GENERATE(true, false);
    CAPTURE(is_shared);
    const auto unlike = make_chain(3, 3);
    turn(is_shared ? other : unlike, 8, false);
    turn(std::span(ours).first(3), 7, false);
    turn(ours, 7, true);
    const std::uint32_t kept = cache.counts().cached;
    const SequenceKv newcomer = open(cache, (cache.counts().free + (is_shared ? 2 : 4)) * kTokens);
    REQUIRE(cache.counts().cached == kept - (is_shared ? 2 : 4));
    if (is_shared) {
        REQUIRE(found(other) == 3);
        REQUIRE(found(ours) == 2);
    } else {
        REQUIRE(found(ours) == 0);
        REQUIRE(cache.counts().cached == 3);  // the older ones
    }
}

TEST_CASE("a conversation that goes on after all keeps its blocks like any other", "[kv_cache]") {
    KvCache cache(make_options(6));
    const auto ours = make_chain(1, 3);
    const auto other = make_chain(2, 3);
    {
        auto last = cache.open({}, 3 * kTokens, 7);
        REQUIRE(last.has_value());
        last->publish(ours);
        last->give_up_first();
    }
    fill_cache(cache, other);
    { const auto again = cache.open(cache.match(ours, 1000), 3 * kTokens, 7); }
    const SequenceKv newcomer = open(cache, 3 * kTokens);
    REQUIRE(cache.cached_tokens(ours, 1000) == 3 * kTokens);
    REQUIRE(cache.cached_tokens(other, 1000) == 0);
}

TEST_CASE("use against the contract stops the process", "[kv_cache]") {
    const auto chain = make_chain(1, 2);
    REQUIRE(stops_the_process([] { KvCache cache(make_options(4, 0)); }));
    REQUIRE(stops_the_process([] {  // a lease outlives the cache
        auto cache = std::make_unique<KvCache>(make_options(4));
        const SequenceKv sequence = *cache->open({}, 1);
        cache.reset();
    }));
    KvCache cache(make_options(10));
    SequenceKv sequence = open(cache, 2 * kTokens);
    sequence.publish(chain);
    REQUIRE(stops_the_process([&] { sequence.truncate(kTokens + 1); }));  // inside a published block
    REQUIRE(stops_the_process([&] { sequence.publish(make_chain(1, 3)); }));
    REQUIRE(stops_the_process([&] { sequence.publish(make_chain(2, 2)); }));  // other tokens than before
    REQUIRE(stops_the_process([&] { static_cast<void>(cache.hold(sequence, 1, 2)); }));
    REQUIRE(stops_the_process([&] { static_cast<void>(cache.open({}, 0)); }));
    REQUIRE(stops_the_process([&] { static_cast<void>(cache.open(cache.match(chain, 100), 31)); }));
    REQUIRE(stops_the_process([] { static_cast<void>(SequenceKv().blocks()); }));
    KvCache other(make_options(10));
    REQUIRE(stops_the_process([&] { static_cast<void>(other.hold(sequence, 0, 1)); }));
    REQUIRE(stops_the_process([&] { static_cast<void>(other.open(cache.match(chain, 100), 100)); }));
}
