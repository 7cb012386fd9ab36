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

/// One hand-off of the random schedule, with its own blocks on both sides.
struct Planned {
    HandoffKey key;
    std::uint32_t kv_tokens = 0;
    std::uint32_t have_tokens = 0;
    std::vector<base::BlockId> prefill_blocks;
    std::vector<base::BlockId> decode_blocks;
    std::vector<kv_cache::KvRange> chunks;  // to be called ready, in this order
    int answer_after = 0;                   // steps from room_requested to the grant
    bool says_later = false;
    bool granted = false;
    std::vector<std::byte> untouched;  // what the decode blocks held in have_tokens
};

std::string random_faults(kv_test::Random& random) {
    const char* kinds[] = {"drop", "delay", "corrupt", "reorder", "duplicate", "cut"};
    std::string plan = "seed=" + std::to_string(random());
    for (const char* kind : kinds) {
        if (random() % 2 == 0) { continue; }
        const bool is_cut = std::string(kind) == "cut";
        plan += std::string(";") + kind + ":ms=" + std::to_string(random() % 700);
        plan += is_cut ? ",nth=" + std::to_string(1 + random() % 40)
                       : ",probability=0." + std::to_string(random() % 3) + std::to_string(random() % 10);
        if (random() % 3 == 0) { plan += ",kind=" + std::to_string(1 + random() % 6); }
    }
    return plan;
}

std::vector<kv_cache::KvRange> random_chunks(kv_test::Random& random, std::uint32_t tokens, std::uint32_t layers) {
    std::vector<kv_cache::KvRange> chunks;
    for (std::uint32_t token = 0; token < tokens;) {
        const std::uint32_t end = std::min<std::uint32_t>(tokens, token + 1 + random() % tokens);
        for (std::uint32_t layer = 0; layer < layers;) {
            const std::uint32_t layer_end = std::min<std::uint32_t>(layers, layer + 1 + random() % layers);
            // Sometimes a little more than is new: overlaps are allowed.
            const std::uint32_t begin = random() % 4 == 0 ? token / 2 : token;
            chunks.push_back({layer, layer_end, begin, end});
            layer = layer_end;
        }
        token = end;
    }
    if (random() % 4 == 0) { std::shuffle(chunks.begin(), chunks.end(), random); }
    return chunks;
}

}  // namespace

TEST_CASE("under every fault the KV is equal bit for bit, or both sides fail and release", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(400)));
    kv_test::Random random{seed};
    World::Options options;
    options.prefill_faults = random_faults(random);
    options.decode_faults = random_faults(random);
    CAPTURE(seed, options.prefill_faults, options.decode_faults);
    const std::size_t frame_bytes = std::size_t{64} << (random() % 7);
    options.sender = {.frame_bytes_max = frame_bytes,
                      .staging_buffers = 1 + random() % 8,
                      .inflight_bytes_max = frame_bytes * (1 + random() % 8)};
    options.receiver = {.frame_bytes_max = frame_bytes, .staging_buffers = 1 + random() % 8};
    const bool is_coded = random() % 2 == 0;
    if (is_coded) { options.sender.codecs = options.receiver.codecs = kv_test::kTestCodecs; }
    World world(options);
    if (is_coded) {
        world.kv_mode = kv_test::test_mode(0);
        for (std::uint32_t block = 0; block < 16; block += 2) {  // every other block is what the codec makes short
            const auto bytes = world.prefill_store.run({base::BlockId{block}, 1});
            std::fill(bytes.begin(), bytes.end(), std::byte{0x3c});
        }
    }

    std::vector<Planned> plans(1 + random() % 4);
    for (std::size_t i = 0; i < plans.size(); ++i) {
        Planned& plan = plans[i];
        plan.key = make_key(100 + i, static_cast<std::uint32_t>(random() % 3));
        plan.kv_tokens = 1 + random() % 64;
        plan.have_tokens = random() % 2 == 0 ? 0 : (random() % (plan.kv_tokens / 16 + 1)) * 16;
        for (std::uint32_t block = 0; block < 4; ++block) {
            plan.prefill_blocks.push_back(base::BlockId{static_cast<std::uint32_t>(i) * 4 + block});
            plan.decode_blocks.push_back(base::BlockId{15 - static_cast<std::uint32_t>(i) * 4 - block});
        }
        plan.chunks = random_chunks(random, plan.kv_tokens, 4);
        plan.answer_after = static_cast<int>(random() % 50);
        plan.says_later = random() % 3 == 0;
        plan.untouched = kv_test::kv_of(world.decode_store, plan.decode_blocks, 0, plan.have_tokens);
        REQUIRE(world.sender->open({.key = plan.key,
                                    .kv_address = world.decode_transport->address(),
                                    .kv_tokens = plan.kv_tokens,
                                    .blocks = plan.prefill_blocks,
                                    .deadline = world.clock.now() + seconds(20)}));
    }

    std::vector<std::vector<std::byte>> completed(plans.size());
    std::size_t seen = 0;
    for (int step = 0; step < 4000; ++step) {
        world.settle();
        for (; seen < world.received.size(); ++seen) {
            const ReceiverEvent& event = world.received[seen];
            for (std::size_t i = 0; i < plans.size(); ++i) {
                if (event.kind == R::completed && event.key == plans[i].key) {
                    // As the step thread would: read at once, the blocks are ours now.
                    completed[i] = kv_test::kv_of(world.decode_store, plans[i].decode_blocks, 0, plans[i].kv_tokens);
                }
            }
        }
        for (Planned& plan : plans) {
            if (!plan.chunks.empty() && random() % 5 == 0) {
                const kv_cache::KvRange& chunk = plan.chunks.front();
                world.sender->ready(plan.key, chunk.layer_begin, chunk.layer_end, chunk.token_begin, chunk.token_end);
                plan.chunks.erase(plan.chunks.begin());
            }
            if (plan.granted || world.count(R::room_requested, plan.key) == 0) { continue; }
            if (plan.answer_after-- > 0) {
                if (plan.says_later && plan.answer_after == 10) { world.receiver->later(plan.key); }
                continue;
            }
            plan.granted = true;
            world.receiver->grant({.key = plan.key,
                                   .kv_tokens = plan.kv_tokens,
                                   .have_tokens = plan.have_tokens,
                                   .blocks = plan.decode_blocks,
                                   .lease = seconds(3),
                                   .deadline = world.clock.now() + seconds(30)});
        }
        if (world.sender->handoffs_open() == 0 && world.receiver->handoffs_open() == 0) { break; }
        world.clock.advance(milliseconds(10));
    }
    world.pass(seconds(3), milliseconds(20));  // what is still held by the decorator comes out, too late

    CHECK(world.sender->handoffs_open() == 0);
    CHECK(world.receiver->handoffs_open() == 0);
    CHECK(world.sender->inflight_bytes() == 0);
    for (std::size_t i = 0; i < plans.size(); ++i) {
        const Planned& plan = plans[i];
        CAPTURE(i, plan.kv_tokens, plan.have_tokens);
        CHECK(world.count(S::completed, plan.key) + world.count(S::failed, plan.key) == 1);
        CHECK(world.count(S::released, plan.key) == 1);
        const std::size_t asked = world.count(R::room_requested, plan.key);
        CHECK(asked <= 1);
        CHECK(world.count(R::completed, plan.key) + world.count(R::failed, plan.key) == asked);
        CHECK(world.count(R::released, plan.key) == asked);
        if (world.count(S::completed, plan.key) == 1) { CHECK(world.count(R::completed, plan.key) == 1); }
        const auto have = kv_test::kv_of(world.decode_store, plan.decode_blocks, 0, plan.have_tokens);
        CHECK(have == plan.untouched);
        if (world.count(R::completed, plan.key) == 1) {
            // Right when it completed, and nobody wrote to the blocks since.
            const auto now = kv_test::kv_of(world.decode_store, plan.decode_blocks, 0, plan.kv_tokens);
            CHECK(now == completed[i]);
            CHECK(kv_test::kv_of(world.decode_store, plan.decode_blocks, plan.have_tokens, plan.kv_tokens) ==
                  kv_test::kv_of(world.prefill_store, plan.prefill_blocks, plan.have_tokens, plan.kv_tokens));
        }
    }
}
