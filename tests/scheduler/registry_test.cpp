#include "scheduler/registry.h"

#include "base/clock.h"
#include "tests/scheduler/builders.h"
#include "tests/support/catch.h"

using namespace std::chrono_literals;
using scheduler::Registry;
using scheduler::WorkerStatus;
using scheduler_test::make_events;
using scheduler_test::make_hashes;
using scheduler_test::make_heartbeat;
using scheduler_test::make_registration;

namespace {

struct Fixture {
    base::FakeClock clock;
    Registry registry{{.workers_max = 3, .prefix_blocks_max = 1000, .suspect_after = 1s, .lease = 3s}};

    Registry::Life enroll(std::uint64_t id, std::uint64_t incarnation) {
        const auto enrolled = registry.enroll(make_registration({.id = id, .incarnation = incarnation}), clock.now());
        REQUIRE(enrolled.has_value());
        return enrolled->life;
    }
    Registry::Heard hear(Registry::Life who, const sluice::proto::Heartbeat& heartbeat) {
        return registry.hear(who, heartbeat, clock.now());
    }
    scheduler::WorkerView worker(std::uint64_t id) {
        const auto slot = registry.slot_of(base::WorkerId{id});
        REQUIRE(slot.has_value());
        return registry.view(clock.now())[*slot];
    }
    std::uint32_t matched(std::uint64_t id, const std::vector<base::BlockHash>& chain) {
        return registry.match(chain)[*registry.slot_of(base::WorkerId{id})];
    }
};

}  // namespace

TEST_CASE("a registered worker is ready and empty until it reports", "[scheduler][registry]") {
    Fixture f;
    const auto who = f.enroll(1, 11);
    auto worker = f.worker(1);
    REQUIRE(worker.status == WorkerStatus::ready);
    REQUIRE(worker.load.blocks_room == 1000);
    REQUIRE(worker.limits.batch_tokens_max == 512);
    REQUIRE(worker.numerics_id == 7);

    auto heartbeat = make_heartbeat(1, 10);
    heartbeat.mutable_load()->set_blocks_cached(5);
    heartbeat.mutable_load()->set_requests_waiting(3);
    heartbeat.mutable_load()->set_prefill_tokens_queued(500);
    REQUIRE(f.hear(who, heartbeat).fresh);
    worker = f.worker(1);
    REQUIRE(worker.load.blocks_room == 15);
    REQUIRE(worker.load.requests_waiting == 3);
    REQUIRE(worker.load.prefill_tokens_queued == 500);
}

TEST_CASE("a silent worker is suspect, then gone", "[scheduler][registry]") {
    Fixture f;
    const auto who = f.enroll(1, 11);
    f.clock.advance(999ms);
    REQUIRE(f.worker(1).status == WorkerStatus::ready);
    f.clock.advance(1ms);
    REQUIRE(f.worker(1).status == WorkerStatus::suspect);
    REQUIRE(f.hear(who, make_heartbeat(1)).fresh);
    REQUIRE(f.worker(1).status == WorkerStatus::ready);
    f.clock.advance(2999ms);
    REQUIRE(f.registry.expire(f.clock.now()).empty());
    f.clock.advance(1ms);
    REQUIRE(f.registry.expire(f.clock.now()) == std::vector{who});
    REQUIRE(f.registry.workers() == 0);
    REQUIRE_FALSE(f.hear(who, make_heartbeat(2)).fresh);
    REQUIRE_FALSE(f.registry.leave(who));
}

TEST_CASE("a worker says that it drains", "[scheduler][registry]") {
    Fixture f;
    const auto who = f.enroll(1, 11);
    auto heartbeat = make_heartbeat(1);
    heartbeat.mutable_load()->set_draining(true);
    f.hear(who, heartbeat);
    REQUIRE(f.worker(1).status == WorkerStatus::draining);
}

TEST_CASE("a new life replaces the old one, whose late words have no effect", "[scheduler][registry]") {
    Fixture f;
    const auto old_life = f.enroll(1, 11);
    const auto chain = make_hashes(1, 4);
    auto heartbeat = make_heartbeat(5, 100);
    *heartbeat.add_blocks() = make_events(1, chain);
    f.hear(old_life, heartbeat);
    f.registry.in_flight().add({.request = base::RequestId{1}, .uncached_tokens = 50, .prompt_tokens = 50},
                               f.clock.now());
    REQUIRE(f.matched(1, chain) == 4);
    REQUIRE(f.worker(1).pending.prefill_tokens == 50);

    // Not while the old one is heard of.
    const auto early = f.registry.enroll(make_registration({.id = 1, .incarnation = 12}), f.clock.now());
    REQUIRE(early.error().code == base::ErrorCode::failed_precondition);
    REQUIRE(f.matched(1, chain) == 4);
    REQUIRE(f.hear(old_life, make_heartbeat(6, 90)).fresh);
    f.clock.advance(5s);
    const auto enrolled = f.registry.enroll(make_registration({.id = 1, .incarnation = 12}), f.clock.now());
    REQUIRE(enrolled->replaced == old_life);
    REQUIRE(f.registry.workers() == 1);
    REQUIRE(f.matched(1, chain) == 0);
    REQUIRE(f.worker(1).pending == scheduler::PendingLoad{});
    REQUIRE(f.worker(1).load.blocks_room == 1000);

    heartbeat = make_heartbeat(7, 5);
    *heartbeat.add_blocks() = make_events(2, chain);
    REQUIRE_FALSE(f.hear(old_life, heartbeat).fresh);
    REQUIRE_FALSE(f.registry.leave(old_life));
    REQUIRE(f.matched(1, chain) == 0);
    REQUIRE(f.worker(1).load.blocks_room == 1000);
    const auto back = f.registry.enroll(make_registration({.id = 1, .incarnation = 11}), f.clock.now());
    REQUIRE(back.error().code == base::ErrorCode::failed_precondition);
    REQUIRE(f.worker(1).incarnation == base::Incarnation{12});
}

TEST_CASE("nobody speaks for a life who has not its secret", "[scheduler][registry]") {
    Fixture f;
    auto registration = make_registration({.id = 1, .incarnation = 11});
    registration.set_life_secret("drawn by the worker");
    REQUIRE(f.registry.enroll(registration, f.clock.now()).has_value());
    REQUIRE(f.registry.enroll(registration, f.clock.now())->known);
    auto forged = registration;
    SECTION("another") {
        forged.set_life_secret("guessed by somebody");
    }
    SECTION("none") {
        forged.clear_life_secret();
    }
    forged.mutable_endpoint()->set_control_address("127.0.0.1:666");
    REQUIRE(f.registry.enroll(forged, f.clock.now()).error().code == base::ErrorCode::permission_denied);
    REQUIRE(f.registry.registration(0).endpoint().control_address() == registration.endpoint().control_address());
}

TEST_CASE("the same life may attach again and keeps what is known of it", "[scheduler][registry]") {
    Fixture f;
    const auto who = f.enroll(1, 11);
    const auto chain = make_hashes(1, 4);
    auto heartbeat = make_heartbeat(900, 100);
    *heartbeat.add_blocks() = make_events(1, chain);
    f.hear(who, heartbeat);
    const auto again = f.registry.enroll(make_registration({.id = 1, .incarnation = 11}), f.clock.now());
    REQUIRE(again->known);
    REQUIRE_FALSE(again->replaced.has_value());
    REQUIRE(f.matched(1, chain) == 4);
    REQUIRE(f.worker(1).load.blocks_room == 100);
    REQUIRE(f.hear(who, make_heartbeat(1, 90)).fresh);  // it counts its heartbeats anew
}

TEST_CASE("duplicated and late heartbeats change nothing", "[scheduler][registry]") {
    Fixture f;
    const auto who = f.enroll(1, 11);
    REQUIRE(f.hear(who, make_heartbeat(5, 50)).fresh);
    f.clock.advance(1s);
    REQUIRE_FALSE(f.hear(who, make_heartbeat(5, 60)).fresh);
    REQUIRE_FALSE(f.hear(who, make_heartbeat(4, 70)).fresh);
    REQUIRE(f.worker(1).load.blocks_room == 50);
    REQUIRE(f.worker(1).status == WorkerStatus::suspect);
}

TEST_CASE("block events with a gap ask for a snapshot, which then replaces everything", "[scheduler][registry]") {
    Fixture f;
    const auto who = f.enroll(1, 11);
    const auto chain = make_hashes(1, 6);
    auto heartbeat = make_heartbeat(1);
    *heartbeat.add_blocks() = make_events(1, {chain[0], chain[1]});
    REQUIRE_FALSE(f.hear(who, heartbeat).resend_snapshot);

    heartbeat = make_heartbeat(2);
    *heartbeat.add_blocks() = make_events(3, {chain[2]});  // 2 was lost
    REQUIRE(f.hear(who, heartbeat).resend_snapshot);
    REQUIRE(f.matched(1, chain) == 2);  // what was believed stays believed
    heartbeat = make_heartbeat(3);
    *heartbeat.add_blocks() = make_events(4, {chain[3]});
    REQUIRE_FALSE(f.hear(who, heartbeat).resend_snapshot);  // asked already
    f.clock.advance(1s);
    REQUIRE(f.hear(who, make_heartbeat(4)).resend_snapshot);  // and again, when nothing came

    heartbeat = make_heartbeat(5);
    *heartbeat.add_blocks() = make_events(3, {chain[0]}, {}, true);  // older than what was seen
    f.hear(who, heartbeat);
    REQUIRE(f.matched(1, chain) == 2);
    heartbeat = make_heartbeat(6);
    *heartbeat.add_blocks() = make_events(5, {chain[0], chain[1], chain[2], chain[3], chain[4]}, {}, true);
    *heartbeat.add_blocks() = make_events(6, {chain[5]}, {chain[0]});
    *heartbeat.add_blocks() = make_events(6, {chain[0]});  // a duplicate number
    REQUIRE_FALSE(f.hear(who, heartbeat).resend_snapshot);
    REQUIRE(f.matched(1, chain) == 0);
    REQUIRE(f.registry.block_index().blocks_of(0) == 5);
    f.clock.advance(10s);
    REQUIRE_FALSE(f.hear(who, make_heartbeat(7)).resend_snapshot);
}

TEST_CASE("a worker that was there before the scheduler is asked for its blocks", "[scheduler][registry]") {
    Fixture f;
    const auto who = f.enroll(1, 11);
    auto heartbeat = make_heartbeat(700);
    SECTION("its events go on somewhere in the middle") {
        *heartbeat.add_blocks() = make_events(400, make_hashes(1, 1));
        REQUIRE(f.hear(who, heartbeat).resend_snapshot);
    }
    SECTION("it has no news, but cached blocks") {
        heartbeat.mutable_load()->set_blocks_cached(20);
        REQUIRE(f.hear(who, heartbeat).resend_snapshot);
    }
    SECTION("it has neither") {
        REQUIRE_FALSE(f.hear(who, heartbeat).resend_snapshot);
    }
}

TEST_CASE("registrations that cannot be served are refused", "[scheduler][registry]") {
    Fixture f;
    f.enroll(1, 11);
    const auto refused = [&f](const sluice::proto::RegisterWorker& registration) {
        const auto enrolled = f.registry.enroll(registration, f.clock.now());
        REQUIRE_FALSE(enrolled.has_value());
        REQUIRE(f.registry.workers() == 1);
        return enrolled.error().code;
    };
    auto registration = make_registration({.id = 2, .incarnation = 21});
    SECTION("no address") {
        registration.mutable_endpoint()->clear_control_address();
    }
    SECTION("no id") {
        registration.mutable_endpoint()->set_worker_id(0);
    }
    SECTION("no incarnation") {
        registration.mutable_endpoint()->set_incarnation(0);
    }
    SECTION("no role") {
        registration.set_role(sluice::proto::WORKER_ROLE_UNSPECIFIED);
    }
    SECTION("no blocks") {
        registration.set_kv_blocks_total(0);
    }
    SECTION("no block size") {
        registration.set_block_tokens(0);
    }
    SECTION("no context") {
        registration.set_context_tokens(0);
    }
    SECTION("no batch") {
        registration.set_batch_tokens_max(0);
    }
    SECTION("no queue") {
        registration.set_queue_requests_max(0);
    }
    REQUIRE(refused(registration) == base::ErrorCode::invalid_argument);
}

TEST_CASE("workers share a block size and are bounded in number", "[scheduler][registry]") {
    Fixture f;
    f.enroll(1, 11);
    const auto other =
        f.registry.enroll(make_registration({.id = 2, .incarnation = 21, .block_tokens = 32}), f.clock.now());
    REQUIRE(other.error().code == base::ErrorCode::failed_precondition);
    // Its only worker may change it, with a new life.
    f.clock.advance(5s);
    REQUIRE(f.registry.enroll(make_registration({.id = 1, .incarnation = 12, .block_tokens = 32}), f.clock.now())
                .has_value());
    for (std::uint64_t id = 2; id <= 3; ++id) {
        REQUIRE(
            f.registry.enroll(make_registration({.id = id, .incarnation = 10 * id, .block_tokens = 32}), f.clock.now())
                .has_value());
    }
    const auto fourth =
        f.registry.enroll(make_registration({.id = 4, .incarnation = 41, .block_tokens = 32}), f.clock.now());
    REQUIRE(fourth.error().code == base::ErrorCode::resource_exhausted);
}

TEST_CASE("the level of each block is known, and what loading from there takes", "[scheduler][registry]") {
    Fixture f;
    const auto who = f.enroll(1, 11);
    const auto other = f.enroll(2, 22);
    const auto chain = make_hashes(1, 40);
    const std::uint32_t slot = static_cast<std::uint32_t>(*f.registry.slot_of(base::WorkerId{1}));
    const auto below = [&](std::uint32_t blocks) {
        const auto outlook = f.registry.outlook_of_all(std::span(chain).first(blocks), f.clock.now());
        return outlook.below_pool.empty() ? scheduler::BelowPool{} : outlook.below_pool[slot];
    };
    const auto put_below = [](sluice::proto::BlockEvents& events, std::uint32_t level,
                              const std::vector<base::BlockHash>& hashes) {
        auto& part = *events.add_below();
        part.set_level(level);
        part.set_hashes(proto::write_block_hashes(hashes));
    };
    auto heartbeat = make_heartbeat(1);
    *heartbeat.add_blocks() = make_events(1, chain);
    f.hear(who, heartbeat);
    CHECK(f.registry.outlook_of_all(chain, f.clock.now()).below_pool.empty());  // no levels, no cost

    // Blocks 10 to 29 move to the first level, the last ten to the second.
    heartbeat = make_heartbeat(2);
    auto moved = make_events(2, {});
    put_below(moved, 1, {chain.begin() + 10, chain.begin() + 30});
    put_below(moved, 2, {chain.begin() + 30, chain.end()});
    *heartbeat.add_blocks() = moved;
    heartbeat.add_load_ns_per_token(1'000);
    heartbeat.add_load_ns_per_token(50'000);
    f.hear(who, heartbeat);
    CHECK(f.matched(1, chain) == 40);
    CHECK(below(10).blocks == 0);
    CHECK(below(25).blocks == 15);
    CHECK(below(25).seconds == Approx(15 * 16 * 1e-6));
    CHECK(below(40).blocks == 30);
    CHECK(below(40).seconds == Approx(20 * 16 * 1e-6 + 10 * 16 * 50e-6));
    CHECK(f.registry.outlook_of_all(chain, f.clock.now()).below_pool[*f.registry.slot_of(base::WorkerId{2})].blocks ==
          0);

    // Loaded, another price, gone from everywhere.
    heartbeat = make_heartbeat(3);
    *heartbeat.add_blocks() =
        make_events(3, {chain.begin() + 10, chain.begin() + 30}, {chain.begin() + 35, chain.end()});
    heartbeat.add_load_ns_per_token(0);
    heartbeat.add_load_ns_per_token(20'000);
    f.hear(who, heartbeat);
    CHECK(f.matched(1, chain) == 35);
    CHECK(below(35).blocks == 5);
    CHECK(below(35).seconds == Approx(5 * 16 * 20e-6));

    // A snapshot says all anew; a worker that goes takes its levels along.
    heartbeat = make_heartbeat(4);
    auto snapshot = make_events(4, chain, {}, true);
    put_below(snapshot, 9, {chain.begin() + 20, chain.end()});  // deeper than any that is told apart
    *heartbeat.add_blocks() = snapshot;
    f.hear(who, heartbeat);
    CHECK(below(40).blocks == 20);
    CHECK(below(40).seconds == 0);
    f.registry.leave(who);
    CHECK(below(40).blocks == 0);
    f.registry.leave(other);
}
