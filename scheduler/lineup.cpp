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
    const std::size_t groups = slot / kGroup + 1;
    if (groups <= ids_.size()) { return; }
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

std::span<const std::uint32_t> Lineup::first(const Length& length, double now, std::size_t count) {
    found_.clear();
    slots_.clear();
    order_.clear();
    if (count == 0 || size_ == 0) { return slots_; }
    const Line line = line_at(length);
    const auto at = [&](const Bounds& bounds, std::size_t group) {
        const double from = bounds[line.from][group];
        return from + line.part * (bounds[line.from + 1][group] - from);
    };
    for (std::size_t group = 0; group < ids_.size(); ++group) {
        const double seconds = std::min(at(falling_, group) - now, at(still_, group));
        if (seconds < kNone / 2) { order_.push_back({seconds, ids_[group], static_cast<std::uint32_t>(group)}); }
    }
    const auto is_behind = [](const Bound& left, const Bound& right) {
        return is_before(right.seconds, right.id, left.seconds, left.id);
    };
    std::make_heap(order_.begin(), order_.end(), is_behind);
    while (!order_.empty() && may_be_found(order_.front().seconds, order_.front().id, count)) {
        look(order_.front().group, line, now, count);
        std::pop_heap(order_.begin(), order_.end(), is_behind);
        order_.pop_back();
    }
    for (const Found& one : found_) {
        slots_.push_back(one.slot);
    }
    return slots_;
}

}  // namespace scheduler
