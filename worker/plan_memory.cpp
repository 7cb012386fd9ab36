#include "worker/plan_memory.h"

#include <algorithm>
#include <map>

namespace worker {
namespace {

using Candidates = std::span<const MemoryCandidate>;

constexpr std::int64_t kAgeMax = 1'000'000;  // far beyond every priority

std::int64_t rank_of(const MemoryCandidate& candidate) {
    return std::int64_t{candidate.priority} + candidate.age;
}

/// What the scheduler said last of the tenant's service: of the last arrival. Sorted by name.
using TenantTokens = std::map<std::string_view, double>;

TenantTokens tenant_tokens_of(Candidates candidates) {
    TenantTokens tokens;
    for (const MemoryCandidate& candidate : candidates) {
        tokens[candidate.tenant] = candidate.tenant_tokens;
    }
    return tokens;
}

/// Who of two newcomers is met first; `turn` says it when all else is equal.
class Order {
public:
    explicit Order(Candidates candidates) : candidates_(candidates) {
        const bool is_one = std::all_of(candidates.begin(), candidates.end(), [&](const MemoryCandidate& c) {
            return c.tenant == candidates.front().tenant;
        });
        if (!is_one) { tokens_ = tenant_tokens_of(candidates); }
    }

    /// Empty: they are equal but for their turns.
    std::optional<bool> is_before(std::uint32_t a, std::uint32_t b) const {
        const MemoryCandidate& left = candidates_[a];
        const MemoryCandidate& right = candidates_[b];
        if (rank_of(left) != rank_of(right)) { return rank_of(left) > rank_of(right); }
        if (!tokens_.empty()) {
            const double had_left = tokens_.at(left.tenant);
            const double had_right = tokens_.at(right.tenant);
            if (had_left != had_right) { return had_left < had_right; }
        }
        const double due_left = left.due_seconds < 0 ? kNever : left.due_seconds;
        const double due_right = right.due_seconds < 0 ? kNever : right.due_seconds;
        if (due_left != due_right) { return due_left < due_right; }
        return std::nullopt;
    }

private:
    Candidates candidates_;
    TenantTokens tokens_;  // empty where all are of one tenant
};

/// Those with this wish, in the order in which it is met.
std::vector<std::uint32_t> queue_of(MemoryWish wish, Candidates candidates, const Order& order) {
    std::vector<std::uint32_t> queue;
    for (std::uint32_t i = 0; i < candidates.size(); ++i) {
        if (candidates[i].wish == wish) { queue.push_back(i); }
    }
    if (queue.size() < 2) { return queue; }  // a sort takes memory, whatever there is to sort
    std::stable_sort(queue.begin(), queue.end(), [&](std::uint32_t a, std::uint32_t b) {
        if (const auto before = order.is_before(a, b)) { return *before; }
        return candidates[a].turn < candidates[b].turn;
    });
    return queue;
}

/// Those that grow: a step's own order within a rank.
std::vector<std::uint32_t> growers_of(Candidates candidates) {
    std::vector<std::uint32_t> queue;
    for (std::uint32_t i = 0; i < candidates.size(); ++i) {
        if (candidates[i].wish == MemoryWish::grow) { queue.push_back(i); }
    }
    if (queue.size() < 2) { return queue; }
    std::stable_sort(queue.begin(), queue.end(), [&](std::uint32_t a, std::uint32_t b) {
        const std::int64_t left = rank_of(candidates[a]);
        const std::int64_t right = rank_of(candidates[b]);
        return left != right ? left > right : candidates[a].turn < candidates[b].turn;
    });
    return queue;
}

/// Whether a gives way before b.
bool gives_way_before(std::uint32_t a, std::uint32_t b, Candidates candidates) {
    const MemoryCandidate& left = candidates[a];
    const MemoryCandidate& right = candidates[b];
    if (rank_of(left) != rank_of(right)) { return rank_of(left) < rank_of(right); }
    if (left.tokens_ahead != right.tokens_ahead) { return left.tokens_ahead > right.tokens_ahead; }
    if (left.blocks_to_move != right.blocks_to_move) { return left.blocks_to_move < right.blocks_to_move; }
    return a > b;
}

std::optional<std::uint32_t> victim_of(Candidates candidates) {
    std::optional<std::uint32_t> victim;
    for (std::uint32_t i = 0; i < candidates.size(); ++i) {
        if (!candidates[i].may_give_way) { continue; }
        if (!victim || gives_way_before(i, *victim, candidates)) { victim = i; }
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

    /// Whether the rule allows it, with so many blocks that are on their way back.
    bool has_room(std::uint32_t newcomer, std::uint32_t returning = 0) const {
        return std::uint64_t{candidates_[newcomer].blocks} + holders_ <= std::uint64_t{available_} + returning;
    }
    /// Takes the memory when it does.
    bool take(std::uint32_t newcomer) {
        if (!has_room(newcomer)) { return false; }
        available_ -= candidates_[newcomer].blocks;
        ++holders_;
        return true;
    }

private:
    Candidates candidates_;
    std::uint32_t available_;
    std::uint32_t holders_;
};

/// The order of all that want to come in: a grant is before an admission if nothing else decides and it came first.
bool comes_before(std::uint32_t a, std::uint32_t b, const Order& order) {
    return order.is_before(a, b).value_or(a < b);
}

/// Whose memory `newcomer` takes, one after the other; empty when that of all of them is not enough.
std::vector<std::uint32_t> victims_for(std::uint32_t newcomer, Candidates candidates, std::uint32_t available) {
    const MemoryCandidate& asking = candidates[newcomer];
    std::vector<std::uint32_t> victims;
    for (std::uint32_t i = 0; i < candidates.size(); ++i) {
        const MemoryCandidate& candidate = candidates[i];
        if (candidate.may_give_way && candidate.priority < asking.priority && rank_of(candidate) < rank_of(asking)) {
            victims.push_back(i);
        }
    }
    std::sort(victims.begin(), victims.end(),
              [&](std::uint32_t a, std::uint32_t b) { return gives_way_before(a, b, candidates); });
    std::uint64_t room = available;
    std::uint64_t holders = holders_of(candidates);
    for (std::size_t i = 0; i < victims.size(); ++i) {
        room += candidates[victims[i]].blocks_held;
        --holders;
        if (asking.blocks + holders <= room) {
            victims.resize(i + 1);
            return victims;
        }
    }
    return {};
}

/// What is loaded ahead for the first of `queue` of whom there is something to load, if there is room.
std::optional<MemoryAction> load_ahead(Candidates candidates, std::span<const std::uint32_t> queue,
                                       std::uint32_t available, const MemoryCounts& counts) {
    const std::uint32_t holders = holders_of(candidates);
    const std::uint64_t room = std::min(available - std::min(available, holders), counts.blocks_ahead_max);
    std::uint64_t kept = 0;
    for (const std::uint32_t waiting : queue) {
        const MemoryCandidate& candidate = candidates[waiting];
        kept += candidate.blocks_kept;
        if (kept >= room) { return std::nullopt; }
        if (candidate.blocks_below == 0) { continue; }
        const auto blocks = static_cast<std::uint32_t>(std::min<std::uint64_t>(candidate.blocks_below, room - kept));
        return MemoryAction{waiting, MemoryAct::load_ahead, blocks};
    }
    return std::nullopt;
}

}  // namespace

std::int32_t memory_age(base::Duration waited, base::Duration priority_wait) {
    return static_cast<std::int32_t>(std::min<std::int64_t>(waited / priority_wait, kAgeMax));
}

base::TimePoint due_at(base::TimePoint begin, base::Duration tpot, std::uint32_t tokens) {
    constexpr int kTargetPercent = 99;
    return begin + tpot / 100 * kTargetPercent * tokens;
}

std::int32_t tokens_ahead(base::TimePoint due, base::Duration tpot, base::TimePoint now) {
    const std::int64_t tokens = (due - now) / tpot - (due < now ? 1 : 0);
    return static_cast<std::int32_t>(std::clamp<std::int64_t>(tokens, -kAgeMax, kAgeMax));
}

std::vector<std::uint32_t> order_of(MemoryWish wish, Candidates candidates) {
    return queue_of(wish, candidates, Order(candidates));
}

std::optional<std::uint32_t> first_of(MemoryWish wish, Candidates candidates) {
    std::optional<std::uint32_t> first;
    std::optional<Order> order;  // only where there is something to order
    for (std::uint32_t i = 0; i < candidates.size(); ++i) {
        if (candidates[i].wish != wish) { continue; }
        if (!first) {
            first = i;
            continue;
        }
        if (!order) { order.emplace(candidates); }
        const auto before = order->is_before(i, *first);
        if (before ? *before : candidates[i].turn < candidates[*first].turn) { first = i; }
    }
    return first;
}

std::vector<MemoryAction> plan_memory(Candidates candidates, const MemoryCounts& counts) {
    std::vector<MemoryAction> actions;
    std::uint32_t available = counts.blocks_available;
    bool is_short = false;  // somebody who runs waits for memory
    for (const std::uint32_t grower : growers_of(candidates)) {
        if (candidates[grower].blocks <= available) {
            available -= candidates[grower].blocks;
            actions.push_back({grower, MemoryAct::grow});
        } else if (counts.step_runs || candidates[grower].blocks <= available + counts.blocks_returning) {
            actions.push_back({grower, MemoryAct::wait});
            is_short = true;
        } else {
            actions.push_back(make_way(grower, candidates, counts));
            return actions;
        }
    }

    const Order order(candidates);
    Newcomers newcomers(candidates, available);
    std::optional<std::uint32_t> left_out;  // the first that finds no room
    const auto waits = [&](std::uint32_t newcomer) {
        actions.push_back({newcomer, MemoryAct::wait});
        if (!left_out || comes_before(newcomer, *left_out, order)) { left_out = newcomer; }
    };
    const auto waiting = queue_of(MemoryWish::admit, candidates, order);
    bool is_full = false;
    for (const std::uint32_t asking : queue_of(MemoryWish::grant, candidates, order)) {
        const auto is_before = [&](std::uint32_t other) { return comes_before(other, asking, order); };
        is_full = is_full || std::any_of(waiting.begin(), waiting.end(), is_before) || !newcomers.take(asking);
        if (is_full) {
            waits(asking);
        } else {
            actions.push_back({asking, MemoryAct::grant});
        }
    }
    is_full = false;
    const std::optional<std::uint32_t> asking = left_out;
    for (const std::uint32_t newcomer : waiting) {
        // Else whoever gives way to a grant would take the memory again before it.
        const bool is_behind = asking && rank_of(candidates[*asking]) > rank_of(candidates[newcomer]);
        is_full = is_full || is_behind || !newcomers.take(newcomer);
        if (is_full) {
            waits(newcomer);
        } else {
            actions.push_back({newcomer, MemoryAct::admit});
        }
    }
    // Only when nobody came in: who did may be a victim, and has not begun.
    if (!left_out || std::any_of(actions.begin(), actions.end(), [](const MemoryAction& action) {
            return action.act == MemoryAct::admit || action.act == MemoryAct::grant;
        })) {
        return actions;
    }
    const auto victims = victims_for(*left_out, candidates, available);
    if (!victims.empty() && counts.step_runs) {
        for (MemoryAction& action : actions) {
            if (action.candidate == *left_out) { action.act = MemoryAct::wait_for_step; }
        }
    } else if (!victims.empty() && !newcomers.has_room(*left_out, counts.blocks_returning)) {
        actions.push_back({victims.front(), MemoryAct::preempt});
        return actions;
    }
    if (is_short) { return actions; }
    if (const auto ahead = load_ahead(candidates, waiting, available, counts)) { actions.push_back(*ahead); }
    return actions;
}

}  // namespace worker
