#include "scheduler/lineup.h"

#include <algorithm>
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

/// The least of as many keys as a group has, of which those count that `more` adds nothing to.
template <class Keys>
double least_key(const Keys& keys, const Keys& more) {
    static_assert(std::tuple_size_v<Keys> % 4 == 0);
    std::array<double, 4> least{keys[0] + more[0], keys[1] + more[1], keys[2] + more[2], keys[3] + more[3]};
    for (std::size_t at = 4; at < keys.size(); at += 4) {
        for (std::size_t row = 0; row < 4; ++row) {
            least[row] = std::min(least[row], keys[at + row] + more[at + row]);
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
    const std::size_t padded = (groups + kStretch - 1) / kStretch * kStretch;
    for (std::size_t mark = 0; mark < kMarks; ++mark) {
        falling_[mark].resize(padded, kNone);
        still_[mark].resize(padded, kNone);
    }
    ids_.resize(groups, kNoId);
    settles_at_.resize(groups, kNone);
    is_loose_.resize(groups);
    bounds_.resize(padded, kNone);
    nearest_.resize((bounds_.size() / kStretch + 3) / 4 * 4, kNone);
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
        bool gave_bound = group.ids[place] != id && group.ids[place] == ids_[number];
        for (std::size_t mark = 0; mark < kMarks; ++mark) {
            gave_bound = gave_bound || key_at(group, place, mark) == former[mark][number];
        }
        is_loose_[number] = gave_bound ? 1 : 0;
    }
    const bool falls = until > now;
    group.until[place] = falls ? until : kStill;
    if (falls) { settles_at_[number] = std::min(settles_at_[number], until); }
    group.ids[place] = id;
    for (std::size_t i = 0; i < kLengths.size(); ++i) {
        group.keys[i][place] = falls ? seconds[i] + now : seconds[i];
    }
    Bounds& bounds = falls ? falling_ : still_;
    for (std::size_t mark = 0; mark < kMarks; ++mark) {
        double& least = bounds[mark][number];
        least = std::min(least, key_at(group, place, mark));
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
    // Without a branch for each: who falls and who stands is mixed at random. What is added to a key is more than any.
    std::array<double, kGroup> of_standing;
    std::array<double, kGroup> of_falling;
    double settles = kNone;
    for (std::size_t place = 0; place < kGroup; ++place) {
        const bool stands = group.until[place] == kStill;
        of_standing[place] = stands ? 0 : kNone;
        of_falling[place] = stands ? kNone : 0;
        settles = std::min(settles, stands ? kNone : group.until[place]);
    }
    std::array<double, kGroup> keys;
    for (std::size_t mark = 0; mark < kMarks; ++mark) {
        for (std::size_t place = 0; place < kGroup; ++place) {
            keys[place] = key_at(group, place, mark);
        }
        falling_[mark][number] = std::min(kNone, least_key(keys, of_falling));
        still_[mark][number] = std::min(kNone, least_key(keys, of_standing));
    }
    ids_[number] = *std::min_element(group.ids.begin(), group.ids.end());
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
        if (found_.size() < count) {
            found_.push_back(one);
        } else if (!is_before(one.seconds, one.id, found_.back().seconds, found_.back().id)) {
            continue;
        }
        // Into the last place, whose owner moves up or is out.
        std::size_t at = found_.size() - 1;
        for (; at > 0 && is_before(one.seconds, one.id, found_[at - 1].seconds, found_[at - 1].id); --at) {
            found_[at] = found_[at - 1];
        }
        found_[at] = one;
        if (found_.size() == count) { most = found_.back().seconds; }
    }
    looked_at_ += kGroup;
    if (settles_at_[number] <= now || is_loose_[number] != 0) { gather(number, now); }
}

/// Of all groups, at one length.
void Lineup::bound_all(const Line& line, double now) {
    const std::size_t mark = 2 * line.from + (line.part < 0.5 ? 0 : 1);
    const double part = 2 * line.part - (line.part < 0.5 ? 0 : 1);
    const double* const fall_from = falling_[mark].data();
    const double* const fall_to = falling_[mark + 1].data();
    const double* const still_from = still_[mark].data();
    const double* const still_to = still_[mark + 1].data();
    static_assert(kStretch == 16);
    for (std::size_t stretch = 0; stretch < bounds_.size() / kStretch; ++stretch) {
        const std::size_t first = stretch * kStretch;
        std::array<double, kStretch> bounds;  // of its own, so that a compiler may take several at once
        for (std::size_t at = 0; at < kStretch; ++at) {
            const std::size_t group = first + at;
            const double falls = fall_from[group] + part * (fall_to[group] - fall_from[group]) - now;
            const double stands = still_from[group] + part * (still_to[group] - still_from[group]);
            bounds[at] = std::min(falls, stands);
        }
        std::copy(bounds.begin(), bounds.end(), bounds_.begin() + static_cast<std::ptrdiff_t>(first));
        nearest_[stretch] = least_of_16(bounds.data());
    }
}

/// The group with the least bound that is left, of equal ones that with the lower id; asks for what a look reads of it.
Lineup::Next Lineup::take_next(const Line& line) {
    std::array<double, 4> rows{kNone, kNone, kNone, kNone};  // which do not wait for each other
    for (std::size_t at = 0; at < nearest_.size(); at += rows.size()) {
        for (std::size_t row = 0; row < rows.size(); ++row) {
            rows[row] = std::min(rows[row], nearest_[at + row]);
        }
    }
    const double least = std::min(std::min(rows[0], rows[1]), std::min(rows[2], rows[3]));
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
