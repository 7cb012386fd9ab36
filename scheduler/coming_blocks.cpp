#include "scheduler/coming_blocks.h"

#include <algorithm>
#include <array>
#include <utility>

namespace scheduler {
namespace {

/// The first report after a first token may have been made before it.
constexpr int kHeartbeatsUntilSeen = 2;
constexpr std::uint32_t kAllUpTo = 8;
/// More positions than the longest chain of 32-bit length has.
constexpr std::size_t kMarksMax = 128;
/// As many as a prompt of some thousand blocks has.
constexpr std::size_t kMarksUsual = 40;

/// Calls `visit(blocks)` for the positions by which a chain of `length` blocks is remembered, ascending.
template <class Visit>
void for_each_mark(std::uint32_t length, Visit visit) {
    std::uint32_t at = 1;
    while (at < length) {
        visit(at);
        at = at < kAllUpTo ? at + 1 : at + at / 4;
    }
    if (length > 0) { visit(length); }
}

}  // namespace

ComingBlocks::ComingBlocks(std::size_t marks_max) : marks_(marks_max) {}

ComingBlocks::Entries::iterator ComingBlocks::drop(Entries::iterator entry) {
    for (const base::BlockHash& mark : entry->second.marks) {
        marks_.remove(entry->second.slot, mark);
    }
    return entries_.erase(entry);
}

void ComingBlocks::add(base::RequestId request, std::uint32_t slot, std::span<const base::BlockHash> chain) {
    if (const auto former = entries_.find(request); former != entries_.end()) { drop(former); }
    Entry entry{.slot = slot, .marks = {}};
    entry.marks.reserve(std::min(kMarksUsual, chain.size()));
    for_each_mark(static_cast<std::uint32_t>(chain.size()), [&](std::uint32_t blocks) {
        const base::BlockHash& mark = chain[blocks - 1];
        if (marks_.add(slot, mark)) { entry.marks.push_back(mark); }
    });
    if (entry.marks.empty()) { return; }
    if (slot >= of_slots_.size()) { of_slots_.resize(slot + 1); }
    of_slots_[slot].push_back(request);
    entries_.emplace(request, std::move(entry));
}

void ComingBlocks::computed(base::RequestId request) {
    if (const auto at = entries_.find(request); at != entries_.end()) { at->second.computed = true; }
}

void ComingBlocks::ended(base::RequestId request, bool had_token) {
    const auto at = entries_.find(request);
    if (at == entries_.end()) { return; }
    if (had_token) {
        at->second.computed = true;
    } else {
        drop(at);
    }
}

void ComingBlocks::heartbeat(std::uint32_t slot, const std::function<bool(base::RequestId)>& is_placed) {
    if (slot >= of_slots_.size()) { return; }
    std::erase_if(of_slots_[slot], [&](base::RequestId request) {
        const auto at = entries_.find(request);
        if (at == entries_.end() || at->second.slot != slot) { return true; }
        Entry& entry = at->second;
        const bool is_over = entry.computed ? ++entry.heartbeats >= kHeartbeatsUntilSeen : !is_placed(request);
        if (is_over) { drop(at); }
        return is_over;
    });
}

void ComingBlocks::clear(std::uint32_t slot) {
    if (slot >= of_slots_.size()) { return; }
    for (const base::RequestId request : of_slots_[slot]) {
        if (const auto at = entries_.find(request); at != entries_.end() && at->second.slot == slot) { drop(at); }
    }
    of_slots_[slot].clear();
}

void ComingBlocks::find(std::span<const base::BlockHash> chain, std::vector<Held>& found) const {
    found.clear();
    if (marks_.blocks() == 0) { return; }
    std::array<std::uint32_t, kMarksMax> positions{};
    std::size_t count = 0;
    for_each_mark(static_cast<std::uint32_t>(chain.size()), [&](std::uint32_t blocks) {
        if (count < positions.size()) { positions[count++] = blocks; }
    });
    for (std::size_t i = 0; i < count; ++i) {
        marks_.fetch(chain[positions[i] - 1]);
    }
    HolderSets::Set last = HolderSets::kNobody;
    while (count > 0 && found.size() < kFoundMax) {
        const std::uint32_t blocks = positions[--count];
        const HolderSets::Set holders = marks_.holders_of(chain[blocks - 1]);
        if (std::exchange(last, holders) == holders) { continue; }  // nobody, or those that were found already
        marks_.holders().visit_while(holders, [&](std::uint32_t slot) {
            const bool is_known =
                std::any_of(found.begin(), found.end(), [slot](const Held& held) { return held.slot == slot; });
            if (!is_known) { found.push_back({slot, blocks}); }
            return found.size() < kFoundMax;
        });
    }
}

}  // namespace scheduler
