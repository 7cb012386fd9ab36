#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "scheduler/block_index.h"
#include "tests/scheduler/builders.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using scheduler_test::make_hash;

TEST_CASE("the block index equals a set per worker", "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::uint32_t slots = seed % 3 == 0 ? 150 : 5;  // more than one word, or less
    const std::uint64_t hashes = 60;
    scheduler::BlockIndex index(1000);
    std::vector<std::set<std::uint64_t>> model(slots);
    for (int step = 0; step < 2000; ++step) {
        const std::uint32_t slot = static_cast<std::uint32_t>(random() % slots);
        const std::uint64_t hash = random() % hashes;
        const auto action = random() % 100;
        if (action < 60) {
            index.add(slot, make_hash(hash));
            model[slot].insert(hash);
        } else if (action < 97) {
            index.remove(slot, make_hash(hash));
            model[slot].erase(hash);
        } else {
            index.clear(slot);
            model[slot].clear();
        }
        REQUIRE(index.blocks_of(slot) == model[slot].size());
    }
    std::set<std::uint64_t> known;
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
        known.insert(model[slot].begin(), model[slot].end());
        for (std::uint64_t hash = 0; hash < hashes; ++hash) {
            REQUIRE(index.holds(slot, make_hash(hash)) == (model[slot].count(hash) > 0));
        }
    }
    REQUIRE(index.blocks() == known.size());

    for (int chain_number = 0; chain_number < 20; ++chain_number) {
        std::vector<std::uint64_t> chain(random() % 12);
        std::vector<base::BlockHash> chain_hashes;
        for (std::uint64_t& hash : chain) {
            hash = random() % hashes;
            chain_hashes.push_back(make_hash(hash));
        }
        std::vector<std::uint32_t> leading;
        index.match(chain_hashes, slots, leading);
        REQUIRE(leading.size() == slots);
        for (std::uint32_t slot = 0; slot < slots; ++slot) {
            std::uint32_t expected = 0;
            while (expected < chain.size() && model[slot].count(chain[expected]) > 0) {
                ++expected;
            }
            REQUIRE(leading[slot] == expected);
        }
    }
}

TEST_CASE("a full block index learns nothing new and keeps what it has", "[scheduler][property]") {
    scheduler::BlockIndex index(3);
    for (std::uint64_t hash = 0; hash < 5; ++hash) {
        index.add(0, make_hash(hash));
    }
    REQUIRE(index.blocks() == 3);
    index.add(1, make_hash(2));  // a known hash at another worker costs nothing
    REQUIRE(index.holds(1, make_hash(2)));
    index.remove(0, make_hash(4));
    REQUIRE(index.blocks() == 3);
    index.remove(0, make_hash(0));
    index.add(0, make_hash(4));
    REQUIRE(index.holds(0, make_hash(4)));
    REQUIRE(index.blocks() == 3);
}

TEST_CASE("halving a prompt finds what walking it finds, where workers hold chains from their start",
          "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::uint32_t slots = seed % 3 == 0 ? 150 : 9;
    scheduler::BlockIndex index(100'000);
    // Conversations that share a start, each held by some to some depth; what was held is given up from the end.
    std::vector<std::vector<base::BlockHash>> chains;
    const std::size_t shared = random() % 20;
    for (std::uint64_t conversation = 0; conversation < 4; ++conversation) {
        auto& chain = chains.emplace_back();
        const std::size_t length = random() % 300;
        for (std::uint64_t i = 0; i < length; ++i) {
            chain.push_back(make_hash(i < shared ? i : 1000 * (conversation + 1) + i));
        }
    }
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
        for (const auto& chain : chains) {
            if (chain.empty() || random() % 2 == 0) { continue; }
            const std::size_t held = random() % 3 == 0 ? chain.size() : random() % chain.size();
            for (std::size_t i = 0; i < held; ++i) {
                index.add(slot, chain[i]);
            }
            for (std::size_t i = held; i > shared && random() % 5 != 0; --i) {
                index.remove(slot, chain[i - 1]);
            }
        }
    }
    for (const auto& chain : chains) {
        std::vector<std::uint32_t> leading;
        index.match(chain, slots, leading);
        scheduler::PrefixSearch search(index, chain);
        const std::uint32_t most = leading.empty() ? 0 : *std::max_element(leading.begin(), leading.end());
        REQUIRE(search.deepest() == most);
        for (std::uint32_t slot = 0; slot < slots; ++slot) {
            REQUIRE(search.blocks_of(slot) == leading[slot]);
        }
        // Down the lengths that are held, from the longest.
        for (std::uint32_t length = most; length > 0;) {
            std::uint32_t holders = 0;
            std::uint32_t below = 0;
            for (const std::uint32_t one : leading) {
                holders += one >= length;
                if (one < length) { below = std::max(below, one); }
            }
            REQUIRE(search.holders(length) == holders);
            std::uint32_t visited = 0;
            search.for_each_holder(length, 1, [&](std::uint32_t slot) {
                ++visited;
                REQUIRE(leading[slot] >= length);
            });
            REQUIRE(visited == holders);
            const std::uint32_t next = search.next_below(length);
            REQUIRE(next == below);
            length = next;
        }
    }
}
