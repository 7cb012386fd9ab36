// Who leads, on a clock that the test moves.
#include "scheduler/election.h"

#include "base/clock.h"
#include "scheduler/memory_lease.h"

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using scheduler::Election;
using scheduler::MemoryLease;
using scheduler::MemoryRecord;

namespace {

struct Candidate {
    Candidate(std::string name, MemoryRecord& record, const base::Clock& given)
        : lease(record), clock(given), election({.name = std::move(name), .lease = 1000ms}, lease, given) {}
    bool step(std::uint32_t workers = 0, std::uint64_t epoch = 0) {
        election.step({.workers = workers, .epoch = epoch});
        return leads();
    }
    bool leads() const { return election.standing().leads_at(clock.now()); }

    MemoryLease lease;
    const base::Clock& clock;
    Election election;
};

struct Two {
    base::FakeClock clock;
    MemoryRecord record;
    Candidate a{"a:1", record, clock};
    Candidate b{"b:1", record, clock};
};

}  // namespace

TEST_CASE("the first scheduler leads at once, and goes on as long as it looks", "[scheduler][election]") {
    Two two;
    REQUIRE(two.a.step());
    const std::uint64_t epoch = two.a.election.standing().epoch;
    for (int step = 0; step < 100; ++step) {
        two.clock.advance(125ms);
        REQUIRE(two.a.step(3));
        REQUIRE_FALSE(two.b.step());
        REQUIRE(two.b.election.standing().leader == "a:1");
    }
    REQUIRE(two.a.election.standing().epoch == epoch);
    REQUIRE(two.record.term.workers == 3u);
}

TEST_CASE("a leader that is silent for its lease has stopped before another one begins", "[scheduler][election]") {
    Two two;
    REQUIRE(two.a.step(5));
    REQUIRE(two.a.step(5));
    REQUIRE_FALSE(two.b.step());
    const std::uint64_t epoch = two.a.election.standing().epoch;
    two.clock.advance(899ms);
    REQUIRE(two.a.leads());
    REQUIRE_FALSE(two.b.step());
    two.clock.advance(1ms);
    REQUIRE_FALSE(two.a.leads());  // it stood still, and looks at the clock
    REQUIRE_FALSE(two.b.step());
    two.clock.advance(100ms);
    REQUIRE(two.b.step());
    REQUIRE(two.b.election.standing().epoch > epoch);
    REQUIRE(two.b.election.standing().workers_before == 5u);
    REQUIRE(two.record.term.workers == 5u);  // whoever follows it in turn awaits them, too
    REQUIRE_FALSE(two.a.step());             // awake again
    REQUIRE(two.a.election.standing().leader == "b:1");
    REQUIRE(two.b.step());
}

TEST_CASE("who stands by knows when the leader's silence is long enough, to look again right then",
          "[scheduler][election]") {
    Two two;
    REQUIRE_FALSE(two.b.election.silence_ends());  // it has not looked
    REQUIRE(two.a.step());
    REQUIRE_FALSE(two.a.election.silence_ends());  // it leads
    REQUIRE_FALSE(two.b.step());
    REQUIRE(two.b.election.silence_ends() == two.clock.now() + 1000ms);
    two.clock.advance(300ms);
    REQUIRE_FALSE(two.b.step());
    REQUIRE(two.b.election.silence_ends() == two.clock.now() + 700ms);  // the same record: the silence is as old
    REQUIRE(two.a.step());
    REQUIRE_FALSE(two.b.step());
    const auto ends = two.b.election.silence_ends();
    REQUIRE(ends == two.clock.now() + 1000ms);
    two.record.is_down = true;
    two.clock.advance(500ms);
    REQUIRE_FALSE(two.b.step());
    REQUIRE_FALSE(two.b.election.silence_ends());  // what happened meanwhile was not seen
    two.record.is_down = false;
    REQUIRE_FALSE(two.b.step());
    REQUIRE(two.b.election.silence_ends() == *ends + 500ms);
    two.clock.advance(1000ms);
    REQUIRE(two.b.step());
    REQUIRE_FALSE(two.b.election.silence_ends());
}

TEST_CASE("a leader that resigns is followed at the next look", "[scheduler][election]") {
    Two two;
    REQUIRE(two.a.step());
    REQUIRE_FALSE(two.b.step());
    two.a.election.resign();
    REQUIRE_FALSE(two.a.leads());
    REQUIRE(two.b.step());
}

TEST_CASE("while the store is down who leads stays, and nobody else begins", "[scheduler][election]") {
    Two two;
    REQUIRE(two.a.step());
    REQUIRE_FALSE(two.b.step());
    two.record.is_down = true;
    for (int look = 0; look < 40; ++look) {
        two.clock.advance(250ms);
        REQUIRE(two.a.step());
        REQUIRE_FALSE(two.a.election.problem().empty());
        REQUIRE_FALSE(two.b.step());
    }
    two.record.is_down = false;
    REQUIRE_FALSE(two.b.step());  // it has not watched the record for a lease
    REQUIRE(two.a.step());
    REQUIRE(two.a.election.problem().empty());
    REQUIRE(two.a.election.standing().serial == 1);
}

TEST_CASE("a leader that stood still while the store is down leads no more", "[scheduler][election]") {
    Two two;
    REQUIRE(two.a.step());
    two.record.is_down = true;
    two.clock.advance(900ms);
    REQUIRE_FALSE(two.a.leads());
    REQUIRE_FALSE(two.a.step());
    two.record.is_down = false;
    REQUIRE_FALSE(two.b.step());
    two.clock.advance(1000ms);
    REQUIRE(two.b.step());
}

TEST_CASE("a leader that is cut off from the store ends when it hears of another one's epoch",
          "[scheduler][election]") {
    Two two;
    REQUIRE(two.a.step(3, two.a.election.standing().epoch));
    const std::uint64_t epoch = two.a.election.standing().epoch;
    REQUIRE_FALSE(two.b.step());
    two.record.is_down = true;
    two.clock.advance(500ms);
    REQUIRE(two.a.step(3, epoch));
    // The other one reaches it again, and has seen it stand still.
    two.record.is_down = false;
    two.clock.advance(500ms);
    REQUIRE(two.b.step());
    const std::uint64_t higher = two.b.election.standing().epoch;
    REQUIRE(higher > epoch);
    two.record.is_down = true;
    two.clock.advance(100ms);
    REQUIRE(two.a.step(3, epoch));
    REQUIRE_FALSE(two.a.step(3, higher));
}

TEST_CASE("an epoch that the leader raised is in the record, and the next one is above it", "[scheduler][election]") {
    Two two;
    REQUIRE(two.a.step());
    const std::uint64_t raised = two.a.election.standing().epoch + 1'000'000'000;
    REQUIRE(two.a.step(1, raised));
    REQUIRE(two.record.term.epoch == raised);
    two.a.election.resign();
    REQUIRE(two.b.step());
    REQUIRE(two.b.election.standing().epoch > raised);
}
