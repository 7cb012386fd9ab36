#include "caching/semantic/graph_index.h"

#include <algorithm>
#include <map>
#include <random>
#include <set>
#include <vector>

#include "caching/semantic/embedder.h"
#include "caching/semantic/partition.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using caching::EntryId;
using caching::Near;
using caching::Partition;

namespace {

constexpr std::size_t kDimensions = 48;

/// Questions of intents: points around centres.
struct Intents {
    explicit Intents(unsigned seed) : random(seed) {
        for (int count = 0; count < 40; ++count) {
            centres.push_back(draw(1.0F));
        }
    }
    std::vector<float> draw(float width) {
        std::normal_distribution<float> normal(0.0F, width);
        std::vector<float> vector(kDimensions);
        for (float& value : vector) {
            value = normal(random);
        }
        return vector;
    }
    std::vector<float> next() {
        std::vector<float> vector = draw(0.5F);
        const std::vector<float>& centre = centres[random() % centres.size()];
        for (std::size_t i = 0; i < kDimensions; ++i) {
            vector[i] += centre[i];
        }
        caching::normalise(vector);
        return vector;
    }
    std::mt19937 random;
    std::vector<std::vector<float>> centres;
};

/// Of `queries` searches: how many of the nearest ten of a plain scan the partition found, from 0 to 1.
double recall_of(const Partition& partition, Intents& intents, int queries) {
    std::size_t found = 0;
    std::size_t wanted = 0;
    for (int count = 0; count < queries; ++count) {
        const std::vector<float> query = intents.next();
        const std::vector<Near> all = partition.nearest(query, partition.size());  // beyond the graph's limit: the scan
        std::set<EntryId> exact;
        for (std::size_t at = 0; at < std::min<std::size_t>(10, all.size()); ++at) {
            exact.insert(all[at].entry);
        }
        for (const Near& near : partition.nearest(query, 10)) {
            found += exact.contains(near.entry) ? 1 : 0;
        }
        wanted += exact.size();
    }
    return wanted == 0 ? 1.0 : static_cast<double>(found) / static_cast<double>(wanted);
}

}  // namespace

TEST_CASE("a large partition goes by a graph and finds what the scan finds", "[caching][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(3)));
    CAPTURE(seed);
    Intents intents(seed);
    Partition partition(kDimensions, caching::best_dot_rows(), 500);
    for (std::uint64_t id = 1; id <= 3000; ++id) {
        partition.add(EntryId{id}, intents.next());
    }
    REQUIRE(partition.has_graph());
    REQUIRE(partition.graph()->is_sound());
    CHECK(recall_of(partition, intents, 60) > 0.97);
    const std::vector<float> query = intents.next();
    const std::vector<Near> found = partition.nearest(query, 20);
    REQUIRE(found.size() == 20);
    CHECK(std::is_sorted(found.begin(), found.end(),
                         [](const Near& a, const Near& b) { return a.similarity > b.similarity; }));
}

TEST_CASE("removals leave no trace in the graph, through any order of them", "[caching][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(4)));
    CAPTURE(seed);
    Intents intents(seed);
    Partition partition(kDimensions, caching::best_dot_rows(), 300);
    std::vector<EntryId> rows;
    std::uint64_t next = 1;
    for (int step = 0; step < 6000; ++step) {
        // Grows past the graph's beginning, churns there, falls below its end, and grows again.
        const bool grows = step < 1500 || (step >= 3000 && step < 3200) || step > 5000;
        const bool falls = step >= 4200 && step <= 5000;
        if (rows.empty() || (grows && intents.random() % 4 != 0) || (!grows && !falls && intents.random() % 2 == 0)) {
            partition.add(EntryId{next}, intents.next());
            rows.push_back(EntryId{next++});
        } else {
            const std::size_t row = intents.random() % rows.size();
            REQUIRE(partition.remove(static_cast<std::uint32_t>(row)) == rows.back());
            rows[row] = rows.back();
            rows.pop_back();
        }
        if (step % 500 != 499) { continue; }
        REQUIRE(partition.size() == rows.size());
        if (partition.graph() != nullptr) { REQUIRE(partition.graph()->is_sound()); }
        const std::set<EntryId> there(rows.begin(), rows.end());
        for (const Near& near : partition.nearest(intents.next(), 20)) {
            REQUIRE(there.contains(near.entry));
        }
        CHECK(recall_of(partition, intents, 20) > 0.95);
    }
}

TEST_CASE("equal vectors and a graph of one are no trouble", "[caching]") {
    Partition partition(kDimensions, caching::best_dot_rows(), 0);
    std::vector<float> vector(kDimensions, 0.0F);
    vector[0] = 1.0F;
    CHECK(partition.nearest(vector, 3).empty());
    for (std::uint64_t id = 1; id <= 200; ++id) {
        partition.add(EntryId{id}, vector);
    }
    REQUIRE(partition.has_graph());
    CHECK(partition.nearest(vector, 5).size() == 5);
    while (partition.size() > 0) {
        partition.remove(0);
        if (partition.graph() != nullptr) { REQUIRE(partition.graph()->is_sound()); }
        CHECK(partition.nearest(vector, 5).size() == std::min<std::size_t>(5, partition.size()));
    }
}
