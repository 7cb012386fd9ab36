#include "scheduler/holder_sets.h"

#include <algorithm>

#include "base/check.h"

namespace scheduler {
namespace {

constexpr std::size_t kNamesMin = 16;

constexpr std::uint64_t bit_of(std::uint32_t slot) {
    return std::uint64_t{1} << (slot % 64);
}

}  // namespace

HolderSets::HolderSets() : nodes_(1), names_(kNamesMin, kNobody) {}

/// Mixed as splitmix64 does (Steele, Lea and Flood, 2014).
std::uint64_t HolderSets::key_of(std::uint32_t slot) {
    std::uint64_t z = (std::uint64_t{slot} + 1) * 0x9e3779b97f4a7c15u;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}

bool HolderSets::has(Set set, std::uint32_t slot) const {
    const Node& node = nodes_[set];
    if (node.wide != kNone) { return slot / 64 < words_ && (bits(node.wide)[slot / 64] & bit_of(slot)) != 0; }
    const auto* const end = node.few.data() + node.size;
    return std::find(node.few.data(), end, slot) != end;
}

HolderSets::Set HolderSets::with(Set set, std::uint32_t slot) {
    CHECK(is_last_change(set, slot, true) || !has(set, slot), "slot " << slot);
    return changed(set, slot, true);
}

HolderSets::Set HolderSets::without(Set set, std::uint32_t slot) {
    CHECK(is_last_change(set, slot, false) || has(set, slot), "slot " << slot);
    return changed(set, slot, false);
}

HolderSets::Set HolderSets::changed(Set set, std::uint32_t slot, bool has_it) {
    Set result = kNobody;
    if (is_last_change(set, slot, has_it)) {
        result = last_.to;
        ++nodes_[result].references;
    } else if (has_it || nodes_[set].size > 1) {
        const std::uint64_t key = nodes_[set].key ^ key_of(slot);
        const std::size_t mask = names_.size() - 1;
        std::size_t at = static_cast<std::size_t>(key) & mask;
        while (names_[at] != kNobody && !is_changed(names_[at], set, slot, has_it)) {
            at = (at + 1) & mask;
        }
        result = names_[at] != kNobody ? names_[at] : make(set, slot, has_it);
        ++nodes_[result].references;
        last_ = {.from = set, .to = result, .slot = slot, .has_it = has_it};
    }
    if (set != kNobody) { give_back(set); }
    return result;
}

/// Whether `candidate` is `from` with, or without, the slot.
bool HolderSets::is_changed(Set candidate, Set from, std::uint32_t slot, bool has_it) const {
    const Node& one = nodes_[candidate];
    const Node& other = nodes_[from];
    if (one.key != (other.key ^ key_of(slot))) { return false; }
    if (has_it) { return one.size == other.size + 1 && has(candidate, slot) && is_within(from, candidate); }
    return one.size + 1 == other.size && !has(candidate, slot) && is_within(candidate, from);
}

/// Whether `whole` has all slots of `part`, which has no more of them.
bool HolderSets::is_within(Set part, Set whole) const {
    const Node& small = nodes_[part];
    const Node& large = nodes_[whole];
    if (small.wide != kNone && large.wide != kNone) {
        const std::uint64_t* const one = bits(small.wide);
        const std::uint64_t* const other = bits(large.wide);
        std::uint64_t lacking = 0;
        for (std::size_t word = 0; word < words_; ++word) {
            lacking |= one[word] & ~other[word];
        }
        return lacking == 0;
    }
    bool has_all = true;
    visit_while(part, [&](std::uint32_t slot) {
        has_all = has(whole, slot);
        return has_all;
    });
    return has_all;
}

HolderSets::Set HolderSets::make(Set from, std::uint32_t slot, bool has_it) {
    if (has_it && slot / 64 >= words_) { widen(std::bit_ceil(std::size_t{slot / 64} + 1)); }
    Set made = static_cast<Set>(nodes_.size());
    if (free_nodes_.empty()) {
        nodes_.emplace_back();
    } else {
        made = free_nodes_.back();
        free_nodes_.pop_back();
    }
    const std::uint32_t size = has_it ? nodes_[from].size + 1 : nodes_[from].size - 1;
    const std::uint32_t wide = size > kFew ? take_wide() : kNone;
    Node& node = nodes_[made];
    node = {.key = nodes_[from].key ^ key_of(slot), .size = size, .references = 0, .wide = wide, .few = {}};
    if (wide == kNone) {
        std::uint32_t count = 0;
        visit_while(from, [&](std::uint32_t holder) {
            if (has_it || holder != slot) { node.few[count++] = holder; }
            return true;
        });
        if (has_it) { node.few[count++] = slot; }
        std::sort(node.few.begin(), node.few.begin() + count);
    } else if (nodes_[from].wide != kNone) {
        std::copy_n(bits(nodes_[from].wide), words_, bits(wide));
        bits(wide)[slot / 64] ^= bit_of(slot);
    } else {
        visit_while(from, [&](std::uint32_t holder) {
            bits(wide)[holder / 64] |= bit_of(holder);
            return true;
        });
        bits(wide)[slot / 64] |= bit_of(slot);
    }
    name(made);
    return made;
}

/// One reference less; without any the set is gone.
void HolderSets::give_back(Set set) {
    Node& node = nodes_[set];
    if (--node.references > 0) { return; }
    if (last_.from == set || last_.to == set) { last_ = {}; }
    unname(set);
    if (node.wide != kNone) {
        std::fill_n(bits(node.wide), words_, 0);
        free_wide_.push_back(node.wide);
    }
    node = {};
    free_nodes_.push_back(set);
}

void HolderSets::name(Set set) {
    if ((++sets_) * 2 > names_.size()) { grow_names(); }
    const std::size_t mask = names_.size() - 1;
    std::size_t at = static_cast<std::size_t>(nodes_[set].key) & mask;
    while (names_[at] != kNobody) {
        at = (at + 1) & mask;
    }
    names_[at] = set;
}

void HolderSets::unname(Set set) {
    const std::size_t mask = names_.size() - 1;
    const auto home_of = [&](Set named) { return static_cast<std::size_t>(nodes_[named].key) & mask; };
    std::size_t hole = home_of(set);
    while (names_[hole] != set) {
        hole = (hole + 1) & mask;
    }
    for (std::size_t at = (hole + 1) & mask; names_[at] != kNobody; at = (at + 1) & mask) {
        // What stands behind the hole moves into it unless its home lies behind it, too.
        if (((at - home_of(names_[at])) & mask) < ((at - hole) & mask)) { continue; }
        names_[hole] = names_[at];
        hole = at;
    }
    names_[hole] = kNobody;
    --sets_;
}

void HolderSets::grow_names() {
    std::vector<Set> former(names_.size() * 2, kNobody);
    former.swap(names_);
    const std::size_t mask = names_.size() - 1;
    for (const Set set : former) {
        if (set == kNobody) { continue; }
        std::size_t at = static_cast<std::size_t>(nodes_[set].key) & mask;
        while (names_[at] != kNobody) {
            at = (at + 1) & mask;
        }
        names_[at] = set;
    }
}

std::uint32_t HolderSets::take_wide() {
    if (free_wide_.empty()) {
        const auto wide = static_cast<std::uint32_t>(bits_.size() / words_);
        bits_.resize(bits_.size() + words_);
        return wide;
    }
    const std::uint32_t wide = free_wide_.back();
    free_wide_.pop_back();
    return wide;
}

void HolderSets::widen(std::size_t words) {
    const std::size_t rows = bits_.size() / words_;
    std::vector<std::uint64_t> wider(rows * words);
    for (std::size_t row = 0; row < rows; ++row) {
        std::copy_n(bits_.begin() + static_cast<std::ptrdiff_t>(row * words_), words_,
                    wider.begin() + static_cast<std::ptrdiff_t>(row * words));
    }
    bits_ = std::move(wider);
    words_ = words;
}

}  // namespace scheduler
