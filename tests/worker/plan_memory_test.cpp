#include "worker/plan_memory.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "tests/support/catch.h"
#include "tests/support/random_tokens.h"

using test_support::Random;
using worker::MemoryAct;
using worker::MemoryAction;
using worker::MemoryCandidate;
using worker::MemoryCounts;
using worker::MemoryWish;
using worker::plan_memory;

namespace {

using Actions = std::vector<MemoryAction>;

MemoryCandidate running(bool may_give_way = true) {
    MemoryCandidate candidate;
    candidate.holds_kv = true;
    candidate.may_give_way = may_give_way;
    return candidate;
}

MemoryCandidate growing(std::uint32_t blocks, std::uint64_t turn = 0, bool may_give_way = true) {
    MemoryCandidate candidate = running(may_give_way);
    candidate.wish = MemoryWish::grow;
    candidate.blocks = blocks;
    candidate.turn = turn;
    return candidate;
}

MemoryCandidate newcomer(MemoryWish wish, std::uint32_t blocks, std::uint64_t turn) {
    MemoryCandidate candidate;
    candidate.wish = wish;
    candidate.blocks = blocks;
    candidate.turn = turn;
    return candidate;
}

MemoryCandidate waiting(std::uint32_t blocks, std::uint64_t turn) {
    return newcomer(MemoryWish::admit, blocks, turn);
}

MemoryCandidate asking(std::uint32_t blocks, std::uint64_t turn) {
    return newcomer(MemoryWish::grant, blocks, turn);
}

}  // namespace

TEST_CASE("newcomers are admitted in order of arrival until the first that finds no room", "[worker]") {
    const std::vector<MemoryCandidate> candidates = {waiting(3, 1), waiting(6, 2), waiting(1, 3)};
    REQUIRE(plan_memory(candidates, {.blocks_available = 8}) ==
            Actions{{0, MemoryAct::admit}, {1, MemoryAct::wait}, {2, MemoryAct::wait}});
}

TEST_CASE("a newcomer leaves each that has memory a block to grow into, and who is alone may fill the pool",
          "[worker]") {
    const std::vector<MemoryCandidate> beside = {running(), running(), waiting(6, 1)};
    REQUIRE(plan_memory(beside, {.blocks_available = 8}) == Actions{{2, MemoryAct::admit}});
    REQUIRE(plan_memory(beside, {.blocks_available = 7}) == Actions{{2, MemoryAct::wait}});
    const std::vector<MemoryCandidate> alone = {waiting(8, 1)};
    REQUIRE(plan_memory(alone, {.blocks_available = 8}) == Actions{{0, MemoryAct::admit}});
    REQUIRE(plan_memory(alone, {.blocks_available = 7}) == Actions{{0, MemoryAct::wait}});
}

TEST_CASE("room is granted in the order in which it was asked for", "[worker]") {
    const std::vector<MemoryCandidate> candidates = {asking(2, 9), asking(2, 4), asking(2, 7)};
    REQUIRE(plan_memory(candidates, {.blocks_available = 6}) ==
            Actions{{1, MemoryAct::grant}, {2, MemoryAct::grant}, {0, MemoryAct::wait}});
    REQUIRE(worker::first_of(MemoryWish::grant, candidates) == 1u);
    REQUIRE_FALSE(worker::first_of(MemoryWish::admit, candidates));
}

TEST_CASE("a grant does not overtake the admission of an earlier arrival, and does overtake that of a later one",
          "[worker]") {
    const std::vector<MemoryCandidate> later = {waiting(90, 1), asking(2, 1)};
    REQUIRE(plan_memory(later, {.blocks_available = 50}) == Actions{{1, MemoryAct::wait}, {0, MemoryAct::wait}});
    const std::vector<MemoryCandidate> earlier = {asking(2, 1), waiting(90, 1)};
    REQUIRE(plan_memory(earlier, {.blocks_available = 50}) == Actions{{0, MemoryAct::grant}, {1, MemoryAct::wait}});
}

TEST_CASE("when the pool is too small to grow, the last arrival that no transfer reads gives way", "[worker]") {
    const std::vector<MemoryCandidate> candidates = {growing(1, 1), growing(1, 0), running(), running(false)};
    REQUIRE(plan_memory(candidates, {.blocks_available = 1}) == Actions{{1, MemoryAct::grow}, {2, MemoryAct::preempt}});
    const std::vector<MemoryCandidate> last = {running(), growing(1)};
    REQUIRE(plan_memory(last, {.blocks_available = 0}) == Actions{{1, MemoryAct::preempt}});
}

TEST_CASE("who is alone, or finds nobody to give way, fails; alone it waits while a transfer has blocks to give back",
          "[worker]") {
    const std::vector<MemoryCandidate> alone = {growing(1)};
    REQUIRE(plan_memory(alone, {.blocks_available = 0}) == Actions{{0, MemoryAct::fail}});
    REQUIRE(plan_memory(alone, {.blocks_available = 0, .blocks_stranded = 1}) == Actions{{0, MemoryAct::preempt}});
    const std::vector<MemoryCandidate> read = {growing(1, 0, false), running(false)};
    REQUIRE(plan_memory(read, {.blocks_available = 0}) == Actions{{0, MemoryAct::fail}});
}

TEST_CASE("nobody gives way while a step runs", "[worker]") {
    const std::vector<MemoryCandidate> candidates = {growing(1, 0), growing(2, 1), growing(1, 2)};
    REQUIRE(plan_memory(candidates, {.blocks_available = 2, .step_runs = true}) ==
            Actions{{0, MemoryAct::grow}, {1, MemoryAct::wait}, {2, MemoryAct::grow}});
}

TEST_CASE("those that run grow before newcomers come", "[worker]") {
    const std::vector<MemoryCandidate> candidates = {waiting(2, 0), growing(1)};
    REQUIRE(plan_memory(candidates, {.blocks_available = 4}) == Actions{{1, MemoryAct::grow}, {0, MemoryAct::admit}});
    REQUIRE(plan_memory(candidates, {.blocks_available = 3}) == Actions{{1, MemoryAct::grow}, {0, MemoryAct::wait}});
}

TEST_CASE("a higher priority goes first and gives way last", "[worker]") {
    std::vector<MemoryCandidate> candidates = {waiting(3, 1), waiting(3, 2)};
    candidates[1].priority = 1;
    REQUIRE(plan_memory(candidates, {.blocks_available = 5}) == Actions{{1, MemoryAct::admit}, {0, MemoryAct::wait}});
    candidates = {running(), growing(1)};
    candidates[1].priority = 1;
    REQUIRE(plan_memory(candidates, {.blocks_available = 0}) == Actions{{0, MemoryAct::preempt}});
    candidates = {waiting(9, 1), asking(1, 1)};
    candidates[1].priority = 1;
    REQUIRE(plan_memory(candidates, {.blocks_available = 4}) == Actions{{1, MemoryAct::grant}, {0, MemoryAct::wait}});
}

TEST_CASE("what a sequence waited counts as priority, and so does what its tenant has had and when it is due",
          "[worker]") {
    const auto order = [](const std::vector<MemoryCandidate>& candidates) {
        std::vector<std::uint32_t> admitted;
        for (const MemoryAction& action : plan_memory(candidates, {.blocks_available = 100})) {
            REQUIRE(action.act == MemoryAct::admit);
            admitted.push_back(action.candidate);
        }
        return admitted;
    };
    std::vector<MemoryCandidate> candidates = {waiting(1, 1), waiting(1, 2), waiting(1, 3)};
    candidates[0].priority = 1;
    candidates[2].age = 2;
    REQUIRE(order(candidates) == std::vector<std::uint32_t>{2, 0, 1});

    candidates = {waiting(1, 1), waiting(1, 2), waiting(1, 3), waiting(1, 4)};
    candidates[0].tenant = candidates[1].tenant = candidates[3].tenant = "much";
    candidates[2].tenant = "little";
    candidates[0].tenant_tokens = 10;  // as it was; the last one says how it is
    candidates[1].tenant_tokens = 5000;
    candidates[3].tenant_tokens = 900;
    candidates[2].tenant_tokens = 800;
    REQUIRE(order(candidates) == std::vector<std::uint32_t>{2, 0, 1, 3});

    candidates = {waiting(1, 1), waiting(1, 2), waiting(1, 3), waiting(1, 4)};
    candidates[1].due_seconds = 3;
    candidates[2].due_seconds = 2;
    candidates[3].due_seconds = -1;  // too late: no claim
    REQUIRE(order(candidates) == std::vector<std::uint32_t>{2, 1, 0, 3});
}

TEST_CASE("of one rank the stream that is furthest ahead gives way, then the one that is moved for the least",
          "[worker]") {
    std::vector<MemoryCandidate> candidates = {growing(1), running(), running(), running()};
    for (MemoryCandidate& candidate : candidates) {
        candidate.tokens_ahead = 2;
        candidate.blocks_to_move = 9;
    }
    const auto victim = [&] { return plan_memory(candidates, {.blocks_available = 0}).back(); };
    REQUIRE(victim() == MemoryAction{3, MemoryAct::preempt});
    candidates[1].blocks_to_move = 8;
    REQUIRE(victim() == MemoryAction{1, MemoryAct::preempt});
    candidates[2].tokens_ahead = 3;
    REQUIRE(victim() == MemoryAction{2, MemoryAct::preempt});
    candidates[3].tokens_ahead = worker::kNoSchedule;
    REQUIRE(victim() == MemoryAction{3, MemoryAct::preempt});
    candidates[3].age = 1;
    REQUIRE(victim() == MemoryAction{2, MemoryAct::preempt});
    candidates[1].priority = -1;
    REQUIRE(victim() == MemoryAction{1, MemoryAct::preempt});
}

TEST_CASE("a newcomer of a higher class takes the memory of lower ones, where that is enough", "[worker]") {
    std::vector<MemoryCandidate> candidates = {running(), running(), running(false), waiting(5, 1)};
    candidates[0].blocks_held = candidates[1].blocks_held = candidates[2].blocks_held = 4;
    const auto plan = [&](MemoryCounts counts) { return plan_memory(candidates, counts); };
    const Actions waits = {{3, MemoryAct::wait}};
    REQUIRE(plan({.blocks_available = 2}) == waits);  // of the same class
    candidates[3].priority = 1;
    REQUIRE(plan({.blocks_available = 3}) == Actions{{3, MemoryAct::wait}, {1, MemoryAct::preempt}});
    REQUIRE(plan({.blocks_available = 0}) == Actions{{3, MemoryAct::wait}, {1, MemoryAct::preempt}});
    REQUIRE(plan({.blocks_available = 3, .step_runs = true}) == Actions{{3, MemoryAct::wait_for_step}});
    REQUIRE(plan({.blocks_available = 3, .blocks_returning = 5}) == waits);  // it comes without anybody's loss
    candidates[3].blocks = 9;
    REQUIRE(plan({.blocks_available = 1}) == waits);  // both together were too little
    candidates[3].blocks = 5;
    candidates[1].age = 1;  // its rank is the newcomer's by now
    REQUIRE(plan({.blocks_available = 3}) == Actions{{3, MemoryAct::wait}, {0, MemoryAct::preempt}});
    candidates[0].priority = 1;
    REQUIRE(plan({.blocks_available = 3}) == waits);
    candidates[0].priority = 0;
    candidates[3] = asking(5, 1);
    candidates[3].priority = 1;
    REQUIRE(plan({.blocks_available = 3}) == Actions{{3, MemoryAct::wait}, {0, MemoryAct::preempt}});
}

TEST_CASE("who gave way to a grant does not take the memory again before it", "[worker]") {
    std::vector<MemoryCandidate> candidates = {asking(6, 1), waiting(4, 1)};
    REQUIRE(plan_memory(candidates, {.blocks_available = 5}) == Actions{{0, MemoryAct::wait}, {1, MemoryAct::admit}});
    candidates[0].priority = 1;
    REQUIRE(plan_memory(candidates, {.blocks_available = 5}) == Actions{{0, MemoryAct::wait}, {1, MemoryAct::wait}});
}

TEST_CASE("what the next one has below is loaded ahead into room that nobody needs", "[worker]") {
    std::vector<MemoryCandidate> candidates = {running(), running(), waiting(20, 1), waiting(30, 2)};
    candidates[2].blocks_below = 9;
    candidates[3].blocks_below = 7;
    const auto ahead = [&](MemoryCounts counts) -> std::optional<MemoryAction> {
        const Actions actions = plan_memory(candidates, counts);
        REQUIRE(actions.at(0) == MemoryAction{2, MemoryAct::wait});
        REQUIRE(actions.at(1) == MemoryAction{3, MemoryAct::wait});
        REQUIRE(actions.size() <= 3);
        return actions.size() == 3 ? std::optional(actions[2]) : std::nullopt;
    };
    const auto load = [](std::uint32_t candidate, std::uint32_t blocks) {
        return std::optional(MemoryAction{candidate, MemoryAct::load_ahead, blocks});
    };
    REQUIRE(ahead({.blocks_available = 10}) == std::nullopt);  // off
    REQUIRE(ahead({.blocks_available = 10, .blocks_ahead_max = 100}) == load(2, 8));
    REQUIRE(ahead({.blocks_available = 10, .blocks_ahead_max = 5}) == load(2, 5));
    REQUIRE(ahead({.blocks_available = 15, .blocks_ahead_max = 100}) == load(2, 9));  // the second not before it
    REQUIRE(ahead({.blocks_available = 10, .step_runs = true, .blocks_ahead_max = 100}) == load(2, 8));
    REQUIRE(ahead({.blocks_available = 3, .blocks_ahead_max = 100}) == load(2, 1));
    REQUIRE(ahead({.blocks_available = 2, .blocks_ahead_max = 100}) == std::nullopt);  // those that run grow into it
    REQUIRE(ahead({.blocks_available = 0, .blocks_ahead_max = 100}) == std::nullopt);
    // What the pool has of the first one stays, and counts against the bound.
    candidates[2].blocks_kept = 4;
    REQUIRE(ahead({.blocks_available = 10, .blocks_ahead_max = 100}) == load(2, 4));
    candidates[2].blocks_below = 0;
    REQUIRE(ahead({.blocks_available = 10, .blocks_ahead_max = 100}) == load(3, 4));
    REQUIRE(ahead({.blocks_available = 10, .blocks_ahead_max = 4}) == std::nullopt);
    candidates[3].priority = 1;  // comes before it now
    REQUIRE(plan_memory(candidates, {.blocks_available = 10, .blocks_ahead_max = 100}) ==
            Actions{{3, MemoryAct::wait}, {2, MemoryAct::wait}, {3, MemoryAct::load_ahead, 7}});
}

TEST_CASE("nothing is loaded ahead while somebody comes in, gives way, or waits to grow", "[worker]") {
    const MemoryCounts counts{.blocks_available = 10, .blocks_ahead_max = 100};
    std::vector<MemoryCandidate> candidates = {running(), waiting(5, 1), waiting(30, 2)};
    candidates[2].blocks_below = 7;
    REQUIRE(plan_memory(candidates, counts) == Actions{{1, MemoryAct::admit}, {2, MemoryAct::wait}});
    candidates = {running(), waiting(12, 1)};
    candidates[0].blocks_held = 9;
    candidates[1].blocks_below = 7;
    candidates[1].priority = 1;
    REQUIRE(plan_memory(candidates, counts) == Actions{{1, MemoryAct::wait}, {0, MemoryAct::preempt}});
    MemoryCounts later = counts;
    later.step_runs = true;  // it gives way when the step has ended; room that is there is used until then
    REQUIRE(plan_memory(candidates, later) == Actions{{1, MemoryAct::wait_for_step}, {1, MemoryAct::load_ahead, 7}});
    candidates = {growing(11), waiting(12, 1)};
    candidates[1].blocks_below = 7;
    REQUIRE(plan_memory(candidates, later) == Actions{{0, MemoryAct::wait}, {1, MemoryAct::wait}});
}

TEST_CASE("who grows waits for what is being loaded ahead, and pushes nobody out for it", "[worker]") {
    const std::vector<MemoryCandidate> candidates = {running(), growing(1)};
    REQUIRE(plan_memory(candidates, {.blocks_available = 0, .blocks_returning = 1}) == Actions{{1, MemoryAct::wait}});
    const std::vector<MemoryCandidate> alone = {growing(1)};
    REQUIRE(plan_memory(alone, {.blocks_available = 0, .blocks_returning = 1}) == Actions{{0, MemoryAct::wait}});
}

TEST_CASE("loads ahead change nothing of who gets memory, and take no more than nobody needs", "[worker][property]") {
    const auto seed = GENERATE(range(0u, 300u));
    CAPTURE(seed);
    Random random{seed};
    for (int round = 0; round < 100; ++round) {
        CAPTURE(round);
        std::vector<MemoryCandidate> candidates;
        std::uint32_t kept = 0;
        for (std::uint32_t i = 0, count = random() % 8; i < count; ++i) {
            MemoryCandidate candidate = random() % 2 == 0 ? waiting(1 + random() % 20, i) : running(random() % 4 != 0);
            if (random() % 5 == 0) {
                candidate = random() % 2 == 0 ? growing(1 + random() % 3, i) : asking(1 + random() % 20, i);
            }
            candidate.priority = static_cast<std::int32_t>(random() % 3);
            candidate.age = static_cast<std::int32_t>(random() % 2);
            if (candidate.holds_kv) { candidate.blocks_held = candidate.blocks_to_move = 1 + random() % 10; }
            if (candidate.wish == MemoryWish::admit) {
                candidate.blocks_kept = random() % 6;
                candidate.blocks_below = random() % 6;
                kept += candidate.blocks_kept;
            }
            candidates.push_back(candidate);
        }
        MemoryCounts counts;
        counts.blocks_available = kept + random() % 30;
        counts.blocks_returning = random() % 4;
        counts.step_runs = random() % 2 == 0;
        const Actions without = plan_memory(candidates, counts);
        counts.blocks_ahead_max = random() % 40;
        Actions with = plan_memory(candidates, counts);
        if (!with.empty() && with.back().act == MemoryAct::load_ahead) {
            const MemoryAction ahead = with.back();
            with.pop_back();
            std::uint32_t taken = ahead.blocks;
            for (const std::uint32_t next : worker::order_of(MemoryWish::admit, candidates)) {
                taken += candidates[next].blocks_kept;
                if (next == ahead.candidate) { break; }
                REQUIRE(candidates[next].blocks_below == 0);
            }
            std::uint32_t needed = 0;  // by those that run
            for (const MemoryCandidate& candidate : candidates) {
                needed += (candidate.holds_kv ? 1 : 0) + (candidate.wish == MemoryWish::grow ? candidate.blocks : 0);
            }
            REQUIRE(ahead.blocks > 0);
            REQUIRE(ahead.blocks <= candidates[ahead.candidate].blocks_below);
            REQUIRE(taken <= counts.blocks_ahead_max);
            REQUIRE(taken + needed <= counts.blocks_available);
            REQUIRE(std::none_of(with.begin(), with.end(), [](const MemoryAction& action) {
                return action.act == MemoryAct::admit || action.act == MemoryAct::grant ||
                       action.act == MemoryAct::preempt;
            }));
        }
        REQUIRE(with == without);
    }
}

TEST_CASE("nobody waits for ever, whatever of higher classes goes on coming", "[worker][property]") {
    // One tick is the wait that counts as one priority / kWait. A sequence that gives way begins anew.
    constexpr int kWait = 20;
    constexpr std::int32_t kPriorityMax = 3;
    constexpr int kServiceMax = 12;
    constexpr std::size_t kQueueMax = 12;
    constexpr std::uint32_t kPool = 24;
    struct One {
        std::uint64_t id = 0;
        std::int32_t priority = 0;
        std::uint32_t blocks = 0;  // in the end
        std::uint32_t held = 0;    // 0: waits
        int service = 0;
        int served = 0;
        int waited = 0;
        std::uint32_t loaded = 0;  // ahead, and not pushed out
    };
    // Loads ahead take room for a tick, in which somebody may find none.
    const bool loads_ahead = GENERATE(false, true);
    const auto seed = GENERATE(range(0u, 40u));
    CAPTURE(loads_ahead, seed);
    Random random{seed};
    std::vector<One> all;  // in order of arrival
    std::uint32_t in_flight = 0;
    int loads = 0;
    std::uint64_t next = 0;
    std::uint32_t available = kPool;
    int waited_most = 0;
    int ended = 0;
    const auto candidates_of = [&](MemoryWish wish) {
        std::vector<MemoryCandidate> candidates;
        for (const One& one : all) {
            MemoryCandidate candidate;
            candidate.priority = one.priority;
            candidate.age = one.waited / kWait;
            candidate.holds_kv = candidate.may_give_way = one.held > 0;
            candidate.blocks_held = candidate.blocks_to_move = one.held;
            candidate.turn = one.id;
            if (wish == MemoryWish::admit && one.held == 0) {
                candidate.wish = wish;
                candidate.blocks = (one.blocks + 1) / 2;
                candidate.blocks_kept = std::min(one.loaded, available);
                candidate.blocks_below = candidate.blocks - std::min(candidate.blocks, candidate.blocks_kept);
            } else if (wish == MemoryWish::grow && one.held > 0 && one.held < one.blocks &&
                       one.served >= one.service / 2) {
                candidate.wish = wish;
                candidate.blocks = one.blocks - one.held;
            }
            candidates.push_back(candidate);
        }
        return candidates;
    };
    for (int tick = 0; tick < 1500; ++tick) {
        while (all.size() < kQueueMax) {  // of the highest class always somebody
            const bool is_low = random() % 8 == 0;
            all.push_back({next++, is_low ? static_cast<std::int32_t>(random() % 3) : kPriorityMax,
                           1 + random() % (kPool - 1), 0, 1 + static_cast<int>(random() % kServiceMax), 0, 0, 0});
        }
        available += std::exchange(in_flight, 0);
        for (const MemoryWish wish : {MemoryWish::grow, MemoryWish::admit}) {
            for (int round = 0;; ++round) {
                REQUIRE(round < 100);
                bool any = false;
                const std::vector<MemoryCandidate> candidates = candidates_of(wish);
                const MemoryCounts counts{.blocks_available = available,
                                          .blocks_returning = in_flight,
                                          .blocks_ahead_max = loads_ahead && in_flight == 0 ? kPool : 0};
                for (const MemoryAction& action : plan_memory(candidates, counts)) {
                    One& one = all[action.candidate];
                    REQUIRE(action.act != MemoryAct::fail);
                    if (action.act == MemoryAct::wait) { continue; }
                    if (action.act == MemoryAct::load_ahead) {
                        in_flight = action.blocks + candidates[action.candidate].blocks_kept;
                        REQUIRE(in_flight <= available);
                        available -= in_flight;
                        one.loaded += action.blocks;
                        ++loads;
                        continue;
                    }
                    any = true;
                    if (action.act == MemoryAct::preempt) {
                        available += one.held;
                        one.held = 0;
                        one.loaded = 0;
                        one.served = 0;
                    } else {
                        REQUIRE(candidates[action.candidate].blocks <= available);
                        available -= candidates[action.candidate].blocks;
                        one.held += candidates[action.candidate].blocks;
                    }
                }
                if (!any) { break; }
            }
        }
        for (One& one : all) {
            one.held > 0 ? ++one.served : ++one.waited;
        }
        std::erase_if(all, [&](const One& one) {
            if (one.held == 0 || one.served < one.service) { return false; }
            available += one.held;
            // Until nobody comes before it any more, and then until those have ended who came before it by then.
            // Each of them may have waited for a load ahead.
            const int service_most = kServiceMax + (loads_ahead ? 1 : 0);
            const int bound = (kPriorityMax - one.priority + 1) * kWait + static_cast<int>(kQueueMax) * service_most;
            CAPTURE(tick, one.id, one.priority);
            REQUIRE(one.waited <= bound);
            if (one.priority < kPriorityMax) { waited_most = std::max(waited_most, one.waited); }
            ++ended;
            return true;
        });
    }
    REQUIRE(ended > 200);
    REQUIRE(waited_most > kWait);  // the test has met its subject
    REQUIRE((loads > 100) == loads_ahead);
}

namespace {

/// The pool and the sequences of a worker as numbers, and today's rules as plain loops over them: what the plan is held
/// against.
struct Model {
    enum class State { absent, waiting, asking, running, read };  // read: runs, and a transfer reads its blocks
    struct One {
        State state = State::absent;
        std::uint32_t blocks = 0;  // it has, or wants
        std::uint64_t turn = 0;
        bool grows = false;
        bool has_kv() const { return state == State::running || state == State::read; }
    };
    std::uint32_t available = 0;
    std::uint32_t stranded = 0;
    std::vector<One> all;  // in order of arrival

    std::uint32_t holders() const {
        return static_cast<std::uint32_t>(
            std::count_if(all.begin(), all.end(), [](const One& o) { return o.has_kv(); }));
    }
    bool open(One& one) {
        const std::uint32_t held = holders();
        if (one.blocks > available || (held > 0 && one.blocks + held > available)) { return false; }
        available -= one.blocks;
        one.state = State::running;
        return true;
    }
    /// The actions that the rules give for newcomers, done.
    Actions newcomers() {
        Actions actions;
        std::vector<std::uint32_t> queue;
        for (std::uint32_t i = 0; i < all.size(); ++i) {
            if (all[i].state == State::asking) { queue.push_back(i); }
        }
        std::sort(queue.begin(), queue.end(), [&](auto a, auto b) { return all[a].turn < all[b].turn; });
        bool is_blocked = false;
        for (const std::uint32_t i : queue) {
            for (std::uint32_t before = 0; before < i; ++before) {
                is_blocked = is_blocked || all[before].state == State::waiting;
            }
            is_blocked = is_blocked || !open(all[i]);
            actions.push_back({i, is_blocked ? MemoryAct::wait : MemoryAct::grant});
        }
        is_blocked = false;
        for (std::uint32_t i = 0; i < all.size(); ++i) {
            if (all[i].state != State::waiting) { continue; }
            is_blocked = is_blocked || !open(all[i]);
            actions.push_back({i, is_blocked ? MemoryAct::wait : MemoryAct::admit});
        }
        return actions;
    }
    /// The same for those that grow by a block each, up to the first that needs another to give way.
    Actions growth() {
        Actions actions;
        for (std::uint32_t i = 0; i < all.size(); ++i) {
            if (!all[i].grows) { continue; }
            if (available > 0) {
                --available;
                ++all[i].blocks;
                all[i].grows = false;
                actions.push_back({i, MemoryAct::grow});
                continue;
            }
            for (std::uint32_t k = static_cast<std::uint32_t>(all.size()); k > 0; --k) {
                One& victim = all[k - 1];
                if (victim.state != State::running) { continue; }
                if (k - 1 == i && stranded == 0 && holders() == 1) { break; }
                available += victim.blocks;
                victim = {State::waiting, victim.blocks, victim.turn, false};
                actions.push_back({k - 1, MemoryAct::preempt});
                return actions;
            }
            available += all[i].blocks;
            all[i] = {};
            actions.push_back({i, MemoryAct::fail});
            return actions;
        }
        return actions;
    }
    std::vector<MemoryCandidate> candidates(bool for_growth) const {
        std::vector<MemoryCandidate> result;
        for (std::uint32_t i = 0; i < all.size(); ++i) {
            MemoryCandidate candidate;
            candidate.holds_kv = all[i].has_kv();
            candidate.may_give_way = all[i].state == State::running;
            if (for_growth && all[i].grows) {
                candidate.wish = MemoryWish::grow;
                candidate.blocks = 1;
                candidate.turn = i;
            } else if (!for_growth && all[i].state == State::waiting) {
                candidate.wish = MemoryWish::admit;
                candidate.blocks = all[i].blocks;
                candidate.turn = i;
            } else if (!for_growth && all[i].state == State::asking) {
                candidate.wish = MemoryWish::grant;
                candidate.blocks = all[i].blocks;
                candidate.turn = all[i].turn;
            }
            result.push_back(candidate);
        }
        return result;
    }
};

}  // namespace

TEST_CASE("the plan does what the rules say as plain loops, whatever comes and goes", "[worker][property]") {
    const auto seed = GENERATE(range(0u, 200u));
    CAPTURE(seed);
    Random random{seed};
    Model model;
    model.available = 10 + random() % 60;
    const std::uint32_t blocks_total = model.available;
    std::uint64_t turn = 0;
    for (int step = 0; step < 300; ++step) {
        CAPTURE(step);
        const std::uint32_t dice = random() % 4;
        if (dice == 0 && model.all.size() < 40) {
            const auto state = random() % 2 == 0 ? Model::State::waiting : Model::State::asking;
            model.all.push_back({state, 1 + random() % 12, turn++, false});
        } else if (dice == 1 && !model.all.empty()) {
            Model::One& one = model.all[random() % model.all.size()];
            if (one.has_kv()) { model.available += one.blocks; }
            one = {};
        } else if (dice == 2) {
            for (Model::One& one : model.all) {
                if (!one.has_kv()) { continue; }
                one.state = random() % 4 == 0 ? Model::State::read : Model::State::running;
                one.grows = random() % 3 == 0;
            }
            model.stranded = random() % 3 == 0 ? 1 : 0;
        }
        for (int round = 0; round < 50; ++round) {
            const auto candidates = model.candidates(true);
            const MemoryCounts counts{model.available, model.stranded, false};
            const Actions actions = plan_memory(candidates, counts);
            REQUIRE(actions == model.growth());
            if (actions.empty()) { break; }
        }
        const auto candidates = model.candidates(false);
        const MemoryCounts counts{model.available, model.stranded, false};
        const Actions actions = plan_memory(candidates, counts);
        REQUIRE(actions == model.newcomers());
        std::uint32_t held = 0;
        for (const Model::One& one : model.all) {
            if (one.has_kv()) { held += one.blocks; }
        }
        REQUIRE(held + model.available == blocks_total);
    }
}

TEST_CASE("who grows waits for memory that is on its way back, and nobody gives way for it", "[worker]") {
    const std::vector<MemoryCandidate> candidates = {growing(2, 0), growing(1, 1), running()};
    REQUIRE(plan_memory(candidates, {.blocks_available = 1, .blocks_stranded = 1, .blocks_returning = 1}) ==
            Actions{{0, MemoryAct::wait}, {1, MemoryAct::grow}});
    REQUIRE(plan_memory(candidates, {.blocks_available = 0, .blocks_stranded = 1, .blocks_returning = 1}) ==
            Actions{{2, MemoryAct::preempt}});  // not enough is coming
}
