#pragma once

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

/// Small numbers 0, 1, ..., of which some are in, each with a key that depends on a length, as the leaves of a tree
/// whose nodes know the least key below them at each of kLengths. A least key at a length between is never below what
/// the least keys at its neighbours give, so these bound what lies below a node at every length. At most O(log n) a
/// change; no allocation but when it grows. Not thread-safe.
class KeyTree {
public:
    void set(std::uint32_t slot, const TimesByLength& keys, base::WorkerId id);
    /// No effect when it is not in.
    void remove(std::uint32_t slot);
    void clear();

    bool is_empty() const { return nodes_.empty() || !is_in(nodes_[1]); }
    bool has(std::uint32_t slot) const { return slot < leaves_ && is_in(nodes_[leaves_ + slot]); }

    struct Node {
        TimesByLength least = none();
        base::WorkerId id{std::numeric_limits<std::uint64_t>::max()};  // the lowest below
        bool operator==(const Node&) const = default;
    };
    /// 1 is above all; the children of n are 2n and 2n + 1.
    const Node& node(std::size_t number) const { return nodes_[number]; }
    const Node& leaf(std::uint32_t slot) const { return nodes_[leaves_ + slot]; }
    bool is_leaf(std::size_t number) const { return number >= leaves_; }
    std::uint32_t slot(std::size_t leaf) const { return static_cast<std::uint32_t>(leaf - leaves_); }
    static bool is_in(const Node& node) { return node.least[0] < kNone; }

private:
    static constexpr double kNone = std::numeric_limits<double>::infinity();
    static constexpr TimesByLength none() {
        TimesByLength times{};
        times.fill(kNone);
        return times;
    }
    /// Whether the node has changed.
    bool meet(std::size_t number);
    void change(std::uint32_t slot, const Node& leaf);
    void grow(std::size_t leaves);

    std::size_t leaves_ = 0;   // a power of two
    std::vector<Node> nodes_;  // [2 * leaves]
};

/// Workers in order of a time that is predicted for each and gets shorter, second by second, until some instant: what
/// waits on a worker is worked off. Least first; ties go to the lower worker id. Times are in seconds. Not thread-safe.
class Lineup {
public:
    /// `seconds` are what is predicted now; they fall until `until`. An earlier `until`: they stay as they are.
    void set(std::uint32_t slot, base::WorkerId id, const TimesByLength& seconds, double now, double until);
    /// No effect when it is not in.
    void remove(std::uint32_t slot);
    void clear();

    bool is_empty() const { return falling_.is_empty() && still_.is_empty(); }
    bool has(std::uint32_t slot) const { return falling_.has(slot) || still_.has(slot); }
    /// What is predicted for a slot that is in, at a length.
    double seconds(std::uint32_t slot, const Length& length, double now) const;

    /// The first `count` at this length, the least first. Valid until the next call. `now` must not go back.
    std::span<const std::uint32_t> first(const Length& length, double now, std::size_t count);

private:
    struct Line {
        std::size_t from;
        double part;  // of the way to the next length
        double at(const TimesByLength& times) const { return times[from] + part * (times[from + 1] - times[from]); }
    };
    struct Found {
        double seconds;
        base::WorkerId id;
        std::uint32_t slot;
    };
    struct Search {
        const KeyTree& tree;
        Line line;
        double fallen;  // since the keys were 0
        std::size_t count;
    };
    static Line line_at(const Length& length);
    void settle(double now);
    static double bound(const Search& search, std::size_t node);
    bool may_be_found(const Search& search, std::size_t node, double seconds) const;
    void find(const Search& search, std::size_t node);

    KeyTree falling_;  // by the instant at which it would be 0
    KeyTree still_;    // by seconds
    KeyTree until_;    // of the falling ones
    std::vector<Found> found_;
    std::vector<std::uint32_t> slots_;
};

}  // namespace scheduler
