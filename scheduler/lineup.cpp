#include "scheduler/lineup.h"

#include <algorithm>
#include <iterator>
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

void Lineup::grow(std::uint32_t slot) {
    const std::size_t groups = slot / kGroup + 1;
    if (groups <= ids_.size()) { return; }
    groups_.resize(groups);
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
        falling_[i].resize(groups, kNone);
        still_[i].resize(groups, kNone);
    }
    ids_.resize(groups, kNoId);
    is_loose_.resize(groups);
}

void Lineup::set(std::uint32_t slot, base::WorkerId id, const TimesByLength& seconds, double now, double until) {
    grow(slot);
    const std::size_t number = slot / kGroup;
    const std::size_t place = slot % kGroup;
    Group& group = groups_[number];
    if (!group.has(place)) {
        ++size_;
    } else if (!is_loose_[number]) {
        const Bounds& former = group.until[place] == kStill ? still_ : falling_;
        bool gave_bound = group.ids[place] == ids_[number];
        for (std::size_t i = 0; i < kLengths.size(); ++i) {
            gave_bound = gave_bound || group.keys[i][place] == former[i][number];
        }
        is_loose_[number] = gave_bound;
    }
    const bool falls = until > now;
    group.until[place] = falls ? until : kStill;
    group.ids[place] = id;
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
        const double key = falls ? seconds[i] + now : seconds[i];
        group.keys[i][place] = key;
        double& least = (falls ? falling_ : still_)[i][number];
        least = std::min(least, key);
    }
    ids_[number] = std::min(ids_[number], id);
}

void Lineup::remove(std::uint32_t slot) {
    if (!has(slot)) { return; }
    Group& group = groups_[slot / kGroup];
    for (auto& of_length : group.keys) {
        of_length[slot % kGroup] = kNone;
    }
    group.until[slot % kGroup] = kStill;
    group.ids[slot % kGroup] = kNoId;
    is_loose_[slot / kGroup] = true;
    --size_;
}

void Lineup::clear() {
    for (std::uint32_t slot = 0; slot < groups_.size() * kGroup; ++slot) {
        remove(slot);
    }
}

double Lineup::seconds(std::uint32_t slot, const Length& length, double now) const {
    return seconds_of(groups_[slot / kGroup], slot % kGroup, line_at(length), now);
}

/// The bounds of a group as they are; those whose time has stopped falling stand still from now on.
void Lineup::gather(std::size_t number, double now) {
    Group& group = groups_[number];
    for (std::size_t place = 0; place < kGroup; ++place) {
        if (group.until[place] == kStill || group.until[place] > now) { continue; }
        for (auto& of_length : group.keys) {
            of_length[place] -= group.until[place];
        }
        group.until[place] = kStill;
    }
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
        double falling = kNone;
        double still = kNone;
        for (std::size_t place = 0; place < kGroup; ++place) {
            double& least = group.until[place] == kStill ? still : falling;
            least = std::min(least, group.keys[i][place]);
        }
        falling_[i][number] = falling;
        still_[i][number] = still;
    }
    ids_[number] = *std::min_element(group.ids.begin(), group.ids.end());
    is_loose_[number] = false;
}

bool Lineup::may_be_found(double seconds, base::WorkerId id, std::size_t count) const {
    if (found_.size() < count) { return true; }
    const Found& last = found_.back();
    return is_before(seconds + alike_seconds(last.seconds), id, last.seconds, last.id);
}

/// Whoever of the group is among the first so far is put there.
void Lineup::look(std::size_t number, const Line& line, double now, std::size_t count) {
    const Group& group = groups_[number];
    std::array<double, kGroup> seconds;
    for (std::size_t place = 0; place < kGroup; ++place) {
        seconds[place] = seconds_of(group, place, line, now);
    }
    for (std::size_t place = 0; place < kGroup; ++place) {
        if (seconds[place] > (found_.size() == count ? found_.back().seconds : kNone / 2)) { continue; }
        const Found one{seconds[place], group.ids[place], static_cast<std::uint32_t>(number * kGroup + place)};
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
    const bool has_settled = std::any_of(group.until.begin(), group.until.end(),
                                         [now](double until) { return until != kStill && until <= now; });
    if (has_settled || is_loose_[number]) { gather(number, now); }
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
