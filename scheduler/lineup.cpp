#include "scheduler/lineup.h"

#include <algorithm>
#include <iterator>
#include <utility>

namespace scheduler {
namespace {

constexpr std::size_t kPlacesInLine = 8;  // doubles in a cache line
constexpr std::size_t kFetchedAhead = 3;  // groups, of a search

bool is_before(double seconds, base::WorkerId id, double other_seconds, base::WorkerId other_id) {
    return seconds != other_seconds ? seconds < other_seconds : id < other_id;
}

/// The least of 16 numbers. In four rows, which do not wait for each other.
double least_of_16(const double* numbers) {
    std::array<double, 4> least{numbers[0], numbers[1], numbers[2], numbers[3]};
    for (std::size_t at = 4; at < 16; at += 4) {
        for (std::size_t row = 0; row < 4; ++row) {
            least[row] = std::min(least[row], numbers[at + row]);
        }
    }
    return std::min(std::min(least[0], least[1]), std::min(least[2], least[3]));
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
    settles_at_.resize(groups, kNone);
    is_loose_.resize(groups);
    bounds_.resize((groups + kStretch - 1) / kStretch * kStretch, kNone);
    nearest_.resize(bounds_.size() / kStretch, kNone);
}

void Lineup::fetch(std::uint32_t slot) const {
    const std::size_t number = slot / kGroup;
    if (number >= groups_.size()) { return; }
    const Group& group = groups_[number];
    for (const auto& of_length : group.keys) {
        __builtin_prefetch(&of_length[slot % kGroup], 1);
    }
    __builtin_prefetch(&group.until[slot % kGroup], 1);
    __builtin_prefetch(&group.ids[slot % kGroup], 1);
}

void Lineup::set(std::uint32_t slot, base::WorkerId id, const TimesByLength& seconds, double now, double until) {
    grow(slot);
    const std::size_t number = slot / kGroup;
    const std::size_t place = slot % kGroup;
    Group& group = groups_[number];
    if (!group.has(place)) {
        ++size_;
    } else if (is_loose_[number] == 0) {
        const Bounds& former = group.until[place] == kStill ? still_ : falling_;
        bool gave_bound = group.ids[place] == ids_[number];
        for (std::size_t i = 0; i < kLengths.size(); ++i) {
            gave_bound = gave_bound || group.keys[i][place] == former[i][number];
        }
        is_loose_[number] = gave_bound ? 1 : 0;
    }
    const bool falls = until > now;
    group.until[place] = falls ? until : kStill;
    if (falls) { settles_at_[number] = std::min(settles_at_[number], until); }
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
    is_loose_[slot / kGroup] = 1;
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
    double settles = kNone;
    for (const double until : group.until) {
        settles = std::min(settles, until == kStill ? kNone : until);
    }
    settles_at_[number] = settles;
    is_loose_[number] = 0;
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
    double most = found_.size() == count ? found_.back().seconds : kNone / 2;
    for (std::size_t place = 0; place < kGroup; ++place) {
        if (seconds[place] > most) { continue; }
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
        if (found_.size() == count) { most = found_.back().seconds; }
    }
    looked_at_ += kGroup;
    if (settles_at_[number] <= now || is_loose_[number] != 0) { gather(number, now); }
}

/// Of all groups, at one length.
void Lineup::bound_all(const Line& line, double now) {
    const double* const fall_from = falling_[line.from].data();
    const double* const fall_to = falling_[line.from + 1].data();
    const double* const still_from = still_[line.from].data();
    const double* const still_to = still_[line.from + 1].data();
    for (std::size_t group = 0; group < ids_.size(); ++group) {
        const double falls = fall_from[group] + line.part * (fall_to[group] - fall_from[group]) - now;
        const double stands = still_from[group] + line.part * (still_to[group] - still_from[group]);
        bounds_[group] = std::min(falls, stands);
    }
    static_assert(kStretch == 16);
    for (std::size_t stretch = 0; stretch < nearest_.size(); ++stretch) {
        nearest_[stretch] = least_of_16(bounds_.data() + stretch * kStretch);
    }
}

/// The group with the least bound that is left, of equal ones that with the lower id; asks for what a look reads of it.
Lineup::Next Lineup::take_next(const Line& line) {
    double least = kNone;
    for (const double one : nearest_) {
        least = std::min(least, one);
    }
    if (least >= kNone / 2) { return {.group = 0, .seconds = kNone}; }
    std::size_t next = ids_.size();
    for (std::size_t stretch = 0; stretch < nearest_.size(); ++stretch) {
        if (nearest_[stretch] != least) { continue; }
        const std::size_t end = std::min((stretch + 1) * kStretch, ids_.size());
        for (std::size_t group = stretch * kStretch; group < end; ++group) {
            if (bounds_[group] != least) { continue; }
            if (next == ids_.size() || ids_[group] < ids_[next]) { next = group; }
        }
    }
    bounds_[next] = kNone;
    nearest_[next / kStretch] = least_of_16(bounds_.data() + next / kStretch * kStretch);
    const Group& group = groups_[next];
    for (std::size_t place = 0; place < kGroup; place += kPlacesInLine) {
        __builtin_prefetch(&group.keys[line.from][place]);
        __builtin_prefetch(&group.keys[line.from + 1][place]);
        __builtin_prefetch(&group.until[place]);
    }
    return {.group = next, .seconds = least};
}

std::span<const std::uint32_t> Lineup::first(const Length& length, double now, std::size_t count) {
    found_.clear();
    slots_.clear();
    if (count == 0 || size_ == 0) { return slots_; }
    const Line line = line_at(length);
    bound_all(line, now);
    // In which order groups are looked at does not depend on what is found in them: the next ones are fetched
    // meanwhile.
    std::array<Next, kFetchedAhead> ahead{};
    for (Next& next : ahead) {
        next = take_next(line);
    }
    for (std::size_t turn = 0;; turn = (turn + 1) % kFetchedAhead) {
        const Next next = ahead[turn];
        if (next.seconds >= kNone / 2 || !may_be_found(next.seconds, ids_[next.group], count)) { break; }
        ahead[turn] = take_next(line);
        look(next.group, line, now, count);
    }
    for (const Found& one : found_) {
        slots_.push_back(one.slot);
    }
    return slots_;
}

}  // namespace scheduler
