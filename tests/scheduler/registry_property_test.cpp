#include <deque>
#include <map>
#include <random>
#include <set>

#include "base/clock.h"
#include "scheduler/registry.h"
#include "tests/scheduler/builders.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using namespace std::chrono_literals;
using scheduler::Registry;
using scheduler_test::make_events;
using scheduler_test::make_hash;
using scheduler_test::make_heartbeat;
using scheduler_test::make_registration;

namespace {

/// A worker as it really is, and the wire between it and the registry, which loses, doubles and delays.
struct SimulatedWorker {
    std::uint64_t id = 0;
    std::uint64_t incarnation = 0;
    std::uint64_t heartbeat_number = 0;
    std::uint64_t event_number = 0;
    std::set<std::uint64_t> blocks;
    bool snapshot_wanted = true;
    std::deque<std::pair<Registry::Life, sluice::proto::Heartbeat>> wire;  // also of former lives

    Registry::Life life() const { return {.id = base::WorkerId{id}, .incarnation = base::Incarnation{incarnation}}; }

    sluice::proto::Heartbeat beat(std::mt19937& random) {
        sluice::proto::Heartbeat heartbeat =
            make_heartbeat(++heartbeat_number, 1000 - static_cast<std::uint32_t>(blocks.size()));
        heartbeat.mutable_load()->set_blocks_cached(static_cast<std::uint32_t>(blocks.size()));
        const auto changes = random() % 4;
        if (changes > 0) {
            std::vector<base::BlockHash> stored;
            std::vector<base::BlockHash> removed;
            std::set<std::uint64_t> changed;  // an event says what changed in the end: a block is in it once
            for (std::size_t i = 0; i < changes; ++i) {
                changed.insert(random() % 20);
            }
            for (const std::uint64_t block : changed) {
                if (blocks.insert(block).second) {
                    stored.push_back(make_hash(block));
                } else {
                    blocks.erase(block);
                    removed.push_back(make_hash(block));
                }
            }
            *heartbeat.add_blocks() = make_events(++event_number, stored, removed);
        }
        if (snapshot_wanted) {
            snapshot_wanted = false;
            std::vector<base::BlockHash> all;
            for (const std::uint64_t block : blocks) {
                all.push_back(make_hash(block));
            }
            *heartbeat.add_blocks() = make_events(++event_number, all, {}, true);
        }
        return heartbeat;
    }
};

}  // namespace

TEST_CASE("the registry ends up with the truth whatever reports are lost, doubled or late",
          "[scheduler][registry][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(100)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    base::FakeClock clock;
    Registry registry({.workers_max = 10, .prefix_blocks_max = 1000, .suspect_after = 1s, .lease = 1h});
    std::map<std::uint64_t, SimulatedWorker> workers;
    const auto start_life = [&](SimulatedWorker& worker) {
        const Registry::Life former = worker.life();
        worker.incarnation = random() | 1;
        worker.heartbeat_number = random() % 3;
        worker.event_number = 0;
        worker.blocks.clear();
        worker.snapshot_wanted = true;
        // The stream of the former life ended with its process.
        static_cast<void>(registry.leave(former));
        REQUIRE(registry.enroll(make_registration({.id = worker.id, .incarnation = worker.incarnation}), clock.now())
                    .has_value());
    };
    const auto deliver = [&](SimulatedWorker& worker,
                             const std::pair<Registry::Life, sluice::proto::Heartbeat>& message) {
        const auto heard = registry.hear(message.first, message.second, clock.now());
        if (message.first != worker.life()) { REQUIRE_FALSE(heard.fresh); }
        if (heard.resend_snapshot) { worker.snapshot_wanted = true; }
    };
    for (std::uint64_t id = 1; id <= 3; ++id) {
        workers[id].id = id;
        start_life(workers[id]);
    }
    for (int step = 0; step < 500; ++step) {
        clock.advance(200ms);
        SimulatedWorker& worker = workers[1 + random() % 3];
        if (random() % 40 == 0) { start_life(worker); }  // a restart; its former life's messages are still on the wire
        worker.wire.emplace_back(worker.life(), worker.beat(random));
        while (worker.wire.size() > 4) {
            const std::size_t at = random() % worker.wire.size();
            const auto message = worker.wire[at];
            const auto fate = random() % 4;
            if (fate != 3) {
                worker.wire.erase(worker.wire.begin() + static_cast<std::ptrdiff_t>(at));
            }  // 3: comes twice
            if (fate != 0) { deliver(worker, message); }  // 0: lost
        }
        REQUIRE(registry.workers() == 3);
    }
    // The wire gets well: within a few heartbeats everything is known exactly.
    for (auto& [id, worker] : workers) {
        worker.wire.clear();
        for (int beat = 0; beat < 5; ++beat) {
            clock.advance(1s);
            deliver(worker, {worker.life(), worker.beat(random)});
        }
    }
    for (auto& [id, worker] : workers) {
        CAPTURE(id);
        const auto slot = registry.slot_of(base::WorkerId{id});
        REQUIRE(slot.has_value());
        REQUIRE(registry.block_index().blocks_of(static_cast<std::uint32_t>(*slot)) == worker.blocks.size());
        for (const std::uint64_t block : worker.blocks) {
            REQUIRE(registry.block_index().holds(static_cast<std::uint32_t>(*slot), make_hash(block)));
        }
        const scheduler::WorkerView view = registry.view(clock.now())[*slot];
        REQUIRE(view.incarnation == base::Incarnation{worker.incarnation});
        REQUIRE(view.load.blocks_room == 1000);
    }
    for (auto& [id, worker] : workers) {
        REQUIRE(registry.leave(worker.life()));
    }
    REQUIRE(registry.block_index().blocks() == 0);
}
