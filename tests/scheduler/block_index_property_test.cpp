#include <algorithm>
#include <array>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "scheduler/block_index.h"
#include "scheduler/prefix_search.h"
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

TEST_CASE("the block index equals a set per worker where many hashes want the same places", "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    scheduler::BlockIndex index(1000);
    std::map<base::BlockHash, std::set<std::uint32_t>> model;
    // Few homes, the last bucket of a table of any size among them, and nothing but `high` to tell hashes apart.
    const std::array<std::uint64_t, 4> lows = {~std::uint64_t{0}, ~std::uint64_t{0} - 1, 0, 1};
    for (int step = 0; step < 3000; ++step) {
        const base::BlockHash hash{.high = random() % 20, .low = lows[random() % (1 + seed % 4)]};
        const auto slot = static_cast<std::uint32_t>(random() % 3);
        const auto action = random() % 100;
        if (action < 55) {
            REQUIRE(index.add(slot, hash) == model[hash].insert(slot).second);
        } else if (action < 99) {
            index.remove(slot, hash);
            model[hash].erase(slot);
        } else {
            index.clear(slot);
            for (auto& [held, slots] : model) {
                slots.erase(slot);
            }
        }
        std::erase_if(model, [](const auto& one) { return one.second.empty(); });
        REQUIRE(index.blocks() == model.size());
        if (step % 50 != 0) { continue; }
        for (const auto& [held, slots] : model) {
            REQUIRE(index.holders().size(index.holders_of(held)) == slots.size());
            for (std::uint32_t one = 0; one < 3; ++one) {
                REQUIRE(index.holds(one, held) == (slots.count(one) > 0));
            }
        }
    }
}

TEST_CASE("equal sets of holders are one, and gone with the last block that has it", "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(40)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    scheduler::HolderSets sets;
    const std::uint32_t slots = seed % 2 == 0 ? 12 : 200;
    std::vector<scheduler::HolderSets::Set> of(8, scheduler::HolderSets::kNobody);
    std::vector<std::set<std::uint32_t>> model(of.size());
    for (int step = 0; step < 3000; ++step) {
        const std::size_t one = random() % of.size();
        const auto slot = static_cast<std::uint32_t>(random() % slots);
        if (model[one].insert(slot).second) {
            of[one] = sets.with(of[one], slot);
        } else {
            model[one].erase(slot);
            of[one] = sets.without(of[one], slot);
        }
        if (step % 20 != 0) { continue; }
        std::set<std::set<std::uint32_t>> different;
        for (std::size_t i = 0; i < of.size(); ++i) {
            if (!model[i].empty()) { different.insert(model[i]); }
            for (std::size_t j = 0; j < i; ++j) {
                REQUIRE((of[i] == of[j]) == (model[i] == model[j]));
            }
        }
        REQUIRE(sets.sets() == different.size());
        std::vector<std::uint32_t> visited;
        sets.visit_while(of[one], [&](std::uint32_t holder) {
            visited.push_back(holder);
            return true;
        });
        REQUIRE(visited == std::vector<std::uint32_t>(model[one].begin(), model[one].end()));
    }
}

TEST_CASE("narrowing down a prompt finds what walking it finds, where workers hold chains from their start",
          "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::uint32_t slots = seed % 3 == 0 ? 150 : 9;
    scheduler::BlockIndex index(100'000);
    // Conversations that share a start, each held by some to some depth; what was held is given up from the end.
    std::vector<std::vector<base::BlockHash>> chains;
    const std::size_t shared = random() % 20;
    const std::size_t longest = seed % 5 == 0 ? 3000 : 300;
    for (std::uint64_t conversation = 0; conversation < 4; ++conversation) {
        auto& chain = chains.emplace_back();
        const std::size_t length = random() % longest;
        for (std::uint64_t i = 0; i < length; ++i) {
            chain.push_back(make_hash(i < shared ? i : 10'000 * (conversation + 1) + i));
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
    scheduler::PrefixSearch search;  // one for all, as the registry's
    for (const auto& chain : chains) {
        const scheduler::PrefixSearch::Bounds bounds{
            .levels_max = static_cast<std::uint32_t>(1 + random() % 12),
            .holders_enough = random() % 2 == 0 ? slots * 2 : static_cast<std::uint32_t>(1 + random() % slots)};
        CAPTURE(chain.size(), bounds.levels_max, bounds.holders_enough);
        std::vector<std::uint32_t> leading;
        index.match(chain, slots, leading);
        search.search(index, chain, bounds);
        REQUIRE(search.deepest() == *std::max_element(leading.begin(), leading.end()));
        for (std::uint32_t slot = 0; slot < slots; ++slot) {
            REQUIRE(search.blocks_of(slot) == leading[slot]);
        }
        // The lengths that are held, from the longest, until they are enough.
        const std::set<std::uint32_t, std::greater<>> lengths(leading.begin(), leading.end());
        std::size_t level = 0;
        for (const std::uint32_t length : lengths) {
            if (length == 0 || level == bounds.levels_max) { break; }
            REQUIRE(level < search.levels().size());
            const auto& found = search.levels()[level++];
            REQUIRE(found.blocks == length);
            std::vector<std::uint32_t> visited;
            search.for_each_holder(found, 1, [&](std::uint32_t slot) { visited.push_back(slot); });
            for (const std::uint32_t slot : visited) {
                REQUIRE(leading[slot] >= length);
            }
            const auto holders = static_cast<std::uint32_t>(
                std::count_if(leading.begin(), leading.end(), [&](std::uint32_t one) { return one >= length; }));
            REQUIRE(search.holders(found) == holders);
            REQUIRE(visited.size() == holders);
            if (holders >= bounds.holders_enough) { break; }
        }
        REQUIRE(search.levels().size() == level);
    }
}

TEST_CASE("of a worker with holes nothing is said to be there that is not, and nothing is overlooked",
          "[scheduler][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(100)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::uint32_t slots = seed % 3 == 0 ? 100 : 6;
    scheduler::BlockIndex index(100'000);
    const auto chain = scheduler_test::make_hashes(0, static_cast<std::uint32_t>(1 + random() % 200));
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
        const std::size_t held = random() % (chain.size() + 1);
        for (std::size_t i = 0; i < held; ++i) {
            index.add(slot, chain[i]);
        }
        // Something in the middle is evicted, on some workers only or, where `slot` says so, by all that have it.
        for (std::size_t holes = random() % 4; holes > 0 && held > 0; --holes) {
            const auto& hash = chain[random() % held];
            for (std::uint32_t other = slot % 5 == 4 ? 0 : slot; other <= slot; ++other) {
                index.remove(other, hash);
            }
        }
    }
    scheduler::PrefixSearch search(index, chain, {.levels_max = static_cast<std::uint32_t>(1 + random() % 12)});
    std::vector<std::uint32_t> leading;
    index.match(chain, slots, leading);
    for (std::uint32_t slot = 0; slot < slots; ++slot) {
        const std::uint32_t blocks = search.blocks_of(slot);
        CAPTURE(slot, blocks, leading[slot], chain.size());
        REQUIRE(blocks >= leading[slot]);
        REQUIRE(blocks <= chain.size());
        if (blocks > 0) {
            REQUIRE(index.holds(slot, chain[0]));
            REQUIRE(index.holds(slot, chain[blocks - 1]));
        }
        if (blocks < chain.size()) { REQUIRE_FALSE(index.holds(slot, chain[blocks])); }
    }
}
