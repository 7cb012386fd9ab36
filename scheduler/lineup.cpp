#include "scheduler/lineup.h"

#include <algorithm>
#include <bit>
#include <utility>

namespace scheduler {
namespace {

TimesByLength plus(TimesByLength times, double seconds) {
    for (double& time : times) {
        time += seconds;
    }
    return times;
}

bool is_before(double seconds, base::WorkerId id, double other_seconds, base::WorkerId other_id) {
    return seconds != other_seconds ? seconds < other_seconds : id < other_id;
}

}  // namespace

bool KeyTree::meet(std::size_t number) {
    const Node& left = nodes_[2 * number];
    const Node& right = nodes_[2 * number + 1];
    Node met;
    for (std::size_t i = 0; i < met.least.size(); ++i) {
        met.least[i] = std::min(left.least[i], right.least[i]);
    }
    met.id = std::min(left.id, right.id);
    Node& above = nodes_[number];
    if (met == above) { return false; }
    above = met;
    return true;
}

/// Most changes are above nobody else's least before they have come far up.
void KeyTree::change(std::uint32_t slot, const Node& leaf) {
    Node& former = nodes_[leaves_ + slot];
    if (former == leaf) { return; }
    former = leaf;
    for (std::size_t number = (leaves_ + slot) / 2; number >= 1 && meet(number); number /= 2) {}
}

void KeyTree::grow(std::size_t leaves) {
    const std::vector<Node> former(nodes_.begin() + static_cast<std::ptrdiff_t>(leaves_), nodes_.end());
    leaves_ = leaves;
    nodes_.assign(2 * leaves, {});
    std::copy(former.begin(), former.end(), nodes_.begin() + static_cast<std::ptrdiff_t>(leaves));
    for (std::size_t number = leaves - 1; number >= 1; --number) {
        meet(number);
    }
}

void KeyTree::set(std::uint32_t slot, const TimesByLength& keys, base::WorkerId id) {
    if (slot >= leaves_) { grow(std::bit_ceil(std::max<std::size_t>(std::size_t{slot} + 1, 2))); }
    change(slot, {.least = keys, .id = id});
}

void KeyTree::remove(std::uint32_t slot) {
    if (has(slot)) { change(slot, {}); }
}

void KeyTree::clear() {
    std::fill(nodes_.begin(), nodes_.end(), Node{});
}

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

void Lineup::set(std::uint32_t slot, base::WorkerId id, const TimesByLength& seconds, double now, double until) {
    if (until <= now) {
        falling_.remove(slot);
        until_.remove(slot);
        still_.set(slot, seconds, id);
        return;
    }
    still_.remove(slot);
    falling_.set(slot, plus(seconds, now), id);
    TimesByLength untils;
    untils.fill(until);
    until_.set(slot, untils, id);
}

void Lineup::remove(std::uint32_t slot) {
    falling_.remove(slot);
    still_.remove(slot);
    until_.remove(slot);
}

void Lineup::clear() {
    falling_.clear();
    still_.clear();
    until_.clear();
}

double Lineup::seconds(std::uint32_t slot, const Length& length, double now) const {
    const Line line = line_at(length);
    if (still_.has(slot)) { return line.at(still_.leaf(slot).least); }
    return line.at(falling_.leaf(slot).least) - std::min(now, until_.leaf(slot).least[0]);
}

/// Those whose time has stopped falling.
void Lineup::settle(double now) {
    while (!until_.is_empty()) {
        const double first = until_.node(1).least[0];
        if (first > now) { return; }
        std::size_t at = 1;
        while (!until_.is_leaf(at)) {
            at = until_.node(2 * at).least[0] == first ? 2 * at : 2 * at + 1;
        }
        const std::uint32_t slot = until_.slot(at);
        still_.set(slot, plus(falling_.leaf(slot).least, -first), falling_.leaf(slot).id);
        falling_.remove(slot);
        until_.remove(slot);
    }
}

/// No worker below the node is predicted to take less.
double Lineup::bound(const Search& search, std::size_t node) {
    return search.line.at(search.tree.node(node).least) - search.fallen;
}

bool Lineup::may_be_found(const Search& search, std::size_t node, double seconds) const {
    const KeyTree::Node& below = search.tree.node(node);
    if (!KeyTree::is_in(below)) { return false; }
    return found_.size() < search.count || is_before(seconds, below.id, found_.back().seconds, found_.back().id);
}

void Lineup::find(const Search& search, std::size_t node) {
    if (search.tree.is_leaf(node)) {
        const Found one{bound(search, node), search.tree.node(node).id, search.tree.slot(node)};
        if (found_.size() == search.count) { found_.pop_back(); }
        const auto at = std::find_if(found_.begin(), found_.end(), [&](const Found& other) {
            return is_before(one.seconds, one.id, other.seconds, other.id);
        });
        found_.insert(at, one);
        return;
    }
    std::size_t nearer = 2 * node;
    std::size_t other = nearer + 1;
    double nearer_seconds = bound(search, nearer);
    double other_seconds = bound(search, other);
    if (is_before(other_seconds, search.tree.node(other).id, nearer_seconds, search.tree.node(nearer).id)) {
        std::swap(nearer, other);
        std::swap(nearer_seconds, other_seconds);
    }
    if (may_be_found(search, nearer, nearer_seconds)) { find(search, nearer); }
    if (may_be_found(search, other, other_seconds)) { find(search, other); }
}

std::span<const std::uint32_t> Lineup::first(const Length& length, double now, std::size_t count) {
    settle(now);
    found_.clear();
    slots_.clear();
    const Line line = line_at(length);
    for (const auto& [tree, fallen] : {std::pair{&falling_, now}, {&still_, 0.0}}) {
        const Search search{*tree, line, fallen, count};
        if (count > 0 && !tree->is_empty() && may_be_found(search, 1, bound(search, 1))) { find(search, 1); }
    }
    for (const Found& one : found_) {
        slots_.push_back(one.slot);
    }
    return slots_;
}

}  // namespace scheduler
