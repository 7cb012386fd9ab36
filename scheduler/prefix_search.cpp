#include "scheduler/prefix_search.h"

#include <algorithm>

#include "base/check.h"

namespace scheduler {
namespace {

/// Look-ups of the first round, and into how many parts a stretch is cut in which holders change: enough for the
/// processor to wait for all of a round at once, few enough that most of them tell something.
constexpr std::uint32_t kFirstProbes = 16;
constexpr std::uint32_t kParts = 8;

}  // namespace

void PrefixSearch::search(const BlockIndex& index, std::span<const base::BlockHash> chain, Bounds bounds) {
    CHECK(bounds.levels_max > 0);
    index_ = &index;
    chain_ = chain;
    levels_.clear();
    probes_.clear();
    wanted_.clear();
    if (chain.empty()) { return; }
    const std::uint64_t steps = chain.size() - 1;
    const std::uint64_t probes = std::min<std::uint64_t>(kFirstProbes, steps);
    wanted_.push_back(1);
    for (std::uint64_t i = 1; i <= probes; ++i) {
        wanted_.push_back(static_cast<std::uint32_t>(1 + steps * i / probes));
    }
    for (std::uint32_t blocks = shared_; shared_ > 0 && blocks <= std::min<std::uint64_t>(shared_ + 1, chain.size());
         ++blocks) {
        const auto at = std::lower_bound(wanted_.begin(), wanted_.end(), blocks);
        if (at == wanted_.end() || *at != blocks) { wanted_.insert(at, blocks); }
    }
    do {
        look();
    } while (narrow(bounds));
    if (!levels_.empty()) { shared_ = levels_.back().blocks; }
}

/// Asks the index for what is wanted, up to the first block that nobody has: behind it nothing counts.
void PrefixSearch::look() {
    for (const std::uint32_t blocks : wanted_) {
        index_->fetch(chain_[blocks - 1]);
    }
    merged_.clear();
    // What stands between two with the same holders tells nothing.
    const auto put = [this](const Probe& probe) {
        const std::size_t size = merged_.size();
        if (size >= 2 && merged_[size - 1].holders == probe.holders && merged_[size - 2].holders == probe.holders) {
            merged_.back() = probe;
        } else {
            merged_.push_back(probe);
        }
        return probe.holders != HolderSets::kNobody;
    };
    auto known = probes_.begin();
    bool goes_on = true;
    for (const std::uint32_t blocks : wanted_) {
        while (goes_on && known != probes_.end() && known->blocks < blocks) {
            goes_on = put(*known++);
        }
        if (!goes_on) { break; }
        goes_on = put({blocks, index_->holders_of(chain_[blocks - 1])});
        if (!goes_on) { break; }
    }
    while (goes_on && known != probes_.end()) {
        goes_on = put(*known++);
    }
    probes_.swap(merged_);
}

/// Writes the levels that are known and what to look at next, if anything.
bool PrefixSearch::narrow(const Bounds& bounds) {
    levels_.clear();
    open_.clear();
    wanted_.clear();
    const auto is_enough = [&](const Probe& probe) {
        return index_->holders().size(probe.holders) >= bounds.holders_enough;
    };
    const Probe& last = probes_.back();
    if (last.holders != HolderSets::kNobody) { levels_.push_back({last.blocks, last.holders}); }
    for (std::size_t i = probes_.size() - 1; i > 0 && levels_.size() + open_.size() < bounds.levels_max; --i) {
        const Probe& shorter = probes_[i - 1];
        const Probe& longer = probes_[i];
        if (shorter.holders == longer.holders) { continue; }
        if (is_enough(longer)) { break; }
        if (longer.blocks - shorter.blocks == 1) {
            levels_.push_back({shorter.blocks, shorter.holders});
        } else {
            open_.push_back({.begin = shorter.blocks, .end = longer.blocks});
        }
    }
    for (auto open = open_.rbegin(); open != open_.rend(); ++open) {
        const std::uint32_t length = open->end - open->begin;
        const std::uint32_t parts = std::min(kParts, length);
        for (std::uint32_t part = 1; part < parts; ++part) {
            wanted_.push_back(open->begin + static_cast<std::uint32_t>(std::uint64_t{length} * part / parts));
        }
    }
    return !wanted_.empty();
}

std::uint32_t PrefixSearch::blocks_of(std::uint32_t slot) {
    std::uint32_t held = 0;
    if (levels_.empty() || !index_->holders().has(probes_.front().holders, slot)) { return held; }
    for (auto level = levels_.rbegin(); level != levels_.rend(); ++level) {
        if (!index_->holders().has(level->holders, slot)) {
            return held > 0 ? held : blocks_below(slot, level->blocks);
        }
        held = level->blocks;
    }
    return held;
}

/// Of a slot that holds less than the shortest level: its first `lacking` blocks are not all there.
std::uint32_t PrefixSearch::blocks_below(std::uint32_t slot, std::uint32_t lacking) {
    std::uint32_t held = 0;
    for (const Probe& probe : probes_) {
        if (probe.blocks >= lacking) { break; }
        if (!index_->holders().has(probe.holders, slot)) {
            lacking = probe.blocks;
            break;
        }
        held = probe.blocks;
    }
    while (lacking - held > 1) {
        const std::uint32_t middle = held + (lacking - held) / 2;
        const Probe probe{middle, index_->holders_of(chain_[middle - 1])};
        const auto at = std::lower_bound(probes_.begin(), probes_.end(), middle,
                                         [](const Probe& one, std::uint32_t blocks) { return one.blocks < blocks; });
        probes_.insert(at, probe);  // others ask for it, too
        (index_->holders().has(probe.holders, slot) ? held : lacking) = middle;
    }
    return held;
}

}  // namespace scheduler
