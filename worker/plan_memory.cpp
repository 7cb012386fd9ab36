#include "worker/plan_memory.h"

#include <algorithm>

namespace worker {
namespace {

using Candidates = std::span<const MemoryCandidate>;

/// Those with this wish, first come first.
std::vector<std::uint32_t> queue_of(MemoryWish wish, Candidates candidates) {
    std::vector<std::uint32_t> queue;
    for (std::uint32_t i = 0; i < candidates.size(); ++i) {
        if (candidates[i].wish == wish) { queue.push_back(i); }
    }
    std::stable_sort(queue.begin(), queue.end(), [&](std::uint32_t a, std::uint32_t b) {
        const MemoryCandidate& left = candidates[a];
        const MemoryCandidate& right = candidates[b];
        return left.priority != right.priority ? left.priority > right.priority : left.turn < right.turn;
    });
    return queue;
}

/// The last arrival among those of the lowest priority that may give way.
std::optional<std::uint32_t> victim_of(Candidates candidates) {
    std::optional<std::uint32_t> victim;
    for (std::uint32_t i = 0; i < candidates.size(); ++i) {
        if (!candidates[i].may_give_way) { continue; }
        if (!victim || candidates[i].priority <= candidates[*victim].priority) { victim = i; }
    }
    return victim;
}

std::uint32_t holders_of(Candidates candidates) {
    return static_cast<std::uint32_t>(
        std::count_if(candidates.begin(), candidates.end(), [](const MemoryCandidate& c) { return c.holds_kv; }));
}

/// What to do for one that cannot grow.
MemoryAction make_way(std::uint32_t grower, Candidates candidates, const MemoryCounts& counts) {
    const auto victim = victim_of(candidates);
    const bool is_alone = counts.blocks_stranded == 0 && holders_of(candidates) == 1;
    if (!victim || (*victim == grower && is_alone)) { return {grower, MemoryAct::fail}; }
    return {*victim, MemoryAct::preempt};
}

/// One of a queue of newcomers after the other, while there is room.
class Newcomers {
public:
    Newcomers(Candidates candidates, std::uint32_t blocks_available)
        : candidates_(candidates), available_(blocks_available), holders_(holders_of(candidates)) {}

    /// Takes the memory when the rule allows it.
    bool take(std::uint32_t newcomer) {
        const std::uint32_t blocks = candidates_[newcomer].blocks;
        if (blocks > available_ || holders_ > available_ - blocks) { return false; }
        available_ -= blocks;
        ++holders_;
        return true;
    }

private:
    Candidates candidates_;
    std::uint32_t available_;
    std::uint32_t holders_;
};

}  // namespace

std::optional<std::uint32_t> first_of(MemoryWish wish, Candidates candidates) {
    const std::vector<std::uint32_t> queue = queue_of(wish, candidates);
    return queue.empty() ? std::nullopt : std::optional(queue.front());
}

std::vector<MemoryAction> plan_memory(Candidates candidates, const MemoryCounts& counts) {
    std::vector<MemoryAction> actions;
    std::uint32_t available = counts.blocks_available;
    for (const std::uint32_t grower : queue_of(MemoryWish::grow, candidates)) {
        if (candidates[grower].blocks <= available) {
            available -= candidates[grower].blocks;
            actions.push_back({grower, MemoryAct::grow});
        } else if (counts.step_runs || candidates[grower].blocks <= available + counts.blocks_returning) {
            actions.push_back({grower, MemoryAct::wait});
        } else {
            actions.push_back(make_way(grower, candidates, counts));
            return actions;
        }
    }

    Newcomers newcomers(candidates, available);
    const auto waiting = queue_of(MemoryWish::admit, candidates);
    const auto earliest = std::min_element(waiting.begin(), waiting.end());  // by arrival
    bool is_full = false;
    for (const std::uint32_t asking : queue_of(MemoryWish::grant, candidates)) {
        const bool is_overtaking = earliest != waiting.end() && *earliest < asking &&
                                   candidates[*earliest].priority >= candidates[asking].priority;
        is_full = is_full || is_overtaking || !newcomers.take(asking);
        actions.push_back({asking, is_full ? MemoryAct::wait : MemoryAct::grant});
    }
    is_full = false;
    for (const std::uint32_t newcomer : waiting) {
        is_full = is_full || !newcomers.take(newcomer);
        actions.push_back({newcomer, is_full ? MemoryAct::wait : MemoryAct::admit});
    }
    return actions;
}

}  // namespace worker
