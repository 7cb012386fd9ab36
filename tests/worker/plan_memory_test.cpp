#include "worker/plan_memory.h"

#include <algorithm>
#include <deque>
#include <optional>
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
