// What the scheduler believes, when it has replayed what it is told, is what pool and tiers hold.
#include "worker/known_blocks.h"

#include <map>
#include <memory>
#include <vector>

#include "kv_cache/kv_cache.h"

#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"
#include "tests/support/seeds.h"

using base::BlockHash;
using kv_cache::KvCache;
using test_support::Random;
using worker::KnownBlocks;

namespace {

std::vector<BlockHash> chain_of(std::uint64_t number, std::uint32_t blocks) {
    std::vector<BlockHash> chain;
    for (std::uint64_t i = 0; i < blocks; ++i) {
        chain.push_back({number, i + 1});
    }
    return chain;
}

void fill(KvCache& cache, const std::vector<BlockHash>& chain) {
    const std::uint32_t tokens = static_cast<std::uint32_t>(chain.size()) * cache.options().block_tokens;
    auto sequence = cache.open(cache.match(chain, tokens), tokens);
    REQUIRE(sequence.has_value());
    sequence->publish(chain);
}

/// What BlockNews makes of events.
struct Believed {
    void take(const worker::KnownBlockEvents& told) {
        const kv_cache::BlockEvents& events = told.events;
        REQUIRE(events.number == ++number);
        if (events.snapshot) { levels.clear(); }
        for (const BlockHash& hash : events.stored) {
            levels[hash] = 0;
        }
        for (const BlockHash& hash : events.removed) {
            levels.erase(hash);
        }
        for (std::size_t level = 0; level < told.below.size(); ++level) {
            for (const BlockHash& hash : told.below[level]) {
                // Of a snapshot that is not told to its end it may be one that comes later.
                if (const auto at = levels.find(hash); at != levels.end()) { at->second = level + 1; }
            }
        }
    }
    std::uint64_t number = 0;
    std::map<BlockHash, std::size_t> levels;
};

}  // namespace

TEST_CASE("a block that leaves the pool and is in a tier has not gone", "[worker]") {
    KvCache pool({.blocks_total = 4});
    KvCache tier({.blocks_total = 8});
    KnownBlocks known;
    known.add(pool);
    known.add(tier);
    const auto first = chain_of(1, 4);
    fill(pool, first);
    fill(tier, first);
    REQUIRE(known.events_pending() == 8);
    REQUIRE(known.take_events()->events.stored == first);
    fill(pool, chain_of(2, 4));
    const auto told = known.take_events();
    REQUIRE(told->events.number == 2);
    REQUIRE(told->events.stored == chain_of(2, 4));
    REQUIRE(told->events.removed.empty());
    REQUIRE(told->below == std::vector<std::vector<BlockHash>>{first});  // has moved down
    REQUIRE(known.tokens(first, 1000) == 64);
    REQUIRE(known.tokens(first, 40) == 32);
    fill(tier, chain_of(3, 8));
    REQUIRE(known.take_events()->events.removed == first);
    REQUIRE_FALSE(known.take_events().has_value());
}

TEST_CASE("whatever pool and tiers do, replaying the events gives what they hold", "[worker][property]") {
    const std::uint32_t seed = GENERATE(range(0u, test_support::seeds_of(60)));
    INFO("seed " << seed);
    Random random{seed};
    std::vector<std::unique_ptr<KvCache>> caches;
    KnownBlocks known;
    for (const std::uint32_t blocks : {8u, 20u, 30u}) {
        caches.push_back(std::make_unique<KvCache>(KvCache::Options{.blocks_total = blocks}));
        known.add(*caches.back());
    }
    Believed believed;
    for (int step = 0; step < 300; ++step) {
        KvCache& cache = *caches[random() % caches.size()];
        const std::uint32_t what = random() % 20;
        if (what < 16) { fill(cache, chain_of(random() % 6, 1 + random() % 8)); }
        if (what == 16) { cache.drop_prefixes(); }
        if (what == 17) {  // nobody listens for a while
            known.forget_events();
            known.begin_snapshot();
        }
        if (what == 18) {
            const auto chain = chain_of(random() % 6, 8);
            const auto match = cache.match(chain, 1000);
            cache.forget(match, random() % 4);
        }
        if (random() % 3 != 0) { continue; }
        if (const auto events = known.take_events()) { believed.take(*events); }
        if (known.snapshot_unfinished()) { continue; }
        std::map<BlockHash, std::size_t> held;
        for (std::uint64_t number = 0; number < 6; ++number) {
            for (const BlockHash& hash : chain_of(number, 8)) {
                for (std::size_t level = 0; level < caches.size(); ++level) {
                    if (caches[level]->cached_tokens(std::span(&hash, 1), 16) > 0) { held.emplace(hash, level); }
                }
            }
        }
        REQUIRE(believed.levels == held);
    }
}
