#include "scheduler/lineup.h"

#include <algorithm>
#include <utility>

namespace scheduler {
namespace {

bool is_before(double seconds, base::WorkerId id, double other_seconds, base::WorkerId other_id) {
    return seconds != other_seconds ? seconds < other_seconds : id < other_id;
}

/// By so much two times around this one may differ and be alike.
double alike_seconds(double seconds) {
    return std::clamp(seconds * kAlikeShare, 0.0, kAlikeSecondsMax);
}

}  // namespace

Lineup::Line Lineup::line_at(const Length& length) {
    const double within = std::clamp(length.tokens, kLengths.front(), kLengths.back());
    std::size_t from = 0;
    while (from + 2 < kLengths.size() && within >= kLengths[from + 1]) {
        ++from;
    }
    const auto grown = [&](double tokens) { return tokens + length.curve * tokens * tokens; };
    const double begin = grown(kLengths[from]);
    return {.from = from, .part = (grown(within) - begin) / (grown(kLengths[from + 1]) - begin)};
}

double Lineup::seconds_of(const Leaf& leaf, const Line& line, double now) {
    const double seconds = line.at(leaf.keys);
    return leaf.until == kStill ? seconds : seconds - std::min(now, leaf.until);
}

void Lineup::grow(std::uint32_t slot) {
    if (slot / kGroup < ids_.size()) { return; }
    const std::size_t groups = (slot / kGroup / kBlock + 1) * kBlock;
    leaves_.resize(groups * kGroup);
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
        falling_[i].resize(groups, kNone);
        still_[i].resize(groups, kNone);
    }
    ids_.resize(groups, kNoId);
    is_loose_.resize(groups);
}

void Lineup::set(std::uint32_t slot, base::WorkerId id, const TimesByLength& seconds, double now, double until) {
    grow(slot);
    const std::size_t group = slot / kGroup;
    Leaf& leaf = leaves_[slot];
    if (!leaf.is_in()) {
        ++size_;
    } else if (!is_loose_[group]) {
        const Bounds& former = leaf.until == kStill ? still_ : falling_;
        bool gave_bound = leaf.id == ids_[group];
        for (std::size_t i = 0; i < kLengths.size(); ++i) {
            gave_bound = gave_bound || leaf.keys[i] == former[i][group];
        }
        is_loose_[group] = gave_bound;
    }
    const bool falls = until > now;
    leaf = {.keys = seconds, .until = falls ? until : kStill, .id = id};
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
        if (falls) { leaf.keys[i] += now; }
        double& least = (falls ? falling_ : still_)[i][group];
        least = std::min(least, leaf.keys[i]);
    }
    ids_[group] = std::min(ids_[group], id);
}

void Lineup::remove(std::uint32_t slot) {
    if (!has(slot)) { return; }
    leaves_[slot] = {};
    is_loose_[slot / kGroup] = true;
    --size_;
}

void Lineup::clear() {
    for (std::uint32_t slot = 0; slot < leaves_.size(); ++slot) {
        remove(slot);
    }
}

double Lineup::seconds(std::uint32_t slot, const Length& length, double now) const {
    return seconds_of(leaves_[slot], line_at(length), now);
}

/// The bounds of a group as they are; those whose time has stopped falling stand still from now on.
void Lineup::gather(std::size_t group, double now) {
    TimesByLength falling = none();
    TimesByLength still = none();
    base::WorkerId id = kNoId;
    for (std::size_t slot = group * kGroup; slot < (group + 1) * kGroup; ++slot) {
        Leaf& leaf = leaves_[slot];
        if (!leaf.is_in()) { continue; }
        if (leaf.until != kStill && leaf.until <= now) {
            for (double& key : leaf.keys) {
                key -= leaf.until;
            }
            leaf.until = kStill;
        }
        TimesByLength& least = leaf.until == kStill ? still : falling;
        for (std::size_t i = 0; i < kLengths.size(); ++i) {
            least[i] = std::min(least[i], leaf.keys[i]);
        }
        id = std::min(id, leaf.id);
    }
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
        falling_[i][group] = falling[i];
        still_[i][group] = still[i];
    }
    ids_[group] = id;
    is_loose_[group] = false;
}

bool Lineup::may_be_found(double seconds, base::WorkerId id, std::size_t count) const {
    if (found_.size() < count) { return true; }
    const Found& last = found_.back();
    return is_before(seconds + alike_seconds(last.seconds), id, last.seconds, last.id);
}

/// Whoever of the group is among the first so far is put there.
void Lineup::look(std::size_t group, const Line& line, double now, std::size_t count) {
    bool has_settled = false;
    for (std::size_t slot = group * kGroup; slot < (group + 1) * kGroup; ++slot) {
        const Leaf& leaf = leaves_[slot];
        if (!leaf.is_in()) { continue; }
        has_settled = has_settled || (leaf.until != kStill && leaf.until <= now);
        const Found one{seconds_of(leaf, line, now), leaf.id, static_cast<std::uint32_t>(slot)};
        if (found_.size() == count) {
            const Found& last = found_.back();
            if (!is_before(one.seconds, one.id, last.seconds, last.id)) { continue; }
            found_.pop_back();
        }
        auto at = found_.end();
        while (at != found_.begin() && is_before(one.seconds, one.id, std::prev(at)->seconds, std::prev(at)->id)) {
            --at;
        }
        found_.insert(at, one);
    }
    looked_at_ += kGroup;
    if (has_settled || is_loose_[group]) { gather(group, now); }
}

/// What nobody of each group takes less than at this length, and the least of each block of groups. Loops of a fixed
/// length over a block, which the compiler turns into vectors.
void Lineup::bound_groups(const Line& line, double now) {
    bounds_.resize(ids_.size());
    least_.resize(ids_.size() / kBlock);
    for (std::size_t block = 0; block < least_.size(); ++block) {
        const std::size_t first = block * kBlock;
        const double* const falling_from = falling_[line.from].data() + first;
        const double* const falling_to = falling_[line.from + 1].data() + first;
        const double* const still_from = still_[line.from].data() + first;
        const double* const still_to = still_[line.from + 1].data() + first;
        std::array<double, kBlock> bounds;
        for (std::size_t i = 0; i < kBlock; ++i) {
            const double falling = falling_from[i] + line.part * (falling_to[i] - falling_from[i]) - now;
            const double still = still_from[i] + line.part * (still_to[i] - still_from[i]);
            bounds[i] = std::min(falling, still);
        }
        std::copy(bounds.begin(), bounds.end(), bounds_.begin() + static_cast<std::ptrdiff_t>(first));
        least_[block] = *std::min_element(bounds.begin(), bounds.end());
    }
}

/// The group with the least bound, of equal ones that with the lowest id; empty when no group has anybody left.
std::optional<std::size_t> Lineup::next_group() const {
    double least = kNone / 2;
    for (const double one : least_) {
        least = std::min(least, one);
    }
    if (least >= kNone / 2) { return std::nullopt; }
    std::optional<std::size_t> found;
    for (std::size_t block = 0; block < least_.size(); ++block) {
        if (least_[block] != least) { continue; }
        for (std::size_t group = block * kBlock; group < (block + 1) * kBlock; ++group) {
            if (bounds_[group] == least && (!found || ids_[group] < ids_[*found])) { found = group; }
        }
    }
    return found;
}

std::span<const std::uint32_t> Lineup::first(const Length& length, double now, std::size_t count) {
    found_.clear();
    slots_.clear();
    if (count == 0 || size_ == 0) { return slots_; }
    const Line line = line_at(length);
    bound_groups(line, now);
    for (auto group = next_group(); group; group = next_group()) {
        if (!may_be_found(bounds_[*group], ids_[*group], count)) { break; }
        look(*group, line, now, count);
        bounds_[*group] = kNone;
        const auto block = bounds_.begin() + static_cast<std::ptrdiff_t>(*group / kBlock * kBlock);
        least_[*group / kBlock] = *std::min_element(block, block + kBlock);
    }
    for (const Found& one : found_) {
        slots_.push_back(one.slot);
    }
    return slots_;
}

}  // namespace scheduler
