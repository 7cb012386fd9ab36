#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>
#include <vector>

#include "base/ids.h"

namespace scheduler {

/// Times that are predicted for one worker, for prompts of some lengths.
/// Close where most prompts are: where the workers' costs differ a little, as learned ones do, the bounds between two
/// lengths that are far apart tell thousands of workers apart no more.
inline constexpr std::array<double, 6> kLengths = {1, 256, 1024, 4096, 32'768, 262'144};  // tokens
using TimesByLength = std::array<double, kLengths.size()>;

/// Where between these to look: times grow as tokens + curve * tokens^2, by as much as that for each worker.
struct Length {
    double tokens;
    double curve = 0;
};

/// Two workers whose predicted times are closer than this are as good as each other: predictions are further off. Of
/// the longer one, and never more than kAlikeSecondsMax.
inline constexpr double kAlikeShare = 1.0 / 256;
inline constexpr double kAlikeSecondsMax = 1e-3;

/// Workers by slot (0, 1, ...; small and reused), each with a time that is predicted for it at each of kLengths and
/// gets shorter, second by second, until some instant: what waits on a worker is worked off. Times are in seconds and
/// not negative where they are the clock's. Not thread-safe.
///
/// Slots stand in groups of neighbours that know what none of theirs takes less than, at each length and half way
/// between two; between these what the bounds at both give is one, too. So a change costs one slot's worth, and who is
/// first is found in the few groups that may have him: with 10,000 slots a look at 313 bounds and some groups. A bound
/// may be lower than it need be, after a change that only the next look at the group takes in.
class Lineup {
public:
    /// `seconds` are what is predicted now; they fall until `until`. An earlier `until`: they stay as they are.
    void set(std::uint32_t slot, base::WorkerId id, const TimesByLength& seconds, double now, double until);
    /// No effect when it is not in.
    void remove(std::uint32_t slot);
    void clear();

    bool is_empty() const { return size_ == 0; }
    bool has(std::uint32_t slot) const {
        return slot < groups_.size() * kGroup && groups_[slot / kGroup].has(slot % kGroup);
    }
    /// What is predicted for a slot that is in, at a length.
    double seconds(std::uint32_t slot, const Length& length, double now) const;

    /// The first `count` at this length, the least first, ties by the lower id; or others that are as good: who is left
    /// out is predicted to take no less than the last of them but for what is alike (kAlikeShare). Valid until the next
    /// call. `now` must not go back.
    std::span<const std::uint32_t> first(const Length& length, double now, std::size_t count);
    /// Slots that first() has looked at one by one, in all.
    std::uint64_t looked_at() const { return looked_at_; }
    /// Asks the processor to have ready what set() will write. No effect for a slot that never was in.
    void fetch(std::uint32_t slot) const;

    static constexpr std::size_t kGroup = 32;

private:
    static constexpr double kNone = std::numeric_limits<double>::max() / 4;  // finite: differences of it are 0
    static constexpr std::size_t kStretch = 16;                              // groups
    static constexpr double kStill = 0;                                      // Group::until of who does not fall
    static constexpr base::WorkerId kNoId{std::numeric_limits<std::uint64_t>::max()};
    /// Neighbours. What one search reads of all of them lies together.
    struct Group {
        Group() {
            for (auto& of_length : keys) {
                of_length.fill(kNone);
            }
            until.fill(kStill);
            ids.fill(kNoId);
        }
        bool has(std::size_t place) const { return keys[0][place] < kNone; }
        // Seconds, by length; of who falls: the instant at which they would be 0.
        std::array<std::array<double, kGroup>, kLengths.size()> keys;
        std::array<double, kGroup> until;
        std::array<base::WorkerId, kGroup> ids;
    };
    struct Line {
        std::size_t from;
        double part;  // of the way to the next length
    };
    struct Found {
        double seconds;
        base::WorkerId id;
        std::uint32_t slot;
    };
    /// A group, and what nobody in it takes less than; kNone: there is none.
    struct Next {
        std::size_t group;
        double seconds;
    };
    /// At the lengths, and half way between each two: where costs differ from worker to worker, the least at one length
    /// and the least at the next are of different workers, and between them bound little.
    static constexpr std::size_t kMarks = 2 * kLengths.size() - 1;
    /// Keys of one place at a mark.
    static double key_at(const Group& group, std::size_t place, std::size_t mark) {
        const double here = group.keys[mark / 2][place];
        return mark % 2 == 0 ? here : (here + group.keys[mark / 2 + 1][place]) / 2;
    }
    /// The least keys of each group, at each mark: those of one mark lie together, rounded up to a whole kStretch.
    using Bounds = std::array<std::vector<double>, kMarks>;

    static Line line_at(const Length& length);
    static double seconds_of(const Group& group, std::size_t place, const Line& line, double now) {
        const double from = group.keys[line.from][place];
        return from + line.part * (group.keys[line.from + 1][place] - from) - std::min(now, group.until[place]);
    }
    void grow(std::uint32_t slot);
    void gather(std::size_t group, double now);
    void bound_all(const Line& line, double now);
    Next take_next(const Line& line);
    bool may_be_found(double seconds, base::WorkerId id, std::size_t count) const;
    void look(std::size_t group, const Line& line, double now, std::size_t count);

    std::vector<Group> groups_;
    Bounds falling_;                      // [groups]; kNone: nobody in it falls
    Bounds still_;                        // the same of those that do not
    std::vector<base::WorkerId> ids_;     // [groups]: none has a lower one
    std::vector<double> settles_at_;      // [groups]: nobody in it stops falling before; kNone: nobody falls
    std::vector<std::uint8_t> is_loose_;  // [groups]: who gave a bound has left it
    std::size_t size_ = 0;
    std::uint64_t looked_at_ = 0;
    // Of one search: what nobody in a group takes less than, kNone where it is empty or was looked at; and the least of
    // each kStretch of these.
    std::vector<double> bounds_;   // [groups, rounded up to a whole kStretch]
    std::vector<double> nearest_;  // [groups / kStretch, rounded up to a multiple of 4]
    std::vector<Found> found_;
    std::vector<std::uint32_t> slots_;
};

}  // namespace scheduler
