#include "caching/semantic/partition.h"

#include <algorithm>
#include <array>

#include "base/check.h"

namespace caching {
namespace {

constexpr std::size_t kCaughtUp = 8;  // rows that the graph takes with one that is added

}  // namespace

Partition::Partition(std::size_t dimensions, DotRows dot_rows, std::size_t graph_from)
    : dimensions_(dimensions), dot_rows_(dot_rows), graph_from_(graph_from) {}

std::uint32_t Partition::add(EntryId entry, std::span<const float> vector) {
    CHECK(vector.size() == dimensions_);
    vectors_.resize(vectors_.size() + dimensions_);
    scales_.push_back(quantise(vector, vectors_.data() + vectors_.size() - dimensions_));
    entries_.push_back(entry);
    if (graph_ == nullptr && entries_.size() > graph_from_) {
        graph_ = std::make_unique<GraphIndex>(dimensions_, GraphIndex::Options{});
    }
    for (std::size_t more = 0; graph_ != nullptr && more < kCaughtUp && graph_->size() < entries_.size(); ++more) {
        graph_->add(rows());
    }
    return static_cast<std::uint32_t>(entries_.size() - 1);
}

EntryId Partition::remove(std::uint32_t row) {
    CHECK(row < entries_.size());
    const std::size_t last = entries_.size() - 1;
    const EntryId moved = entries_[last];
    if (graph_ != nullptr && entries_.size() <= graph_from_ / 2) { graph_.reset(); }
    const bool is_whole = has_graph();
    const bool is_in_graph = graph_ != nullptr && !is_whole && row < graph_->size();
    if (is_whole) { graph_->remove(rows(), row); }
    if (is_in_graph) { graph_->take(rows(), row); }
    std::copy_n(vectors_.begin() + static_cast<std::ptrdiff_t>(last * dimensions_), dimensions_,
                vectors_.begin() + static_cast<std::ptrdiff_t>(row * dimensions_));
    scales_[row] = scales_[last];
    entries_[row] = moved;
    vectors_.resize(last * dimensions_);
    scales_.pop_back();
    entries_.pop_back();
    if (is_in_graph) { graph_->put(rows(), row); }
    return moved;
}

std::vector<Near> Partition::nearest(std::span<const float> vector, std::size_t limit) const {
    CHECK(vector.size() == dimensions_);
    std::vector<std::int8_t> query(dimensions_);
    const float scale = quantise(vector, query.data());
    if (!has_graph() || limit > kGraphLimit) { return scan(query, scale, limit); }
    std::vector<Near> best;
    for (const auto& [row, similarity] : graph_->nearest(rows(), query, scale, limit)) {
        best.push_back({entries_[row], similarity, row});
    }
    return best;
}

std::vector<float> Partition::tail_products(std::span<const Near> rows, std::span<const float> tail) const {
    CHECK(tail.size() <= dimensions_);
    std::vector<std::int8_t> query(tail.size());
    const float scale = quantise(tail, query.data());
    std::vector<float> products;
    for (const Near& near : rows) {
        std::int32_t sum = 0;
        const std::int8_t* row = vectors_.data() + std::size_t{near.row} * dimensions_;
        dot_rows_(query.data(), row + (dimensions_ - tail.size()), 1, tail.size(), &sum);
        products.push_back(static_cast<float>(sum) * scale * scales_[near.row]);
    }
    return products;
}

std::vector<float> Partition::products_among(std::span<const std::uint32_t> rows) const {
    const std::size_t count = rows.size();
    std::vector<std::int8_t> together(count * dimensions_);
    std::vector<std::int32_t> sums(count);
    std::vector<float> products(count * count);
    for (std::size_t i = 0; i < count; ++i) {
        std::int8_t* row = together.data() + i * dimensions_;
        std::copy_n(vectors_.data() + std::size_t{rows[i]} * dimensions_, dimensions_, row);
        dot_rows_(row, together.data(), i + 1, dimensions_, sums.data());
        for (std::size_t j = 0; j <= i; ++j) {
            const float product = static_cast<float>(sums[j]) * scales_[rows[i]] * scales_[rows[j]];
            products[i * count + j] = products[j * count + i] = product;
        }
    }
    return products;
}

std::vector<Near> Partition::scan(std::span<const std::int8_t> query, float scale, std::size_t limit) const {
    std::vector<Near> best;
    constexpr std::size_t kRows = 256;  // of a round: the sums stay in the first cache
    std::array<std::int32_t, kRows> sums{};
    const auto nearer = [](const Near& a, const Near& b) { return a.similarity > b.similarity; };
    for (std::size_t first = 0; first < entries_.size(); first += kRows) {
        const std::size_t rows = std::min(kRows, entries_.size() - first);
        dot_rows_(query.data(), vectors_.data() + first * dimensions_, rows, dimensions_, sums.data());
        for (std::size_t i = 0; i < rows; ++i) {
            const float similarity = static_cast<float>(sums[i]) * scale * scales_[first + i];
            if (best.size() == limit && similarity <= best.back().similarity) { continue; }
            const Near found{entries_[first + i], similarity, static_cast<std::uint32_t>(first + i)};
            best.insert(std::upper_bound(best.begin(), best.end(), found, nearer), found);
            if (best.size() > limit) { best.pop_back(); }
        }
    }
    return best;
}

}  // namespace caching
