// Hand-offs whose receiver computes some of the front while the rest comes from the end back: real sender and receiver,
// on a clock that stands still, over wires that delay and lose.
#include <algorithm>

#include "tests/kv_transfer/random.h"
#include "tests/kv_transfer/test_codec.h"
#include "tests/kv_transfer/world.h"
#include "tests/support/seeds.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::HandoffKey;
using kv_test::make_key;
using kv_test::milliseconds;
using kv_test::ReceiverEvent;
using kv_test::seconds;
using kv_test::SenderEvent;
using kv_test::World;

namespace {

using S = SenderEvent::Kind;
using R = ReceiverEvent::Kind;

constexpr std::uint32_t kTokens = 120;
constexpr std::uint32_t kLayers = 4;

/// Both workers, and a decode part that computes what it is told to at once: as other values than those of prefill, so
/// that a frame that was written over them shows.
struct FrontWorld : World {
    using World::World;

    void offer(const HandoffKey& key, double tokens_per_s, std::optional<base::Duration> due_in = std::nullopt) {
        kv_transfer::FrontOffer offer{key, tokens_per_s, std::nullopt};
        if (due_in) { offer.due = clock.now() + *due_in; }
        receiver->offer_front(offer);
    }
    /// Computes what fronts have come since the last time, for each then offers again; how many there were.
    int compute(const HandoffKey& key, double tokens_per_s, std::optional<base::Duration> due_in = std::nullopt) {
        int fronts = 0;
        for (; seen < received.size(); ++seen) {
            const ReceiverEvent& event = received[seen];
            if (event.kind != R::front || event.key != key) { continue; }
            REQUIRE(event.front_begin % 16 == 0);
            REQUIRE(event.front_end % 16 == 0);
            REQUIRE(event.front_begin >= computed_until);
            REQUIRE(event.front_begin < event.front_end);
            REQUIRE(event.front_end < kTokens);
            const kv_cache::KvRange range{0, kLayers, event.front_begin, event.front_end};
            const std::vector<std::byte> values(decode_layout.wire_bytes(range), std::byte{0x5a});
            kv_cache::unpack(decode_store, decode_blocks, range, values);
            computed.push_back(range);
            computed_until = event.front_end;
            ++fronts;
            // What lies before, and was not computed, has come.
            check_kv(event.front_end);
            offer(key, tokens_per_s, due_in);
        }
        return fronts;
    }
    void check_kv(std::uint32_t tokens) const {
        for (std::uint32_t token = 0; token < tokens; ++token) {
            const bool is_computed = std::any_of(computed.begin(), computed.end(), [&](const kv_cache::KvRange& range) {
                return range.token_begin <= token && token < range.token_end;
            });
            const auto there = received_kv(token + 1, token);
            CAPTURE(token, is_computed);
            REQUIRE(there ==
                    (is_computed ? std::vector<std::byte>(there.size(), std::byte{0x5a}) : sent_kv(token + 1, token)));
        }
    }
    std::uint32_t tokens_computed() const {
        std::uint32_t tokens = 0;
        for (const kv_cache::KvRange& range : computed) {
            tokens += range.tokens();
        }
        return tokens;
    }
    /// A hand-off before, so that the wire is known.
    void learn_wire() {
        const HandoffKey key = make_key(1000);
        REQUIRE(open(key, kTokens));
        settle();
        grant(key, kTokens);
        ready_all(key, kTokens);
        pass(seconds(5));
        REQUIRE(count(R::completed, key) == 1);
        seen = received.size();
    }
    std::size_t payload_bytes(const HandoffKey& key) const {
        for (const ReceiverEvent& event : received) {
            if (event.kind == R::completed && event.key == key) { return event.payload_bytes; }
        }
        return 0;
    }

    std::size_t seen = 0;
    std::uint32_t computed_until = 0;
    std::vector<kv_cache::KvRange> computed;
};

/// Frames of 16 tokens of one layer, two of them under way for 100 ms each: 80 tokens a second.
World::Options slow_options() {
    World::Options options;
    options.sender.frame_bytes_max = options.receiver.frame_bytes_max = 1024;
    options.prefill_faults = "seed=1;delay:kind=3,ms=100,probability=1";
    return options;
}

}  // namespace

TEST_CASE("a receiver that computes some of the front gets the rest from the end back", "[kv_transfer][front]") {
    FrontWorld world(slow_options());
    world.learn_wire();
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.grant(key, kTokens);
    world.offer(key, 1000);
    if (GENERATE(true, false)) {
        world.ready_all(key, kTokens);
    } else {  // as prefill computes it
        for (std::uint32_t token = 0; token < kTokens; token += 40) {
            world.sender->ready(key, 0, 2, token, token + 40);
            world.sender->ready(key, 2, kLayers, token, token + 40);
            world.settle();
        }
    }
    int fronts = 0;
    for (int step = 0; step < 200 && world.count(R::completed, key) == 0; ++step) {
        world.pass(milliseconds(50));
        fronts += world.compute(key, 1000);
    }
    REQUIRE(world.count(R::completed, key) == 1);
    REQUIRE(fronts >= 1);
    CHECK(world.tokens_computed() >= 80);  // at 1,000 a second, where the wire brings 80
    world.check_kv(kTokens);
    world.pass(seconds(3));
    CHECK(world.count(S::completed, key) == 1);
    CHECK(world.count(R::released, key) == 1);
    CHECK(world.sender->inflight_bytes() == 0);
    // Little was sent in vain.
    const std::size_t all = world.decode_layout.wire_bytes({0, kLayers, 0, kTokens});
    CHECK(world.payload_bytes(key) < all / 2);
}

TEST_CASE("no front is taken of a hand-off that is in time, until the wire stalls", "[kv_transfer][front]") {
    World::Options options = slow_options();
    options.prefill_faults = "seed=1;delay:kind=3,ms=10,probability=1";
    FrontWorld world(options);
    world.learn_wire();
    const HandoffKey key = make_key(1);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.grant(key, kTokens);
    world.offer(key, 100, seconds(4));
    world.ready_all(key, kTokens);
    world.pass(milliseconds(30));
    REQUIRE(world.count(R::front, key) == 0);
    const bool stalls = GENERATE(false, true);
    if (!stalls) {
        world.pass(seconds(1));
        CHECK(world.count(R::front, key) == 0);
        CHECK(world.count(R::completed, key) == 1);
        return;
    }
    // Prefill is silent, as if its wire were cut; only time passes here.
    int fronts = 0;
    for (int step = 0; step < 400 && fronts == 0; ++step) {
        world.clock.advance(milliseconds(10));
        while (world.tick_decode()) {}
        fronts += world.compute(key, 100, seconds(1));
    }
    CHECK(fronts > 0);
    world.pass(seconds(5));  // it speaks again
    CHECK(world.count(R::completed, key) == 1);
    world.compute(key, 100);
    world.check_kv(kTokens);
}

TEST_CASE("an offer comes to nothing where the hand-off may have loss, or is not there", "[kv_transfer][front]") {
    World::Options options = slow_options();
    options.sender.codecs = options.receiver.codecs = kv_test::kTestCodecs;
    FrontWorld world(options);
    world.kv_mode = kv_test::test_mode(1);
    world.allow_lossy = true;
    world.learn_wire();
    const HandoffKey key = make_key(1);
    world.offer(key, 1e6);
    REQUIRE(world.open(key, kTokens));
    world.settle();
    world.offer(key, 1e6);  // asked for, not granted
    world.settle();
    world.grant(key, kTokens);
    world.offer(key, 1e6, milliseconds(0));
    world.ready_all(key, kTokens);
    world.pass(seconds(10));
    CHECK(world.count(R::completed, key) == 1);
    CHECK(world.count(R::front, key) == 0);
    world.offer(key, 1e6);
    world.settle();
    CHECK(world.count(R::front, key) == 0);
}

TEST_CASE("under every fault a front that is computed stays, and the rest is equal bit for bit",
          "[kv_transfer][front][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(200)));
    kv_test::Random random{seed};
    World::Options options = slow_options();
    options.sender.frame_bytes_max = options.receiver.frame_bytes_max = std::size_t{512} << (random() % 5);
    options.sender.staging_buffers = 1 + random() % 8;
    options.receiver.staging_buffers = 1 + random() % 8;
    options.prefill_faults = "seed=" + std::to_string(seed);
    for (const char* kind : {"drop", "corrupt", "reorder", "duplicate"}) {
        if (random() % 2 == 0) { continue; }
        options.prefill_faults += std::string(";") + kind + ":ms=50,probability=0.0" + std::to_string(random() % 10);
    }
    options.prefill_faults += ";delay:kind=3,ms=" + std::to_string(20 + random() % 200) + ",probability=1";
    if (random() % 2 == 0) { options.decode_faults = "seed=2;drop:probability=0.1;duplicate:probability=0.1"; }
    const bool is_coded = random() % 2 == 0;
    if (is_coded) { options.sender.codecs = options.receiver.codecs = kv_test::kTestCodecs; }
    CAPTURE(seed, options.prefill_faults, options.decode_faults, is_coded);
    FrontWorld world(options);
    if (is_coded) {
        world.kv_mode = kv_test::test_mode(0);
        for (std::uint32_t block = 0; block < 16; block += 2) {  // every other block is what the codec makes short
            const auto bytes = world.prefill_store.run({base::BlockId{block}, 1});
            std::fill(bytes.begin(), bytes.end(), std::byte{0x3c});
        }
    }
    const HandoffKey key = make_key(1);
    const std::uint32_t have = (random() % 4) * 16;
    world.computed_until = have;
    REQUIRE(world.open(key, kTokens, seconds(60)));
    const double speed = static_cast<double>(10 + random() % 2000);
    std::optional<base::Duration> due_in;
    if (random() % 2 == 0) { due_in = milliseconds(random() % 3000); }
    // What decode has is what prefill has.
    if (have > 0) {
        kv_cache::unpack(world.decode_store, world.decode_blocks, {0, kLayers, 0, have}, world.sent_kv(have));
    }
    bool is_granted = false;
    std::uint32_t ready = 0;
    for (int step = 0; step < 3000 && world.count(R::released, key) == 0; ++step) {
        world.settle();
        if (!is_granted && world.count(R::room_requested, key) > 0) {
            is_granted = true;
            world.grant(key, kTokens, have, seconds(20));
            world.offer(key, speed, due_in);
        }
        if (ready < kTokens && random() % 3 == 0) {
            const std::uint32_t end = std::min<std::uint32_t>(kTokens, ready + 1 + random() % 60);
            const std::uint32_t layer = 1 + random() % (kLayers - 1);
            world.sender->ready(key, layer, kLayers, ready, end);
            world.sender->ready(key, 0, layer, ready, end);
            ready = end;
        }
        world.compute(key, speed, due_in);
        world.clock.advance(milliseconds(1 + random() % 30));
    }
    REQUIRE(world.count(R::released, key) == 1);
    REQUIRE(world.count(R::completed, key) + world.count(R::failed, key) == 1);
    if (world.count(R::completed, key) == 1) { world.check_kv(kTokens); }
    world.pass(seconds(8));
    REQUIRE(world.count(S::released, key) == 1);
    CHECK(world.sender->inflight_bytes() == 0);
    CHECK(world.receiver->handoffs_open() == 0);
}
