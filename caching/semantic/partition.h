#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <unordered_map>
#include <vector>

#include "caching/semantic/dot.h"
#include "caching/semantic/graph_index.h"

namespace caching {

enum class EntryId : std::uint64_t {};

struct Near {
    EntryId entry{};
    float similarity = 0;
    std::uint32_t row = 0;
};

/// The questions that may share answers with each other, as int8 vectors one behind the other. Up to `graph_from` of
/// them a search looks at all: exact, nothing to repair after a removal. With more it goes by a graph, which grows a
/// few rows with every one that is added, so that nobody waits for it. Not thread-safe.
class Partition {
public:
    static constexpr std::size_t kGraphFrom = 16'384;
    Partition(std::size_t dimensions, DotRows dot_rows, std::size_t graph_from = kGraphFrom);

    /// Returns the row, which moves when an earlier one is removed.
    std::uint32_t add(EntryId entry, std::span<const float> vector);
    /// The last row takes the place of `row`; returns its entry, or `entry` when it was the last itself.
    EntryId remove(std::uint32_t row);
    /// The `limit` nearest, best first; ties go to the earlier row. By the graph, where there is one and `limit` is no
    /// more than kGraphLimit: nearly all of them.
    static constexpr std::size_t kGraphLimit = 64;
    std::vector<Near> nearest(std::span<const float> vector, std::size_t limit) const;
    /// Products of these rows' vectors with each other, row by row.
    std::vector<float> products_among(std::span<const std::uint32_t> rows) const;
    /// Products of the last numbers of these rows' vectors with `tail`, of length 1.
    std::vector<float> tail_products(std::span<const Near> rows, std::span<const float> tail) const;

    std::size_t size() const { return entries_.size(); }
    std::size_t dimensions() const { return dimensions_; }
    std::size_t bytes() const {
        return vectors_.capacity() + scales_.capacity() * 4 + entries_.capacity() * 8 + (graph_ ? graph_->bytes() : 0);
    }
    /// All rows are in the graph.
    bool has_graph() const { return graph_ != nullptr && graph_->size() == entries_.size(); }
    const GraphIndex* graph() const { return graph_.get(); }

    /// How one answer fared in this partition.
    struct Fate {
        std::uint32_t questions = 0;
        float right = 0;
        float wrong = 0;
    };
    std::unordered_map<std::uint64_t, Fate> fates;  // by meaning of the answer
    std::vector<std::uint32_t> kinds;               // questions by category

private:
    VectorRows rows() const { return {vectors_.data(), scales_.data(), dimensions_, dot_rows_}; }
    std::vector<Near> scan(std::span<const std::int8_t> query, float scale, std::size_t limit) const;

    std::size_t dimensions_;
    DotRows dot_rows_;
    std::size_t graph_from_;
    std::unique_ptr<GraphIndex> graph_;  // of the first rows, or all; null: too few
    std::vector<std::int8_t> vectors_;   // [size, dimensions]
    std::vector<float> scales_;
    std::vector<EntryId> entries_;
};

}  // namespace caching
