#include <algorithm>
#include <map>
#include <random>
#include <vector>

#include "caching/semantic/dot.h"
#include "caching/semantic/embedder.h"
#include "caching/semantic/partition.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using caching::EntryId;
using caching::Partition;

namespace {

std::vector<float> draw_vector(std::mt19937& random, std::size_t dimensions) {
    std::normal_distribution<float> normal;
    std::vector<float> vector(dimensions);
    for (float& value : vector) {
        value = normal(random);
    }
    caching::normalise(vector);
    return vector;
}

}  // namespace

TEST_CASE("every form of the scan gives the numbers of the plain one", "[caching][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(40)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    const std::size_t dimensions = 1 + random() % 450;
    const std::size_t rows = random() % 20;
    std::uniform_int_distribution<int> value{-127, 127};
    std::vector<std::int8_t> a(dimensions);
    std::vector<std::int8_t> matrix(rows * dimensions);
    for (auto& one : a) {
        one = static_cast<std::int8_t>(seed % 5 == 0 ? -127 : value(random));
    }
    for (auto& one : matrix) {
        one = static_cast<std::int8_t>(seed % 5 == 0 ? -127 : value(random));
    }
    std::vector<std::int32_t> expected(rows);
    caching::dot_rows_reference(a.data(), matrix.data(), rows, dimensions, expected.data());
    std::vector<std::int32_t> got(rows, -1);
    if (caching::has_avx2()) {
        caching::dot_rows_avx2(a.data(), matrix.data(), rows, dimensions, got.data());
        REQUIRE(got == expected);
    }
    if (caching::has_avx512()) {
        std::fill(got.begin(), got.end(), -1);
        caching::dot_rows_avx512(a.data(), matrix.data(), rows, dimensions, got.data());
        REQUIRE(got == expected);
    }
}

TEST_CASE("a partition finds what a plain list finds, through adding and removing", "[caching][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(30)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    constexpr std::size_t kDimensions = 40;
    Partition partition(kDimensions, caching::best_dot_rows());
    std::map<EntryId, std::vector<float>> model;
    std::vector<EntryId> rows;  // who is where
    std::uint64_t next = 1;
    for (int step = 0; step < 400; ++step) {
        if (!rows.empty() && random() % 3 == 0) {
            const std::size_t row = random() % rows.size();
            const EntryId moved = partition.remove(static_cast<std::uint32_t>(row));
            REQUIRE(moved == rows.back());
            model.erase(rows[row]);
            rows[row] = rows.back();
            rows.pop_back();
        } else {
            const EntryId id{next++};
            model[id] = draw_vector(random, kDimensions);
            REQUIRE(partition.add(id, model[id]) == rows.size());
            rows.push_back(id);
        }
        REQUIRE(partition.size() == model.size());
        if (step % 20 != 0) { continue; }
        const std::vector<float> query = draw_vector(random, kDimensions);
        const auto found = partition.nearest(query, 10);
        REQUIRE(found.size() == std::min<std::size_t>(10, model.size()));
        std::vector<float> exact;
        for (const auto& [id, vector] : model) {
            float sum = 0;
            for (std::size_t i = 0; i < kDimensions; ++i) {
                sum += query[i] * vector[i];
            }
            exact.push_back(sum);
            const auto at = std::find_if(found.begin(), found.end(),
                                         [entry = id](const auto& near) { return near.entry == entry; });
            if (at != found.end()) { REQUIRE(std::abs(at->similarity - sum) < 0.03F); }
        }
        std::sort(exact.rbegin(), exact.rend());
        for (std::size_t i = 0; i < found.size(); ++i) {
            REQUIRE(std::abs(found[i].similarity - exact[i]) < 0.03F);
        }
    }
}

TEST_CASE("a text has the same vector again, of length 1, and blanks between words say nothing",
          "[caching][property]") {
    const caching::HashedEmbedder embedder;
    const auto vector = embedder.embed_one("How do I sort a file?");
    REQUIRE(vector.size() == embedder.dimensions());
    CHECK(vector == embedder.embed_one("how  do i sort a FILE"));
    float squares = 0;
    for (const float value : vector) {
        squares += value * value;
    }
    CHECK(std::abs(squares - 1.0F) < 1e-4F);
    for (const float value : embedder.embed_one("")) {
        CHECK(value == 0.0F);
    }
}
