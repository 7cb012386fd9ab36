// What a reader believes, when it has replayed what it is told, is what pool and tiers hold.
#include "worker/kv_events.h"

#include <algorithm>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "base/clock.h"
#include "kv_cache/kv_cache.h"
#include "worker/kv_event_wire.h"
#include "worker/sequence.h"

#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"
#include "tests/support/seeds.h"

using base::BlockHash;
using base::TokenId;
using kv_cache::KvCache;
using test_support::Random;
using worker::KvEvent;
using worker::KvEventBatch;
using worker::KvEvents;

namespace {

constexpr std::uint32_t kBlockTokens = 4;
const base::HashKey kKey{};

/// Takes batches while it has room.
struct Sink final : worker::KvEventSink {
    bool offer(KvEventBatch&& batch) override {
        if (!is_open) { return false; }
        batches.push_back(std::move(batch));
        return true;
    }
    bool has_room() const override { return is_open; }
    bool take_wish() override { return std::exchange(wish, false); }
    std::vector<KvEventBatch> batches;
    bool is_open = true;
    bool wish = false;
};

/// A router: what it believes of a worker, and that what it is told fits that.
struct Reader {
    struct Block {
        std::vector<TokenId> tokens;
        std::optional<std::uint64_t> parent;
        std::string scope;
    };
    void take(const std::vector<KvEventBatch>& batches) {
        for (const KvEventBatch& batch : batches) {
            for (const KvEvent& event : batch.events) {
                take(event);
            }
        }
    }
    void take(const KvEvent& event) {
        if (event.kind == KvEvent::Kind::cleared) { return levels.clear(); }
        auto& level = levels[event.level];
        std::optional<std::uint64_t> parent = event.parent;
        for (std::size_t i = 0; i < event.hashes.size(); ++i) {
            const std::uint64_t name = event.hashes[i];
            if (event.kind == KvEvent::Kind::removed) {
                REQUIRE(level.erase(name) == 1);
                continue;
            }
            const auto begin = event.tokens.begin() + static_cast<std::ptrdiff_t>(i * kBlockTokens);
            Block block{{begin, begin + kBlockTokens}, parent, i == 0 ? event.scope : ""};
            REQUIRE(level.emplace(name, std::move(block)).second);
            parent = name;
        }
        if (level.empty()) { levels.erase(event.level); }
    }
    std::map<std::size_t, std::map<std::uint64_t, Block>> levels;
};

/// A pool and a tier below it, sequences that publish into them, and a reader.
struct World {
    explicit World(std::size_t batch_blocks_max = 512)
        : events({.block_tokens = kBlockTokens, .batch_blocks_max = batch_blocks_max}, clock, sink) {}

    void listen() {
        events.add(pool);
        events.add(tier);
    }
    static std::vector<BlockHash> chain_of(const std::vector<TokenId>& tokens, const std::string& scope = "") {
        return base::block_hash_chain(
            kKey, {.cache_scope = scope, .numerics_id = 1, .adapter = "", .block_tokens = kBlockTokens}, tokens);
    }
    /// As the step loop does: `tokens` are admitted, computed and published, `blocks` at a time.
    void run(const std::vector<TokenId>& tokens, std::size_t blocks = 1000, const std::string& scope = "") {
        worker::Sequence sequence;
        sequence.tokens = tokens;
        sequence.request.cache_scope = scope;
        sequence.chain = chain_of(tokens, scope);
        for (std::size_t i = 0; i < sequence.chain.size(); ++i) {
            const std::size_t begin = i * kBlockTokens;
            known[worker::block_name(sequence.chain[i])] = {
                {tokens.begin() + static_cast<std::ptrdiff_t>(begin),
                 tokens.begin() + static_cast<std::ptrdiff_t>(begin + kBlockTokens)},
                i == 0 ? std::nullopt : std::optional(worker::block_name(sequence.chain[i - 1])),
                i == 0 ? scope : ""};
        }
        const auto count = static_cast<std::uint32_t>(tokens.size());
        auto opened = pool.open(pool.match(sequence.chain, count - 1), count);
        REQUIRE(opened.has_value());
        sequence.kv.emplace(std::move(*opened));
        sequence.published_blocks = sequence.kv->blocks_published();
        while (sequence.published_blocks < sequence.chain.size()) {
            const std::size_t end = std::min(sequence.published_blocks + blocks, sequence.chain.size());
            sequence.kv->publish(std::span(sequence.chain).first(end));
            sequence.published_blocks = static_cast<std::uint32_t>(end);
            events.published(sequence);
        }
    }
    /// A copy to the tier.
    void save(const std::vector<BlockHash>& chain) {
        const auto count = static_cast<std::uint32_t>(chain.size()) * kBlockTokens;
        auto copy = tier.open(tier.match(chain, count), count);
        REQUIRE(copy.has_value());
        copy->publish(chain);
    }
    void drop() {
        pool.drop_prefixes();
        tier.drop_prefixes();
        events.dropped();
    }
    /// Until there is nothing more to tell.
    void settle() {
        for (int turn = 0; turn < 1000; ++turn) {
            events.tick();
            reader.take(std::exchange(sink.batches, {}));
            if (!events.next_tick()) { return; }
        }
        FAIL("it tells for ever");
    }
    static bool has(const KvCache& cache, const BlockHash& hash) {
        return cache.cached_tokens(std::span(&hash, 1), kBlockTokens) > 0;
    }

    base::FakeClock clock;
    Sink sink;
    KvCache pool{{.blocks_total = 12, .block_tokens = kBlockTokens}};
    KvCache tier{{.blocks_total = 20, .block_tokens = kBlockTokens}};
    KvEvents events;
    Reader reader;
    std::map<std::uint64_t, Reader::Block> known;
};

std::vector<TokenId> prompt(TokenId number, std::size_t tokens) {
    std::vector<TokenId> all(tokens);
    for (std::size_t i = 0; i < tokens; ++i) {
        all[i] = number * 1000 + static_cast<TokenId>(i);
    }
    return all;
}

}  // namespace

TEST_CASE("the first thing that is told is that all before is void", "[worker]") {
    World world;
    world.listen();
    world.events.tick();
    REQUIRE(world.sink.batches.size() == 1);
    REQUIRE(world.sink.batches[0].unix_us == world.clock.unix_us());
    REQUIRE(world.sink.batches[0].events.size() == 1);
    REQUIRE(world.sink.batches[0].events[0].kind == KvEvent::Kind::cleared);
    REQUIRE_FALSE(world.events.next_tick().has_value());
}

TEST_CASE("blocks that follow each other are one event, with tokens, parent and whose they are", "[worker]") {
    World world;
    world.listen();
    world.settle();
    const auto tokens = prompt(1, 14);  // three blocks and a half
    const auto chain = World::chain_of(tokens, "salt:a");
    world.run(std::vector(tokens.begin(), tokens.begin() + 8), 1000, "salt:a");
    world.run(tokens, 1000, "salt:a");
    REQUIRE(world.events.next_tick() == world.clock.now());
    world.events.tick();
    REQUIRE(world.sink.batches.size() == 1);
    const auto& events = world.sink.batches[0].events;
    REQUIRE(events.size() == 1);  // the third block follows the second one, whoever computed it
    REQUIRE(events[0].kind == KvEvent::Kind::stored);
    REQUIRE(events[0].level == 0);
    REQUIRE(events[0].hashes == std::vector{chain[0].low, chain[1].low, chain[2].low});
    REQUIRE_FALSE(events[0].parent.has_value());
    REQUIRE(events[0].scope == "salt:a");
    REQUIRE(events[0].tokens == std::vector(tokens.begin(), tokens.begin() + 12));
}

TEST_CASE("a block is told of each level that has it, as it comes and goes there", "[worker]") {
    World world;
    world.listen();
    const auto tokens = prompt(1, 12);
    const auto chain = World::chain_of(tokens);
    world.run(tokens);
    world.save(chain);
    world.settle();
    REQUIRE(world.reader.levels.at(0).size() == 3);
    REQUIRE(world.reader.levels.at(1).size() == 3);
    REQUIRE(world.reader.levels.at(1).at(chain[2].low).tokens == std::vector(tokens.begin() + 8, tokens.end()));
    world.run(prompt(2, 48));  // takes all of the pool
    world.settle();
    REQUIRE(world.reader.levels.at(0).size() == 12);
    REQUIRE_FALSE(world.reader.levels.at(0).contains(chain[0].low));
    REQUIRE(world.reader.levels.at(1).size() == 3);
}

TEST_CASE("what a tier had before is told once a sequence says what its tokens are", "[worker]") {
    World world;
    const auto tokens = prompt(1, 12);
    world.save(World::chain_of(tokens));  // before anybody listens
    world.listen();
    world.settle();
    REQUIRE(world.reader.levels.empty());
    world.run(std::vector(tokens.begin(), tokens.begin() + 8));
    world.settle();
    REQUIRE(world.reader.levels.at(0).size() == 2);
    REQUIRE(world.reader.levels.at(1).size() == 2);
}

TEST_CASE("when prefixes are dropped one word says it", "[worker]") {
    World world;
    world.listen();
    world.run(prompt(1, 40));
    world.settle();
    world.drop();
    world.events.tick();
    REQUIRE(world.sink.batches.size() == 1);
    REQUIRE(world.sink.batches[0].events.size() == 1);
    REQUIRE(world.sink.batches[0].events[0].kind == KvEvent::Kind::cleared);
    world.reader.take(world.sink.batches);
    REQUIRE(world.reader.levels.empty());
}

TEST_CASE("batches that found no room are made up for by telling everything, chain by chain", "[worker]") {
    World world(4);
    world.listen();
    world.run(prompt(1, 20));
    world.settle();
    world.sink.is_open = false;
    world.run(prompt(2, 20));
    world.events.tick();  // is lost
    world.run(prompt(3, 8));
    world.events.tick();
    REQUIRE(world.events.next_tick() > world.clock.now());  // no use before there is room
    world.sink.is_open = true;
    world.events.tick();
    REQUIRE(world.sink.batches.front().events.front().kind == KvEvent::Kind::cleared);
    world.settle();
    REQUIRE(world.reader.levels.at(0).size() == 12);
    for (const auto& [name, block] : world.reader.levels.at(0)) {
        REQUIRE(block.tokens == world.known.at(name).tokens);
        REQUIRE(block.parent == world.known.at(name).parent);
    }
}

TEST_CASE("whatever pool and tiers do, and whatever is lost, replaying the batches gives what they hold",
          "[worker][property]") {
    const std::uint32_t seed = GENERATE(range(0u, test_support::seeds_of(60)));
    INFO("seed " << seed);
    Random random{seed};
    const std::size_t batch_blocks_max = 1 + random() % 6;
    World world(batch_blocks_max);
    world.listen();
    std::set<BlockHash> hashes;
    for (int step = 0; step < 300; ++step) {
        // Two beginnings, each with some continuations.
        auto tokens = prompt(static_cast<TokenId>(random() % 2), 4 + random() % 16);
        const auto more = prompt(static_cast<TokenId>(10 + random() % 3), random() % 28);
        tokens.insert(tokens.end(), more.begin(), more.end());
        const std::string scope = random() % 5 == 0 ? "other" : "";
        const auto chain = World::chain_of(tokens, scope);
        hashes.insert(chain.begin(), chain.end());
        const std::uint32_t what = random() % 40;
        if (what < 25) {
            world.run(tokens, 1 + random() % 4, scope);
        } else if (what < 36) {
            world.save(chain);
        } else if (what == 36) {
            world.drop();
        } else if (what == 37) {
            const auto match = world.tier.match(chain, 1000);
            world.tier.forget(match, random() % 4);
        } else if (what == 38) {
            world.sink.is_open = random() % 3 != 0;
        } else {
            world.sink.wish = true;
        }
        if (random() % 3 == 0) { world.events.tick(); }
        if (!world.sink.is_open || random() % 3 != 0) { continue; }
        for (const KvEventBatch& batch : world.sink.batches) {
            std::size_t blocks = 0;
            for (const KvEvent& event : batch.events) {
                blocks += event.hashes.size();
            }
            REQUIRE(blocks <= batch_blocks_max);
        }
        world.settle();
        for (const BlockHash& hash : hashes) {
            const auto told = [&](std::size_t level) {
                const auto at = world.reader.levels.find(level);
                return at != world.reader.levels.end() && at->second.contains(hash.low);
            };
            REQUIRE(told(0) == World::has(world.pool, hash));
            // Whose tokens no sequence has said, it does not tell.
            if (told(1)) { REQUIRE(World::has(world.tier, hash)); }
            if (World::has(world.tier, hash) && World::has(world.pool, hash)) { REQUIRE(told(1)); }
        }
        for (const auto& [number, level] : world.reader.levels) {
            for (const auto& [name, block] : level) {
                REQUIRE(block.tokens == world.known.at(name).tokens);
                REQUIRE(block.parent == world.known.at(name).parent);
                REQUIRE(block.scope == world.known.at(name).scope);
            }
        }
    }
}
