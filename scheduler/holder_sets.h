#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <vector>

namespace scheduler {

/// Sets of slots (0, 1, ...; small and reused), each kept once: the blocks of one chain mostly have the same holders,
/// so what holds a block is one number, and who has the same number has the same holders. A set lives as long as
/// somebody refers to it; `kNobody` is the empty one and always there. Not thread-safe.
class HolderSets {
public:
    using Set = std::uint32_t;
    static constexpr Set kNobody = 0;

    HolderSets();

    /// The set with a slot that it lacks, or without one that it has. The caller's reference to `set` becomes one to
    /// the result. O(slots / 64) at most, O(1) for sets of few.
    [[nodiscard]] Set with(Set set, std::uint32_t slot);
    [[nodiscard]] Set without(Set set, std::uint32_t slot);

    bool has(Set set, std::uint32_t slot) const;
    /// Slots in it.
    std::uint32_t size(Set set) const { return nodes_[set].size; }
    /// Calls `visit(slot)` in ascending order until it returns false.
    template <class Visit>
    void visit_while(Set set, Visit visit) const;

    /// Different sets that are referred to, the empty one not counted.
    std::size_t sets() const { return sets_; }

private:
    static constexpr std::uint32_t kNone = std::numeric_limits<std::uint32_t>::max();
    static constexpr std::uint32_t kFew = 6;

    /// Of up to kFew slots these in order; else a bit for each.
    struct Node {
        std::uint64_t key = 0;  // the exclusive or of the slots' keys
        std::uint32_t size = 0;
        std::uint32_t references = 0;
        std::uint32_t wide = kNone;
        std::array<std::uint32_t, kFew> few{};
    };
    /// A change that was made lately: the blocks of one chain, told one after the other, mostly all make the same.
    struct Change {
        Set from = kNobody;
        Set to = kNobody;  // kNobody: there is none
        std::uint32_t slot = 0;
        bool has_it = false;
    };
    static std::uint64_t key_of(std::uint32_t slot);
    bool is_last_change(Set set, std::uint32_t slot, bool has_it) const {
        return last_.to != kNobody && last_.from == set && last_.slot == slot && last_.has_it == has_it;
    }
    Set changed(Set set, std::uint32_t slot, bool has_it);
    bool is_changed(Set candidate, Set from, std::uint32_t slot, bool has_it) const;
    bool is_within(Set part, Set whole) const;
    Set make(Set from, std::uint32_t slot, bool has_it);
    void give_back(Set set);
    void name(Set set);
    void unname(Set set);
    void grow_names();
    void widen(std::size_t words);
    std::uint32_t take_wide();
    std::uint64_t* bits(std::uint32_t wide) { return bits_.data() + std::size_t{wide} * words_; }
    const std::uint64_t* bits(std::uint32_t wide) const { return bits_.data() + std::size_t{wide} * words_; }

    std::vector<Node> nodes_;
    std::vector<Set> free_nodes_;
    std::vector<Set> names_;  // open addressing by key, a power of two, at most half full; kNobody: a free place
    std::size_t sets_ = 0;
    std::size_t words_ = 1;            // 64-bit words of a wide set
    std::vector<std::uint64_t> bits_;  // [wide sets][words]
    std::vector<std::uint32_t> free_wide_;
    Change last_;  // both of its sets live
};

template <class Visit>
void HolderSets::visit_while(Set set, Visit visit) const {
    const Node& node = nodes_[set];
    if (node.wide == kNone) {
        for (std::uint32_t i = 0; i < node.size; ++i) {
            if (!visit(node.few[i])) { return; }
        }
        return;
    }
    const std::uint64_t* words = bits(node.wide);
    for (std::size_t word = 0; word < words_; ++word) {
        for (std::uint64_t left = words[word]; left != 0; left &= left - 1) {
            const auto slot =
                static_cast<std::uint32_t>(word * 64) + static_cast<std::uint32_t>(std::countr_zero(left));
            if (!visit(slot)) { return; }
        }
    }
}

}  // namespace scheduler
