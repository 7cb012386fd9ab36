#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>

#include "base/ids.h"

namespace scheduler {

/// A keyed hash of what a client calls its conversation or a group of prompts, tenant included. none: it has no name.
enum class AffinityName : std::uint64_t { none = 0 };

/// Where the requests of a conversation, or of a group of prompts, went last. Bounded: the names that were used least
/// lately go. Holds nothing that is needed: a new scheduler begins with an empty one. Not thread-safe.
class AffinityTable {
public:
    /// 0: remembers nothing.
    explicit AffinityTable(std::size_t names_max) : names_max_(names_max) {}

    struct Last {
        base::Incarnation prefill{};
        base::Incarnation decode{};
        bool operator==(const Last&) const = default;
    };
    /// Empty for a name that is not known, and for none.
    std::optional<Last> find(AffinityName name) const;
    void note(AffinityName name, const Last& last);
    void forget(AffinityName name);
    std::size_t names() const { return known_.size(); }

private:
    struct Known {
        Last last;
        std::list<AffinityName>::iterator age;
    };
    const std::size_t names_max_;
    std::unordered_map<AffinityName, Known> known_;
    std::list<AffinityName> ages_;  // the one that was used least lately first
};

}  // namespace scheduler
