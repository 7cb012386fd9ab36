#include "caching/in_context/example_index.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace caching {
namespace {

constexpr int kSplitRounds = 4;            // of 2-means; more move few members
constexpr std::size_t kClusterLeast = 8;   // members from which on a split is worth one
constexpr std::size_t kSplitLooks = 4096;  // members that a split looks at: bounds a cluster of twins

float dot(std::span<const float> a, std::span<const float> b) {
    float sum = 0;
    for (std::size_t i = 0; i < a.size(); ++i) {
        sum += a[i] * b[i];
    }
    return sum;
}

}  // namespace

ExampleIndex::ExampleIndex(std::size_t dimensions, DotRows dot_rows) : dimensions_(dimensions), dot_rows_(dot_rows) {
    CHECK(dimensions > 0);
}

void ExampleIndex::measure(Cluster& cluster) {
    cluster.length = std::sqrt(dot(cluster.sum, cluster.sum));
}

std::vector<std::size_t> ExampleIndex::by_distance(std::span<const float> vector, std::size_t limit) const {
    std::vector<float> nearness(clusters_.size());
    for (std::size_t at = 0; at < clusters_.size(); ++at) {
        const float length = clusters_[at].length;
        nearness[at] = length > 0 ? dot(clusters_[at].sum, vector) / length : -1.0F;
    }
    std::vector<std::size_t> order(clusters_.size());
    std::iota(order.begin(), order.end(), std::size_t{0});
    limit = std::min(limit, order.size());
    std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(limit), order.end(),
                      [&](std::size_t a, std::size_t b) {
                          return nearness[a] != nearness[b] ? nearness[a] > nearness[b]
                                                            : clusters_[a].id < clusters_[b].id;
                      });
    order.resize(limit);
    return order;
}

std::size_t ExampleIndex::new_cluster() {
    Cluster& cluster = clusters_.emplace_back();
    cluster.id = ClusterId{next_cluster_++};
    cluster.sum.assign(dimensions_, 0.0F);
    return clusters_.size() - 1;
}

void ExampleIndex::put(std::size_t cluster, ExampleId example, std::span<const std::int8_t> row, float scale) {
    Cluster& to = clusters_[cluster];
    places_[example] = {cluster, to.members.size()};
    to.members.push_back(example);
    to.rows.insert(to.rows.end(), row.begin(), row.end());
    to.scales.push_back(scale);
    for (std::size_t i = 0; i < dimensions_; ++i) {
        to.sum[i] += scale * static_cast<float>(row[i]);
    }
    measure(to);
}

void ExampleIndex::take(std::size_t cluster, std::size_t row) {
    Cluster& from = clusters_[cluster];
    const std::size_t last = from.members.size() - 1;
    std::int8_t* values = from.rows.data() + row * dimensions_;
    for (std::size_t i = 0; i < dimensions_; ++i) {
        from.sum[i] -= from.scales[row] * static_cast<float>(values[i]);
    }
    places_.erase(from.members[row]);
    if (row != last) {
        std::copy_n(from.rows.data() + last * dimensions_, dimensions_, values);
        from.members[row] = from.members[last];
        from.scales[row] = from.scales[last];
        places_[from.members[row]].row = row;
    }
    from.members.pop_back();
    from.scales.pop_back();
    from.rows.resize(last * dimensions_);
    measure(from);
}

void ExampleIndex::drop_cluster(std::size_t cluster) {
    const std::size_t last = clusters_.size() - 1;
    if (cluster != last) {
        clusters_[cluster] = std::move(clusters_[last]);
        for (const ExampleId member : clusters_[cluster].members) {
            places_[member].cluster = cluster;
        }
    }
    clusters_.pop_back();
}

void ExampleIndex::add(ExampleId example, std::span<const float> vector) {
    CHECK(vector.size() == dimensions_ && !places_.contains(example));
    std::vector<std::int8_t> row(dimensions_);
    const float scale = quantise(vector, row.data());
    if (clusters_.empty()) { new_cluster(); }
    put(by_distance(vector, 1).front(), example, row, scale);
    const auto wanted = static_cast<std::size_t>(std::sqrt(static_cast<double>(size())));
    if (clusters_.size() < wanted) { split_fullest(); }
}

void ExampleIndex::remove(ExampleId example) {
    const auto found = places_.find(example);
    if (found == places_.end()) { return; }
    const std::size_t cluster = found->second.cluster;
    take(cluster, found->second.row);
    if (clusters_[cluster].members.empty()) { drop_cluster(cluster); }
    const auto most = 2 * static_cast<std::size_t>(std::sqrt(static_cast<double>(size()))) + 2;
    if (clusters_.size() > most) { dissolve_smallest(); }
}

std::vector<float> ExampleIndex::vector_at(const Place& place) const {
    const Cluster& cluster = clusters_[place.cluster];
    std::vector<float> vector(dimensions_);
    const std::int8_t* row = cluster.rows.data() + place.row * dimensions_;
    for (std::size_t i = 0; i < dimensions_; ++i) {
        vector[i] = cluster.scales[place.row] * static_cast<float>(row[i]);
    }
    return vector;
}

/// 2-means from its first member and the one that is farthest from it.
void ExampleIndex::split_fullest() {
    std::size_t at = clusters_.size();
    for (std::size_t one = 0; one < clusters_.size(); ++one) {
        const std::size_t members = clusters_[one].members.size();
        if (members < kClusterLeast || members < clusters_[one].split_from) { continue; }
        if (at == clusters_.size() || members > clusters_[at].members.size()) { at = one; }
    }
    if (at == clusters_.size()) { return; }
    const std::size_t members = clusters_[at].members.size();
    clusters_[at].split_from = members * 2;  // unless it succeeds
    if (members > kSplitLooks) { return; }
    std::vector<std::vector<float>> vectors;
    for (std::size_t row = 0; row < members; ++row) {
        vectors.push_back(vector_at({at, row}));
    }
    std::vector<float> one = vectors.front();
    std::vector<float> other = one;
    float farthest = 2;
    for (const std::vector<float>& vector : vectors) {
        const float likeness = dot(one, vector);
        if (likeness < farthest) {
            farthest = likeness;
            other = vector;
        }
    }
    std::vector<bool> moves(members, false);
    for (int round = 0; round < kSplitRounds; ++round) {
        std::vector<float> sum_one(dimensions_, 0.0F);
        std::vector<float> sum_other(dimensions_, 0.0F);
        for (std::size_t row = 0; row < members; ++row) {
            moves[row] = dot(vectors[row], other) > dot(vectors[row], one);
            std::vector<float>& sum = moves[row] ? sum_other : sum_one;
            for (std::size_t i = 0; i < dimensions_; ++i) {
                sum[i] += vectors[row][i];
            }
        }
        const float length_one = std::sqrt(dot(sum_one, sum_one));
        const float length_other = std::sqrt(dot(sum_other, sum_other));
        if (length_one <= 0 || length_other <= 0) { return; }
        for (std::size_t i = 0; i < dimensions_; ++i) {
            one[i] = sum_one[i] / length_one;
            other[i] = sum_other[i] / length_other;
        }
    }
    const auto moving = static_cast<std::size_t>(std::count(moves.begin(), moves.end(), true));
    if (moving == 0 || moving == members) { return; }
    const std::size_t to = new_cluster();
    for (std::size_t row = members; row-- > 0;) {  // from behind: what fills a gap has been looked at
        if (!moves[row]) { continue; }
        const ExampleId member = clusters_[at].members[row];
        const std::vector<std::int8_t> values(
            clusters_[at].rows.begin() + static_cast<std::ptrdiff_t>(row * dimensions_),
            clusters_[at].rows.begin() + static_cast<std::ptrdiff_t>((row + 1) * dimensions_));
        const float scale = clusters_[at].scales[row];
        take(at, row);
        put(to, member, values, scale);
    }
    clusters_[at].split_from = 0;
}

void ExampleIndex::dissolve_smallest() {
    std::size_t at = 0;
    for (std::size_t one = 1; one < clusters_.size(); ++one) {
        if (clusters_[one].members.size() < clusters_[at].members.size()) { at = one; }
    }
    const Cluster gone = std::move(clusters_[at]);
    clusters_[at].members.clear();
    drop_cluster(at);
    for (std::size_t row = 0; row < gone.members.size(); ++row) {
        const std::span<const std::int8_t> values(gone.rows.data() + row * dimensions_, dimensions_);
        std::vector<float> vector(dimensions_);
        for (std::size_t i = 0; i < dimensions_; ++i) {
            vector[i] = gone.scales[row] * static_cast<float>(values[i]);
        }
        put(by_distance(vector, 1).front(), gone.members[row], values, gone.scales[row]);
    }
}

std::vector<NearExample> ExampleIndex::nearest(std::span<const float> vector, std::size_t limit,
                                               std::size_t probes) const {
    CHECK(vector.size() == dimensions_);
    std::vector<std::int8_t> query(dimensions_);
    const float scale = quantise(vector, query.data());
    std::vector<NearExample> found;
    std::vector<std::int32_t> products;
    for (const std::size_t at : by_distance(vector, probes)) {
        const Cluster& cluster = clusters_[at];
        products.resize(cluster.members.size());
        dot_rows_(query.data(), cluster.rows.data(), cluster.members.size(), dimensions_, products.data());
        for (std::size_t row = 0; row < products.size(); ++row) {
            found.push_back({cluster.members[row], static_cast<float>(products[row]) * scale * cluster.scales[row]});
        }
    }
    limit = std::min(limit, found.size());
    std::partial_sort(found.begin(), found.begin() + static_cast<std::ptrdiff_t>(limit), found.end(),
                      [](const NearExample& a, const NearExample& b) {
                          return a.similarity != b.similarity ? a.similarity > b.similarity : a.example < b.example;
                      });
    found.resize(limit);
    return found;
}

std::optional<ClusterId> ExampleIndex::cluster_near(std::span<const float> vector) const {
    if (clusters_.empty()) { return std::nullopt; }
    return clusters_[by_distance(vector, 1).front()].id;
}

std::optional<ClusterId> ExampleIndex::cluster_of(ExampleId example) const {
    const auto found = places_.find(example);
    if (found == places_.end()) { return std::nullopt; }
    return clusters_[found->second.cluster].id;
}

float ExampleIndex::similarity(std::span<const float> vector, ExampleId example) const {
    return dot(vector, vector_at(places_.at(example)));
}

float ExampleIndex::similarity(ExampleId a, ExampleId b) const {
    return dot(vector_at(places_.at(a)), vector_at(places_.at(b)));
}

bool ExampleIndex::has_cluster(ClusterId cluster) const {
    return std::any_of(clusters_.begin(), clusters_.end(), [&](const Cluster& one) { return one.id == cluster; });
}

std::size_t ExampleIndex::fullest() const {
    std::size_t most = 0;
    for (const Cluster& cluster : clusters_) {
        most = std::max(most, cluster.members.size());
    }
    return most;
}

}  // namespace caching
