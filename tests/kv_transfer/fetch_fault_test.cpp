#include <algorithm>

#include "tests/kv_transfer/random.h"
#include "tests/kv_transfer/world.h"
#include "tests/support/seeds.h"
// Last, see there.
#include "tests/support/catch.h"

using kv_test::HandoffKey;
using kv_test::milliseconds;
using kv_test::ReceiverEvent;
using kv_test::seconds;
using kv_test::SenderEvent;
using kv_test::World;
using S = SenderEvent::Kind;
using R = ReceiverEvent::Kind;

namespace {

std::string random_faults(kv_test::Random& random) {
    std::string plan = "seed=" + std::to_string(random());
    for (const char* kind : {"drop", "delay", "corrupt", "reorder", "duplicate", "cut"}) {
        if (random() % 2 == 0) { continue; }
        plan += std::string(";") + kind + ":ms=" + std::to_string(random() % 400);
        plan += std::string(kind) == "cut" ? ",nth=" + std::to_string(1 + random() % 40)
                                           : ",probability=0." + std::to_string(random() % 4);
        if (random() % 3 == 0) { plan += ",kind=" + std::to_string(1 + random() % 7); }
    }
    return plan;
}

/// One fetch of the random schedule, with two blocks of its own on both sides.
struct Planned {
    HandoffKey key;
    std::uint32_t lent_tokens = 0;  // 0: the lender has nothing
    int answer_after = 0;           // steps
    int abort_after = -1;           // steps from the beginning; negative: never
    std::vector<base::BlockId> prefill_blocks;
    std::vector<base::BlockId> decode_blocks;
    std::vector<std::byte> came;
};

}  // namespace

TEST_CASE("under every fault fetched KV is equal bit for bit, or the fetch fails, and all is released",
          "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(300)));
    kv_test::Random random{seed};
    World::Options options;
    options.prefill_faults = random_faults(random);
    options.decode_faults = random_faults(random);
    CAPTURE(seed, options.prefill_faults, options.decode_faults);
    options.sender.frame_bytes_max = options.receiver.frame_bytes_max = std::size_t{256} << (random() % 5);
    options.sender.fetches_max = 1 + random() % 6;
    World world(options);
    std::vector<Planned> plans(1 + random() % 6);
    const auto hashes = kv_test::make_hashes(2);
    for (std::uint32_t i = 0; i < plans.size(); ++i) {
        Planned& plan = plans[i];
        plan.key = kv_test::make_fetch_key(1 + i / 3, 1 + i % 3);
        plan.lent_tokens = (random() % 3) * 16;
        plan.answer_after = static_cast<int>(random() % 60);
        if (random() % 5 == 0) { plan.abort_after = static_cast<int>(random() % 100); }
        for (std::uint32_t block = 0; block < 2; ++block) {
            plan.prefill_blocks.push_back(base::BlockId{2 * i + block});
            plan.decode_blocks.push_back(base::BlockId{15 - 2 * i - block});
        }
        REQUIRE(world.receiver->fetch({.key = plan.key,
                                       .kv_address = world.prefill_transport->address(),
                                       .hashes = hashes,
                                       .blocks = plan.decode_blocks,
                                       .answer_timeout = milliseconds(500),
                                       .lease = milliseconds(800),
                                       .deadline = world.clock.now() + seconds(5)}));
    }
    const auto plan_of = [&](const HandoffKey& key) {
        return std::find_if(plans.begin(), plans.end(), [&](const Planned& p) { return p.key == key; });
    };
    std::vector<std::pair<int, SenderEvent>> asked;  // step of the answer
    std::size_t seen_sent = 0;
    std::size_t seen_received = 0;
    for (int step = 0; step < 3000; ++step) {
        world.settle();
        for (; seen_sent < world.sent.size(); ++seen_sent) {
            SenderEvent& event = world.sent[seen_sent];
            if (event.kind != S::fetch_requested) { continue; }
            REQUIRE(event.hashes == hashes);
            asked.emplace_back(step + plan_of(event.key)->answer_after, std::move(event));
            event.key = {};  // a fetch that is asked for twice, after its end, is counted by its own end
        }
        for (auto& [due, event] : asked) {
            if (step < due || event.slot == nullptr) { continue; }
            const Planned& plan = *plan_of(event.key);
            if (plan.lent_tokens == 0) {
                world.sender->refuse_fetch(event.key, {base::ErrorCode::not_found, ""}, std::move(event.slot));
            } else if (world.sender->open({.key = event.key,
                                           .kv_address = {},
                                           .kv_tokens = plan.lent_tokens,
                                           .blocks = plan.prefill_blocks,
                                           .deadline = event.deadline,
                                           .fetch_slot = std::move(event.slot)})) {
                world.ready_all(event.key, plan.lent_tokens);
            }
            event.slot = nullptr;
        }
        for (Planned& plan : plans) {
            if (step == plan.abort_after) { world.receiver->abort(plan.key, {base::ErrorCode::cancelled, ""}); }
        }
        for (; seen_received < world.received.size(); ++seen_received) {
            const ReceiverEvent& event = world.received[seen_received];
            if (event.kind != R::completed) { continue; }
            Planned& plan = *plan_of(event.key);
            REQUIRE(event.kv_tokens == plan.lent_tokens);
            REQUIRE(event.kv_tokens > 0);
            // As the step thread would: read at once, the blocks are ours now.
            plan.came = kv_test::kv_of(world.decode_store, plan.decode_blocks, 0, event.kv_tokens);
        }
        world.clock.advance(milliseconds(5));
    }
    for (const Planned& plan : plans) {
        CAPTURE(kv_transfer::to_string(plan.key));
        CHECK(world.count(R::completed, plan.key) + world.count(R::failed, plan.key) == 1);
        CHECK(world.count(R::released, plan.key) == 1);
        CHECK(world.count(S::completed, plan.key) + world.count(S::failed, plan.key) ==
              world.count(S::released, plan.key));
        if (plan.came.empty()) { continue; }
        CHECK(plan.came == kv_test::kv_of(world.prefill_store, plan.prefill_blocks, 0, plan.lent_tokens));
        CHECK(kv_test::kv_of(world.decode_store, plan.decode_blocks, 0, plan.lent_tokens) == plan.came);
    }
    CHECK(world.receiver->handoffs_open() == 0);
    CHECK(world.sender->handoffs_open() == 0);
    CHECK(world.sender->inflight_bytes() == 0);
    CHECK(world.receiver->staging_buffers_free() == 8);
}
