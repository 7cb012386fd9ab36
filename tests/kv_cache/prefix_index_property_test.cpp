#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <vector>

#include "kv_cache/prefix_index.h"
#include "tests/kv_cache/support.h"
#include "tests/support/seeds.h"

#include "tests/support/catch.h"

using base::BlockHash;
using kv_cache::BlockId;
using kv_cache::PrefixIndex;
using kv_cache_test::make_chain;

namespace {

/// The plain model: a list of what is named, searched from end to end.
struct Named {
    std::optional<BlockHash> parent;
    std::uint32_t block;
    int idle_since;  // 0: in use
};
using Model = std::map<BlockHash, Named>;

std::optional<BlockHash> next_to_evict(const Model& model) {
    std::optional<BlockHash> coldest;
    for (const auto& [hash, named] : model) {
        if (named.idle_since == 0) { continue; }
        const bool has_idle_child = std::any_of(model.begin(), model.end(), [&hash = hash](const auto& other) {
            return other.second.idle_since != 0 && other.second.parent == hash;
        });
        if (has_idle_child) { continue; }
        if (!coldest || named.idle_since < model.at(*coldest).idle_since) { coldest = hash; }
    }
    return coldest;
}

}  // namespace

TEST_CASE("the index equals a plain list, its events and snapshots included", "[kv_cache][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    PrefixIndex index;
    Model model;
    std::set<BlockHash> seen_by_scheduler;
    std::uint64_t number = 0;
    std::uint32_t next_block = 0;
    int clock = 0;
    std::vector<std::vector<BlockHash>> chains;
    for (std::uint32_t document = 1; document <= 5; ++document) {
        chains.push_back(make_chain(document, 6, static_cast<std::uint32_t>(random()) % 4));
    }
    for (int step = 0; step < 400; ++step) {
        const auto& chain = chains[random() % chains.size()];
        const std::size_t i = random() % chain.size();
        const auto named = model.find(chain[i]);
        switch (random() % 6) {
            case 0:
            case 1: {
                const auto parent = i == 0 ? std::nullopt : std::optional(chain[i - 1]);
                REQUIRE(index.insert(chain[i], parent, BlockId{next_block}) == (named == model.end()));
                model.try_emplace(chain[i], Named{parent, next_block, 0});
                ++next_block;
                break;
            }
            case 2:
            case 3:
                if (named == model.end()) { break; }
                if (named->second.idle_since == 0) {
                    index.set_idle(chain[i]);
                    named->second.idle_since = ++clock;
                } else {
                    index.set_in_use(chain[i]);
                    named->second.idle_since = 0;
                }
                break;
            case 4:
                index.touch(chain[i]);
                if (named != model.end() && named->second.idle_since != 0) { named->second.idle_since = ++clock; }
                break;
            default: {
                const auto expected = next_to_evict(model);
                const auto next = index.next_to_evict();
                REQUIRE(next.has_value() == expected.has_value());
                if (next) {
                    REQUIRE(next->hash == *expected);
                    REQUIRE(base::raw(next->block) == model.at(*expected).block);
                    REQUIRE(next->parent == model.at(*expected).parent);
                }
                const auto evicted = index.evict();
                REQUIRE(evicted.has_value() == expected.has_value());
                if (!expected) { break; }
                REQUIRE(base::raw(*evicted) == model.at(*expected).block);
                model.erase(*expected);
            }
        }
        REQUIRE(index.size() == model.size());
        REQUIRE(index.blocks_idle() ==
                static_cast<std::uint32_t>(std::count_if(model.begin(), model.end(), [](const auto& named_block) {
                    return named_block.second.idle_since != 0;
                })));
        for (const auto& any_chain : chains) {
            for (const BlockHash& hash : any_chain) {
                const auto found = model.find(hash);
                const auto block = index.find(hash);
                REQUIRE(block.has_value() == (found != model.end()));
                if (block) { REQUIRE(base::raw(*block) == found->second.block); }
            }
        }
        if (random() % 5 == 0) {
            std::vector<BlockHash> all;
            for (const auto& [hash, named_block] : model) {
                all.push_back(hash);
            }
            const auto events =
                random() % 8 == 0 ? std::optional(index.take_part(all, true, true)) : index.take_events();
            if (events) {
                REQUIRE(events->number == ++number);
                if (events->snapshot) { seen_by_scheduler.clear(); }
                for (const BlockHash& hash : events->removed) {
                    REQUIRE(seen_by_scheduler.erase(hash) == 1);
                }
                for (const BlockHash& hash : events->stored) {
                    REQUIRE(seen_by_scheduler.insert(hash).second);
                }
            }
            std::set<BlockHash> names;
            for (const auto& [hash, named_block] : model) {
                names.insert(hash);
            }
            REQUIRE(seen_by_scheduler == names);
        }
    }
}
