#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "caching/semantic/dot.h"

namespace caching {

enum class ExampleId : std::uint64_t {};
enum class ClusterId : std::uint64_t {};

struct NearExample {
    ExampleId example{};
    float similarity = 0;
};

/// The first stage of the selector, for one partition: examples in about sqrt(N) clusters, of which a search looks into
/// the nearest few (sqrt(N) minimises K + N / K comparisons: IC-Cache, section 4.1). IC-Cache runs K-means over all of
/// them; here clusters grow with every example, are split in two when there are too few and dissolved when there are
/// too many, so that no call takes longer than about sqrt(N) comparisons and nobody waits for a rebuild. Deterministic.
/// Not thread-safe.
class ExampleIndex {
public:
    explicit ExampleIndex(std::size_t dimensions, DotRows dot_rows = best_dot_rows());

    /// `vector` has length 1. An example is added once.
    void add(ExampleId example, std::span<const float> vector);
    /// No effect where it is not there.
    void remove(ExampleId example);

    /// The nearest in the `probes` nearest clusters, best first; ties go to the older example.
    std::vector<NearExample> nearest(std::span<const float> vector, std::size_t limit, std::size_t probes) const;
    /// The cluster whose middle is nearest; empty: there is none.
    std::optional<ClusterId> cluster_near(std::span<const float> vector) const;
    /// Cosine of two examples that are here, or of one and a vector.
    float similarity(ExampleId a, ExampleId b) const;
    float similarity(std::span<const float> vector, ExampleId example) const;
    /// Of an example that is here, about as it was added.
    std::vector<float> vector_of(ExampleId example) const { return vector_at(places_.at(example)); }
    std::optional<ClusterId> cluster_of(ExampleId example) const;
    bool has_cluster(ClusterId cluster) const;

    std::size_t size() const { return places_.size(); }
    std::size_t clusters() const { return clusters_.size(); }
    /// Examples in the fullest cluster.
    std::size_t fullest() const;

private:
    struct Cluster {
        ClusterId id{};
        std::vector<float> sum;  // [dimensions] of its members; its direction is the middle
        float length = 0;        // of the sum
        std::vector<ExampleId> members;
        std::vector<std::int8_t> rows;  // [members, dimensions]
        std::vector<float> scales;
        std::size_t split_from = 0;  // as large as this a split is tried; twins cannot be split
    };
    struct Place {
        std::size_t cluster = 0;  // index
        std::size_t row = 0;
    };

    std::vector<std::size_t> by_distance(std::span<const float> vector, std::size_t limit) const;
    /// Its index.
    std::size_t new_cluster();
    void put(std::size_t cluster, ExampleId example, std::span<const std::int8_t> row, float scale);
    void take(std::size_t cluster, std::size_t row);
    void drop_cluster(std::size_t cluster);
    void split_fullest();
    void dissolve_smallest();
    std::vector<float> vector_at(const Place& place) const;
    static void measure(Cluster& cluster);

    std::size_t dimensions_;
    DotRows dot_rows_;
    std::vector<Cluster> clusters_;
    std::unordered_map<ExampleId, Place> places_;
    std::uint64_t next_cluster_ = 1;
};

}  // namespace caching
