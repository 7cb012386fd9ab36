// Where conversations, groups of prompts and bursts of siblings go.
#include "scheduler/affinity_table.h"

#include <set>
#include <vector>

#include "scheduler/coming_blocks.h"
#include "scheduler/place.h"
#include "tests/scheduler/builders.h"
#include "tests/scheduler/fixture.h"
#include "tests/support/catch.h"

namespace {

using base::Incarnation;
using base::RequestId;
using scheduler::AffinityName;
using scheduler::AffinityTable;
using scheduler::ComingBlocks;
using scheduler::Role;
using scheduler::WorkerView;
using scheduler_test::expect_what_is_told;
using scheduler_test::Fixture;
using scheduler_test::make_hashes;
using scheduler_test::make_worker;

/// Two workers for prefill, of which the second is the affine one, and one for decode. Prompts of 1000 tokens take a
/// second.
struct Pair {
    std::vector<WorkerView> workers{make_worker({.id = 1, .role = Role::prefill}),
                                    make_worker({.id = 2, .role = Role::prefill}),
                                    make_worker({.id = 3, .role = Role::decode})};
    std::vector<scheduler::Affinity> affinities{{Incarnation{1002}, 0.5}};
    std::vector<scheduler::ComingPrefix> coming;
    std::vector<std::uint32_t> cached_blocks;
    double ttft_seconds_left = scheduler::kNoTarget;
    double queue_share = 1;

    void queue(std::size_t worker, std::uint64_t tokens) {
        workers[worker].load.requests_waiting = 1;
        workers[worker].load.prefill_tokens_queued = tokens;
        expect_what_is_told(workers[worker]);
    }
    scheduler::PlaceOutcome outcome() const {
        return scheduler::place({.workers = workers}, {.prompt_tokens = 1000,
                                                       .new_tokens_max = 20,
                                                       .cached_blocks = cached_blocks,
                                                       .coming = coming,
                                                       .affinities = affinities,
                                                       .ttft_seconds_left = ttft_seconds_left,
                                                       .queue_share = queue_share});
    }
    scheduler::Placement placed() const {
        const auto placed = outcome();
        REQUIRE(std::holds_alternative<scheduler::Placement>(placed));
        return std::get<scheduler::Placement>(placed);
    }
};

proto::PlaceRequest make_turn(std::uint64_t id, std::uint64_t session, const std::vector<base::BlockHash>& hashes) {
    proto::PlaceRequest request = scheduler_test::make_place(
        {.request_id = id, .prompt_tokens = static_cast<std::uint32_t>(hashes.size()) * 16 + 8, .hashes = hashes});
    request.set_session(session);
    return request;
}

std::uint64_t prefill_of(Fixture& fixture, const proto::PlaceRequest& request) {
    const auto reply = fixture.scheduler.place(request);
    INFO(reply.ShortDebugString());
    REQUIRE(reply.has_placement());
    return reply.placement().prefill().worker_id();
}

}  // namespace

TEST_CASE("a conversation comes back to its worker while that costs less than a part of its prompt",
          "[scheduler][affinity]") {
    Pair pair;
    SECTION("when all is equal") {
        REQUIRE(pair.placed().prefill == 1);
    }
    SECTION("and without its name the lower id is taken") {
        pair.affinities.clear();
        REQUIRE(pair.placed().prefill == 0);
    }
    SECTION("behind a queue of less than half of its prompt, and is told the truth about it") {
        pair.queue(1, 450);
        const auto placement = pair.placed();
        REQUIRE(placement.prefill == 1);
        REQUIRE(placement.ttft_seconds == Approx(1.45).margin(0.01));
        REQUIRE(placement.queue_seconds == Approx(0.45).margin(0.01));
    }
    SECTION("but not behind a longer one") {
        pair.queue(1, 550);
        REQUIRE(pair.placed().prefill == 0);
    }
    SECTION("and not past one that is known to hold its prompt") {
        pair.cached_blocks = {40, 0, 0};
        REQUIRE(pair.placed().prefill == 0);
    }
    SECTION("and not where it would be late, as long as another one is in time") {
        pair.queue(1, 300);
        pair.ttft_seconds_left = 1.2;
        REQUIRE(pair.placed().prefill == 0);
        pair.ttft_seconds_left = 1.4;
        REQUIRE(pair.placed().prefill == 1);
    }
    SECTION("and not for a tenant that is held back") {
        pair.queue_share = 0.9;
        REQUIRE(pair.placed().prefill == 0);
    }
    SECTION("and not to a full queue") {
        pair.workers[1].load.requests_waiting = pair.workers[1].limits.queue_requests_max;
        REQUIRE(pair.placed().prefill == 0);
    }
    SECTION("or to a worker that drains") {
        pair.workers[1].status = scheduler::WorkerStatus::draining;
        REQUIRE(pair.placed().prefill == 0);
    }
}

TEST_CASE("a prompt goes behind the one that brings what it begins with, and counts only the rest",
          "[scheduler][affinity]") {
    Pair pair;
    pair.affinities.clear();
    pair.queue(1, 1000);
    SECTION("which is as soon as elsewhere, and saves the work") {
        pair.coming = {{Incarnation{1002}, 62}};
        const auto placement = pair.placed();
        REQUIRE(placement.prefill == 1);
        REQUIRE(placement.cached_prompt_tokens == 992);
        REQUIRE(placement.ttft_seconds == Approx(1.01).margin(0.01));
        REQUIRE_FALSE(placement.kv_source);
    }
    SECTION("unless little of it is the same") {
        pair.coming = {{Incarnation{1002}, 20}};
        REQUIRE(pair.placed().prefill == 0);
    }
}

TEST_CASE("where names went is remembered up to a bound, the least recently used go", "[scheduler][affinity]") {
    AffinityTable table(2);
    const auto at = [](std::uint64_t worker) {
        return AffinityTable::Last{.prefill = Incarnation{worker}, .decode = Incarnation{worker}};
    };
    table.note(AffinityName{1}, at(11));
    table.note(AffinityName{2}, at(12));
    table.note(AffinityName{1}, at(13));
    table.note(AffinityName{3}, at(14));
    REQUIRE(table.names() == 2);
    REQUIRE(table.find(AffinityName{1}) == at(13));
    REQUIRE_FALSE(table.find(AffinityName{2}));
    table.forget(AffinityName{1});
    REQUIRE_FALSE(table.find(AffinityName{1}));
    table.note(AffinityName::none, at(15));
    REQUIRE_FALSE(table.find(AffinityName::none));
    REQUIRE(table.names() == 1);

    AffinityTable off(0);
    off.note(AffinityName{1}, at(11));
    REQUIRE_FALSE(off.find(AffinityName{1}));
}

TEST_CASE("prefixes that are coming are found until reports show them", "[scheduler][affinity]") {
    ComingBlocks coming(1000);
    std::vector<ComingBlocks::Held> found;
    const auto chain = make_hashes(1, 100);
    const auto blocks_at = [&](std::uint32_t slot, std::span<const base::BlockHash> of) {
        coming.find(of, found);
        for (const auto& held : found) {
            if (held.slot == slot) { return held.blocks; }
        }
        return 0u;
    };
    const auto is_placed = [](RequestId) { return true; };
    coming.add(RequestId{1}, 7, chain);
    REQUIRE(blocks_at(7, chain) == 100);
    // Who shares a part finds at least four fifths of it, and never more than it.
    auto other = make_hashes(1, 50);
    for (const auto& hash : make_hashes(1000, 50)) {
        other.push_back(hash);
    }
    REQUIRE(blocks_at(7, other) >= 40);
    REQUIRE(blocks_at(7, other) <= 50);
    REQUIRE(blocks_at(7, make_hashes(500, 10)) == 0);

    SECTION("two reports after its first token") {
        coming.heartbeat(7, is_placed);
        coming.heartbeat(7, is_placed);
        REQUIRE(blocks_at(7, chain) == 100);
        coming.computed(RequestId{1});
        coming.heartbeat(7, is_placed);
        REQUIRE(blocks_at(7, chain) == 100);
        coming.heartbeat(7, is_placed);
        REQUIRE(blocks_at(7, chain) == 0);
    }
    SECTION("or its end, which without a first token is at once") {
        coming.add(RequestId{2}, 8, chain);
        coming.ended(RequestId{2}, false);
        REQUIRE(blocks_at(8, chain) == 0);
        coming.ended(RequestId{1}, true);
        REQUIRE(blocks_at(7, chain) == 100);
        coming.heartbeat(7, is_placed);
        coming.heartbeat(7, is_placed);
    }
    SECTION("or until nobody knows the request any more") {
        coming.heartbeat(7, [](RequestId) { return false; });
    }
    SECTION("or the end of its worker") {
        coming.clear(7);
    }
    SECTION("or another place of the same request") {
        coming.add(RequestId{1}, 9, chain);
        REQUIRE(blocks_at(9, chain) == 100);
        coming.clear(9);
    }
    REQUIRE(blocks_at(7, chain) == 0);
    REQUIRE(coming.marks() == 0);
}

TEST_CASE("coming prefixes are bounded, and those that are full leave whole again", "[scheduler][affinity]") {
    ComingBlocks coming(20);
    for (std::uint64_t request = 1; request <= 50; ++request) {
        coming.add(RequestId{request}, static_cast<std::uint32_t>(request % 3), make_hashes(request * 1000, 30));
        REQUIRE(coming.marks() <= 20);
    }
    for (std::uint64_t request = 1; request <= 50; ++request) {
        coming.ended(RequestId{request}, false);
    }
    REQUIRE(coming.marks() == 0);
}

TEST_CASE("the next turn of a conversation goes where the last one went, before any report shows its blocks",
          "[scheduler][affinity]") {
    Fixture fixture;
    for (std::uint64_t id = 1; id <= 4; ++id) {
        fixture.attach(id, {.id = id, .incarnation = 1000 + id});
        static_cast<void>(fixture.beat(id));
    }
    // Some that are busy before it: the lowest id is not the one that is taken anyway.
    static_cast<void>(prefill_of(fixture, make_turn(1, 0, make_hashes(1, 20))));
    const std::uint64_t first = prefill_of(fixture, make_turn(2, 77, make_hashes(1000, 20)));
    fixture.release(1, proto::ReleaseRequest::Ended::PHASE_ALL, 0, 1000, 1000);
    fixture.release(2, proto::ReleaseRequest::Ended::PHASE_ALL, 0, 1000, 1000);
    REQUIRE(first != 1);
    auto longer = make_hashes(1000, 20);
    for (const auto& hash : make_hashes(5000, 6)) {
        longer.push_back(hash);
    }
    SECTION("by what is coming there") {
        REQUIRE(prefill_of(fixture, make_turn(3, 0, longer)) == first);
    }
    SECTION("by its name alone, when its blocks have other names now") {
        REQUIRE(prefill_of(fixture, make_turn(3, 77, make_hashes(9000, 26))) == first);
        auto child = make_turn(4, 78, make_hashes(12'000, 26));
        child.set_parent_session(77);
        REQUIRE(prefill_of(fixture, child) != 0);
    }
    SECTION("by the name of the one that it came out of") {
        auto child = make_turn(3, 78, make_hashes(9000, 26));
        child.set_parent_session(77);
        REQUIRE(prefill_of(fixture, child) == first);
    }
    SECTION("not when its client has said that it is over") {
        auto last = make_turn(3, 77, make_hashes(9000, 26));
        last.set_session_ends(true);
        REQUIRE(prefill_of(fixture, last) == first);
        fixture.release(3, proto::ReleaseRequest::Ended::PHASE_ALL, 0, 1000, 1000);
        REQUIRE(prefill_of(fixture, make_turn(4, 77, make_hashes(15'000, 26))) == 1);
    }
}

TEST_CASE("a burst of one prompt is placed by what the first of it computes, and spreads before a queue grows",
          "[scheduler][affinity]") {
    Fixture fixture;
    constexpr std::uint64_t kWorkers = 8;
    for (std::uint64_t id = 1; id <= kWorkers; ++id) {
        fixture.attach(id, {.id = id, .incarnation = 1000 + id, .queue_requests_max = 256});
        static_cast<void>(fixture.beat(id));
    }
    const auto chain = make_hashes(1, 200);
    std::uint64_t uncached = 0;
    std::map<std::uint64_t, int> requests;
    for (std::uint64_t request = 1; request <= 64; ++request) {
        const auto reply = fixture.scheduler.place(make_turn(request, 0, chain));
        REQUIRE(reply.has_placement());
        ++requests[reply.placement().prefill().worker_id()];
        uncached += 3208 - reply.placement().cached_prompt_tokens();
    }
    CAPTURE(requests.size(), uncached);
    REQUIRE(uncached <= kWorkers * 3208 + 64 * 24);  // no worker computes it twice
    REQUIRE(requests.size() >= 2);                   // and not one of them has all
    for (const auto& [worker, count] : requests) {
        REQUIRE(count <= 32);
    }
}
