#pragma once

#include <cstdint>
#include <span>
#include <unordered_map>
#include <vector>

#include "caching/semantic/dot.h"

namespace caching {

enum class EntryId : std::uint64_t {};

struct Near {
    EntryId entry{};
    float similarity = 0;
};

/// The questions that may share answers with each other, as int8 vectors one behind the other. A search looks at all of
/// them: exact, nothing to repair after a removal. Not thread-safe.
class Partition {
public:
    Partition(std::size_t dimensions, DotRows dot_rows);

    /// Returns the row, which moves when an earlier one is removed.
    std::uint32_t add(EntryId entry, std::span<const float> vector);
    /// The last row takes the place of `row`; returns its entry, or `entry` when it was the last itself.
    EntryId remove(std::uint32_t row);
    /// The `limit` nearest, best first; ties go to the earlier row.
    std::vector<Near> nearest(std::span<const float> vector, std::size_t limit) const;

    std::size_t size() const { return entries_.size(); }
    std::size_t bytes() const { return vectors_.capacity() + scales_.capacity() * 4 + entries_.capacity() * 8; }

    /// How one answer fared in this partition.
    struct Fate {
        std::uint32_t questions = 0;
        float right = 0;
        float wrong = 0;
    };
    std::unordered_map<std::uint64_t, Fate> fates;  // by meaning of the answer

private:
    std::size_t dimensions_;
    DotRows dot_rows_;
    std::vector<std::int8_t> vectors_;  // [size, dimensions]
    std::vector<float> scales_;
    std::vector<EntryId> entries_;
};

}  // namespace caching
