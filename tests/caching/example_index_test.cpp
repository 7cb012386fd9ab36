#include "caching/in_context/example_index.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <random>

#include "caching/in_context/knapsack.h"
#include "caching/semantic/embedder.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using caching::ExampleId;
using caching::ExampleIndex;

namespace {

constexpr std::size_t kDimensions = 32;

std::vector<float> drawn(std::mt19937& random, const std::vector<float>& around, float width) {
    std::normal_distribution<float> normal(0.0F, width);
    std::vector<float> vector(kDimensions);
    for (std::size_t i = 0; i < kDimensions; ++i) {
        vector[i] = normal(random) + (around.empty() ? 0.0F : around[i]);
    }
    caching::normalise(vector);
    return vector;
}

}  // namespace

TEST_CASE("examples come and go, and clusters stay about the root of their number", "[caching][in_context][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(8)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::vector<std::vector<float>> centres;
    for (int count = 0; count < 30; ++count) {
        centres.push_back(drawn(random, {}, 1.0F));
    }
    ExampleIndex index(kDimensions);
    std::map<ExampleId, std::vector<float>> there;
    std::uint64_t next = 1;
    for (int step = 0; step < 1500; ++step) {
        if (!there.empty() && random() % 3 == 0) {
            const auto gone = std::next(there.begin(), static_cast<std::ptrdiff_t>(random() % there.size()));
            index.remove(gone->first);
            there.erase(gone);
        } else {
            auto vector = drawn(random, centres[random() % centres.size()], 0.1F);
            index.add(ExampleId{next}, vector);
            there.emplace(ExampleId{next++}, std::move(vector));
        }
        REQUIRE(index.size() == there.size());
        const double root = std::sqrt(static_cast<double>(there.size()));
        REQUIRE(static_cast<double>(index.clusters()) <= 2 * root + 3);
    }
    CHECK(static_cast<double>(index.clusters()) >= 0.5 * std::sqrt(static_cast<double>(there.size())));
    std::size_t found = 0;
    for (const auto& [id, vector] : there) {
        REQUIRE(index.cluster_of(id));
        REQUIRE(index.has_cluster(*index.cluster_of(id)));
        REQUIRE(index.similarity(vector, id) > 0.98F);
        const auto near = index.nearest(vector, 5, 3);
        REQUIRE(near.size() <= 5);
        REQUIRE(std::is_sorted(near.begin(), near.end(),
                               [](const auto& a, const auto& b) { return a.similarity > b.similarity; }));
        found += !near.empty() && near.front().example == id ? 1 : 0;
    }
    // What is asked for again is in one of the clusters that are looked into.
    CHECK(found * 100 >= there.size() * 95);
    for (const auto& [id, vector] : there) {
        index.remove(id);
    }
    CHECK(index.size() == 0);
    CHECK(index.clusters() == 0);
    CHECK(index.nearest(drawn(random, {}, 1.0F), 5, 3).empty());
}

TEST_CASE("twins can be added without end and searched", "[caching][in_context]") {
    std::mt19937 random{1};
    const auto vector = drawn(random, {}, 1.0F);
    ExampleIndex index(kDimensions);
    for (std::uint64_t id = 1; id <= 500; ++id) {
        index.add(ExampleId{id}, vector);
    }
    const auto near = index.nearest(vector, 3, 3);
    REQUIRE(near.size() == 3);
    CHECK(near.front().example == ExampleId{1});
    index.remove(ExampleId{1});
    index.remove(ExampleId{1});
    CHECK(index.size() == 499);
}

TEST_CASE("a knapsack fits and is worth at least half of the best", "[caching][in_context][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(60)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    std::vector<caching::KnapsackItem> items(1 + random() % 12);
    for (auto& item : items) {
        item = {1 + random() % 40, static_cast<double>(random() % 100)};
    }
    const std::size_t capacity = 1 + random() % 120;
    const auto kept = caching::knapsack(items, capacity);
    std::size_t bytes = 0;
    double value = 0;
    for (const std::size_t at : kept) {
        bytes += items[at].bytes;
        value += items[at].value;
    }
    REQUIRE(std::is_sorted(kept.begin(), kept.end()));
    REQUIRE(std::adjacent_find(kept.begin(), kept.end()) == kept.end());
    REQUIRE(bytes <= capacity);
    double best = 0;
    for (std::size_t subset = 0; subset < (std::size_t{1} << items.size()); ++subset) {
        std::size_t taken = 0;
        double worth = 0;
        for (std::size_t at = 0; at < items.size(); ++at) {
            if ((subset >> at) % 2 == 0) { continue; }
            taken += items[at].bytes;
            worth += items[at].value;
        }
        if (taken <= capacity) { best = std::max(best, worth); }
    }
    REQUIRE(2 * value >= best);
}
