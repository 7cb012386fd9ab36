#include <algorithm>
#include <map>
#include <optional>
#include <random>
#include <vector>

#include "kv_cache/block_pool.h"
#include "tests/support/seeds.h"

#include "tests/support/catch.h"

using kv_cache::BlockId;
using kv_cache::BlockPool;
using kv_cache::BlockRun;

namespace {

/// One flag per block: the plain model.
std::map<std::uint32_t, std::uint32_t> runs_of(const std::vector<bool>& is_free) {
    std::map<std::uint32_t, std::uint32_t> runs;
    for (std::uint32_t i = 0; i < is_free.size(); ++i) {
        if (!is_free[i]) { continue; }
        if (i > 0 && is_free[i - 1]) {
            ++runs.rbegin()->second;
        } else {
            runs.emplace(i, 1);
        }
    }
    return runs;
}

void take(std::vector<bool>& is_free, BlockRun run) {
    for (std::uint32_t i = base::raw(run.first); i < base::raw(run.end()); ++i) {
        REQUIRE(is_free[i]);
        is_free[i] = false;
    }
}

}  // namespace

TEST_CASE("the pool equals a list of flags under any sequence of calls", "[kv_cache][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::uint32_t blocks_total = 1 + static_cast<std::uint32_t>(random()) % 80;
    BlockPool pool(blocks_total);
    std::vector<bool> is_free(blocks_total, true);
    std::vector<BlockRun> taken;
    for (int step = 0; step < 300; ++step) {
        const auto before = runs_of(is_free);
        const std::uint32_t count = 1 + static_cast<std::uint32_t>(random()) % 12;
        switch (random() % 5) {
            case 0: {
                std::uint32_t best = 0;
                for (const auto& [first, size] : before) {
                    if (size >= count && (best == 0 || size < best)) { best = size; }
                }
                const auto run = pool.take_best_fit(count);
                REQUIRE(run.has_value() == (best > 0));
                if (!run) { break; }
                REQUIRE(run->count == count);
                REQUIRE(before.at(base::raw(run->first)) == best);
                take(is_free, *run);
                taken.push_back(*run);
                break;
            }
            case 1: {
                std::uint32_t largest = 0;
                for (const auto& [first, size] : before) {
                    largest = std::max(largest, size);
                }
                const auto run = random() % 4 == 0 ? pool.take_largest() : std::nullopt;
                if (!run) { break; }
                REQUIRE(run->count == largest);
                take(is_free, *run);
                taken.push_back(*run);
                break;
            }
            case 2: {
                const auto first = static_cast<std::uint32_t>(random()) % (blocks_total + 1);
                std::uint32_t expected = 0;
                while (expected < count && first + expected < blocks_total && is_free[first + expected]) {
                    ++expected;
                }
                REQUIRE(pool.take_at(BlockId{first}, count) == expected);
                if (expected == 0) { break; }
                take(is_free, {BlockId{first}, expected});
                taken.push_back({BlockId{first}, expected});
                break;
            }
            default: {
                if (taken.empty()) { break; }
                std::swap(taken[random() % taken.size()], taken.back());
                BlockRun run = taken.back();
                taken.pop_back();
                if (run.count > 1 && random() % 2 == 0) {  // a part of it first
                    taken.push_back({run.first, run.count / 2});
                    run = {BlockId{base::raw(run.first) + run.count / 2}, run.count - run.count / 2};
                }
                pool.give_back(run);
                for (std::uint32_t i = base::raw(run.first); i < base::raw(run.end()); ++i) {
                    is_free[i] = true;
                }
            }
        }
        const auto after = runs_of(is_free);
        REQUIRE(pool.free_runs() == after);  // maximal runs: coalescing is complete
        std::uint32_t blocks_free = 0;
        for (const auto& [first, size] : after) {
            blocks_free += size;
        }
        REQUIRE(pool.blocks_free() == blocks_free);
    }
}
