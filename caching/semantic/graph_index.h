#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <random>
#include <span>
#include <utility>
#include <vector>

#include "caching/semantic/dot.h"

namespace caching {

/// Vectors one behind the other, as a Partition has them; borrowed for a call.
struct VectorRows {
    const std::int8_t* vectors = nullptr;  // [rows, dimensions]
    const float* scales = nullptr;         // [rows]
    std::size_t dimensions = 0;
    DotRows dot_rows = nullptr;
};

/// A graph over rows of vectors by which the nearest ones are found without a look at all of them. Every link is in
/// both of its ends: a removal knows who leads to the row, links those with each other and leaves nothing behind, so
/// there are no tombstones and nothing to build anew. Rows are numbered without gaps; the last one takes the place of
/// one that is removed. Approximate; not thread-safe. Source: HNSW (Malkov and Yashunin, arXiv 1603.09320), algorithms
/// 1, 2, 4 and 5; symmetric links and removal are ours.
class GraphIndex {
public:
    struct Options {
        std::size_t links = 16;          // of a row and level; twice as many on the lowest
        std::size_t build_width = 96;    // rows that are looked at closely for a new one
        std::size_t search_width = 160;  // and at least for a search
        std::uint64_t seed = 1;          // of levels
    };
    GraphIndex(std::size_t dimensions, Options options);

    /// The row size(), whose vector is in `rows` already.
    void add(const VectorRows& rows);
    /// Before the vectors are moved: the last row takes the place of `row`.
    void remove(const VectorRows& rows, std::uint32_t row);
    /// Around a change of the vector of `row`: take() before it, put() after it.
    void take(const VectorRows& rows, std::uint32_t row);
    void put(const VectorRows& rows, std::uint32_t row);
    /// Rows and similarities, best first, at most `limit`.
    std::vector<std::pair<std::uint32_t, float>> nearest(const VectorRows& rows, std::span<const std::int8_t> query,
                                                         float scale, std::size_t limit) const;

    std::size_t size() const { return levels_.size(); }
    std::size_t bytes() const;
    /// Every link is in both ends, leads to another row that is there, and none is there twice. For tests.
    bool is_sound() const;

private:
    struct Candidate {
        float similarity;
        std::uint32_t row;
    };
    struct Query {
        const std::int8_t* vector;
        float scale;
    };
    std::size_t most_links(std::size_t level) const { return level == 0 ? 2 * options_.links : options_.links; }
    std::span<const std::uint32_t> links(std::uint32_t row, std::size_t level) const;
    void add_link(std::uint32_t from, std::uint32_t to, std::size_t level);
    void drop_link(std::uint32_t from, std::uint32_t to, std::size_t level);
    void rename_link(std::uint32_t of, std::uint32_t from, std::uint32_t to, std::size_t level);
    void connect(const VectorRows& rows, std::uint32_t a, std::uint32_t b, std::size_t level);
    void shrink(const VectorRows& rows, std::uint32_t row, std::size_t level);
    static float similarity(const VectorRows& rows, const Query& query, std::uint32_t row);
    static Query query_of(const VectorRows& rows, std::uint32_t row);
    /// Best first.
    std::vector<Candidate> search(const VectorRows& rows, const Query& query, std::vector<Candidate> from,
                                  std::size_t width, std::size_t level) const;
    /// Those that no better one of them is nearer to than the query is; filled up with the best of the others.
    static std::vector<Candidate> choose(const VectorRows& rows, const std::vector<Candidate>& candidates,
                                         std::size_t limit);
    std::vector<Candidate> descend(const VectorRows& rows, const Query& query, std::size_t to_level) const;
    void leave(const VectorRows& rows, std::uint32_t row, std::size_t level);
    /// A row of the highest level, but for `except` where there is another one.
    void find_entry(std::uint32_t except);

    const std::size_t dimensions_;
    const Options options_;
    const std::size_t room_;  // for links of the lowest level: some more than most_links(0)
    std::mt19937_64 random_;
    std::vector<std::uint8_t> levels_;                                             // of each row
    std::vector<std::uint32_t> lowest_;                                            // [rows, room_]
    std::vector<std::uint8_t> lowest_counts_;                                      // [rows]
    std::vector<std::unique_ptr<std::vector<std::vector<std::uint32_t>>>> above_;  // of rows with level > 0
    std::uint32_t entry_ = 0;                                                      // a row of the highest level
    mutable std::vector<std::uint32_t> seen_;  // [rows]: by the search of this number
    mutable std::uint32_t search_number_ = 0;
};

}  // namespace caching
