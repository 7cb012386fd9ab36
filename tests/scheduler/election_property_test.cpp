// Schedulers that stand still, wake, die and lose their store, by seed: one at most leads at any time, and epochs rise.
#include <map>
#include <memory>
#include <random>
#include <vector>

#include "base/clock.h"
#include "scheduler/election.h"
#include "scheduler/memory_lease.h"

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using scheduler::Election;
using scheduler::MemoryLease;
using scheduler::MemoryRecord;

namespace {

constexpr auto kLease = 1000ms;

struct Candidate {
    Candidate(std::size_t number, MemoryRecord& record, const base::Clock& clock)
        : lease(record),
          election(std::make_unique<Election>(Election::Options{.name = "s" + std::to_string(number), .lease = kLease},
                                              lease, clock)) {}
    MemoryLease lease;
    std::unique_ptr<Election> election;
    bool is_stopped = false;
    bool was_cut_off = false;  // at its last look
};

}  // namespace

TEST_CASE("one scheduler at most leads that reaches the record, whatever happens, and one does when nothing happens",
          "[scheduler][election][property]") {
    const auto seed = GENERATE(range(0u, 200u));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const auto one_in = [&random](unsigned count) { return random() % count == 0; };
    base::FakeClock clock;
    MemoryRecord record;
    std::vector<std::unique_ptr<Candidate>> all;
    const std::size_t count = 2 + seed % 3;
    for (std::size_t number = 0; number < count; ++number) {
        all.push_back(std::make_unique<Candidate>(number, record, clock));
    }
    std::uint64_t epoch = 0;
    std::map<std::uint64_t, std::size_t> owner;  // of each epoch
    const auto check = [&] {
        std::size_t leaders = 0;
        for (std::size_t number = 0; number < count; ++number) {
            const auto& standing = all[number]->election->standing();
            if (!standing.leads_at(clock.now())) { continue; }
            REQUIRE(owner.emplace(standing.epoch, number).first->second == number);
            // Who could not renew goes on, for a lease at most after its last look; others may lead by then, with a
            // higher epoch, which keeps what both say apart.
            if (all[number]->was_cut_off) { continue; }
            ++leaders;
            REQUIRE(standing.epoch >= epoch);
            epoch = standing.epoch;
        }
        REQUIRE(leaders <= 1u);
    };
    for (int moment = 0; moment < 500; ++moment) {
        Candidate& one = *all[random() % count];
        if (one_in(40)) { one.is_stopped = !one.is_stopped; }
        if (one_in(60)) { record.is_down = !record.is_down; }
        if (one_in(80)) { one.election->resign(); }
        if (!one.is_stopped) {
            one.election->step({.workers = 1, .epoch = one_in(20) ? one.election->standing().epoch + 7 : 0});
            one.was_cut_off = !one.election->problem().empty();
        }
        check();
        clock.advance(std::chrono::milliseconds(random() % 200));
        check();
    }
    record.is_down = false;
    for (auto& one : all) {
        one->is_stopped = false;
    }
    for (int step = 0; step < 30; ++step) {  // three leases
        for (auto& one : all) {
            one->election->step({});
            one->was_cut_off = !one->election->problem().empty();
            check();
        }
        clock.advance(100ms);
    }
    std::size_t leaders = 0;
    for (auto& one : all) {
        leaders += one->election->standing().leads_at(clock.now()) ? 1 : 0;
    }
    REQUIRE(leaders == 1u);
}
