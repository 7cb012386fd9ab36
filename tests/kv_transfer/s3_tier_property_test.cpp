// Random saves, loads, clears and new lives of the level in a store that fails in all the ways it knows: what comes is
// what was saved under that name, and no place of the buffer is lost.
#include <array>
#include <cstring>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "tests/kv_transfer/s3_world.h"
#include "tests/support/random_tokens.h"
#include "tests/support/seeds.h"

using base::BlockHash;
using kv_cache::BlockId;
using test_support::kBlocks;
using test_support::S3Server;
using test_support::S3World;
using test_support::seeds_of;

namespace {

constexpr std::uint32_t kSlots = 40;
constexpr int kOperations = 1000;  // of each of the ten seeds

/// A block's bytes follow from its name, in every life.
std::uint8_t content_of(const BlockHash& hash) {
    return static_cast<std::uint8_t>(hash.low * 37 + hash.high * 11);
}

struct Level {
    std::unique_ptr<kv_transfer::S3Tier> tier;
    std::map<std::uint32_t, BlockHash> slots;  // what they hold, as far as their owner knows
};

void reopen(S3World& world, Level& level) {
    level.tier.reset();
    level.tier = world.open(kSlots);
    level.slots.clear();
    for (const auto& [slot, block] : level.tier->found()) {
        level.slots[slot] = block.hash;
    }
}

}  // namespace

TEST_CASE("whatever a store does, what comes from it is what was saved", "[kv_transfer][property]") {
    const std::uint32_t seed = GENERATE(range(0u, seeds_of(10)));
    INFO("seed " << seed);
    S3World world;
    test_support::Random random{seed};
    test_support::Random faulty{seed + 1};  // of the server's threads, one at a time
    const std::uint32_t odds = seed % 2 == 0 ? 20 : 4;
    world.server.set_faults([&](const S3Server::Call&) {
        // All but silence, which takes as long as a client waits.
        return faulty() % odds == 0 ? static_cast<S3Server::Fault>(1 + faulty() % 10) : S3Server::Fault::none;
    });
    Level level;
    reopen(world, level);
    std::uint64_t came = 0;
    for (int operation = 0; operation < kOperations; ++operation) {
        world.clock.advance(std::chrono::seconds(random() % 4));
        const std::uint32_t what = random() % 100;
        if (what < 45) {  // save
            const std::uint32_t count = 1 + random() % 4;
            const std::uint32_t slot = random() % (kSlots - count);
            const std::uint32_t first = random() % (kBlocks - count);
            const std::uint64_t chain = random() % 30;
            std::vector<BlockHash> hashes;
            for (std::uint32_t i = 0; i < count; ++i) {
                hashes.push_back({chain, i + 1});
                std::memset(world.pool.store.block(BlockId{first + i}), content_of(hashes.back()),
                            world.pool.layout.block_bytes());
            }
            const std::array pieces{test_support::piece(first, slot, count)};
            const bool is_saved = level.tier->save(world.pool.access, pieces, hashes, std::nullopt).has_value();
            for (std::uint32_t i = 0; i < count; ++i) {
                level.slots.erase(slot + i);
                if (is_saved) { level.slots[slot + i] = hashes[i]; }
            }
        } else if (what < 95) {  // load
            if (level.slots.empty()) { continue; }
            auto at = std::next(level.slots.begin(), random() % static_cast<std::uint32_t>(level.slots.size()));
            std::vector<BlockHash> hashes;
            std::vector<kv_transfer::TierPiece> pieces;
            for (; at != level.slots.end() && hashes.size() < 4; ++at) {
                pieces.push_back(test_support::piece(static_cast<std::uint32_t>(hashes.size()), at->first, 1));
                hashes.push_back(at->second);
            }
            const auto loaded = level.tier->load(world.pool.access, pieces, hashes);
            for (std::uint32_t i = 0; loaded && i < *loaded; ++i) {
                REQUIRE(world.pool.holds({BlockId{i}, 1}, content_of(hashes[i])));
                ++came;
            }
        } else if (what < 98) {
            reopen(world, level);
        } else {
            level.slots.clear();
            if (auto cleared = level.tier->clear(); !cleared) { reopen(world, level); }
        }
    }
    INFO(came << " blocks came");
    REQUIRE(came > 100);
    REQUIRE(world.server.wrong_signatures() == 0);

    // A store that is well again takes and gives everything, and all places of the buffer are there.
    world.server.set_faults({});
    const auto save = [&](std::uint64_t chain) {
        const std::array pieces{test_support::piece(0, 20, 10)};
        return level.tier->save(world.pool.access, pieces, test_support::chain_of(10, chain), std::nullopt).has_value();
    };
    world.pool.fill({BlockId{0}, 10}, 1);
    const auto until = std::chrono::steady_clock::now() + std::chrono::minutes(2);
    do {  // a request that was under way may fail only now, and have the store left alone from then on
        REQUIRE(std::chrono::steady_clock::now() < until);
        world.clock.advance(std::chrono::minutes(1));
        world.wait_sent();
    } while (!save(999));
    world.wait_sent();
    world.clock.advance(std::chrono::minutes(1));
    const test_support::Gate gate;
    world.server.set_faults(gate.of("PUT"));
    for (std::uint64_t chain = 1000; chain < 1007; ++chain) {
        REQUIRE(save(chain));
    }
    REQUIRE_FALSE(save(1007));
    gate.open();
    world.wait_sent();
    world.pool.fill({BlockId{0}, 10}, 99);
    const auto last = test_support::chain_of(10, 1006);
    REQUIRE(level.tier->load(world.pool.access, std::array{test_support::piece(0, 20, 10)}, last) == 10u);
    REQUIRE(world.pool.holds({BlockId{0}, 10}, 1));
}
