#include "kv_transfer/coverage.h"

#include <set>
#include <vector>

#include "tests/kv_transfer/random.h"
// Last, see there.
#include "tests/support/catch.h"

TEST_CASE("coverage agrees with a set of (layer, token)", "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, 50u));
    CAPTURE(seed);
    kv_test::Random random{seed};
    const std::uint32_t layers = 1 + random() % 5;
    const std::uint32_t begin = random() % 200;
    const std::uint32_t end = begin + random() % 300;
    kv_transfer::Coverage coverage(layers, begin, end);
    std::set<std::pair<std::uint32_t, std::uint32_t>> model;
    for (int step = 0; step < 60; ++step) {
        kv_cache::KvRange range;
        range.layer_begin = random() % (layers + 1);
        range.layer_end = range.layer_begin + random() % (layers - range.layer_begin + 1);
        range.token_begin = begin + random() % (end - begin + 1);
        range.token_end = range.token_begin + random() % (end - range.token_begin + 1);
        bool covers = true;
        std::uint64_t added = 0;
        for (std::uint32_t layer = range.layer_begin; layer < range.layer_end; ++layer) {
            for (std::uint32_t token = range.token_begin; token < range.token_end; ++token) {
                const bool is_new = !model.contains({layer, token});
                covers = covers && !is_new;
                added += is_new ? 1 : 0;
            }
        }
        CHECK(coverage.covers(range) == covers);
        if (step % 3 == 0) { continue; }
        for (std::uint32_t layer = range.layer_begin; layer < range.layer_end; ++layer) {
            for (std::uint32_t token = range.token_begin; token < range.token_end; ++token) {
                model.insert({layer, token});
            }
        }
        CHECK(coverage.add(range) == added);
        CHECK(coverage.is_complete() == (model.size() == std::size_t{layers} * (end - begin)));
    }
    coverage.add({0, layers, begin, end});
    CHECK(coverage.is_complete());
}

TEST_CASE("the first token that is whole, and the first that is not, are where a plain look finds them",
          "[kv_transfer][property]") {
    const auto seed = GENERATE(range(0u, 100u));
    CAPTURE(seed);
    kv_test::Random random{seed};
    const std::uint32_t layers = 1 + random() % 5;
    const std::uint32_t begin = random() % 100;
    const std::uint32_t end = begin + 1 + random() % 300;
    kv_transfer::Coverage coverage(layers, begin, end);
    std::vector<std::vector<bool>> there(layers, std::vector<bool>(end));
    std::uint64_t missing = std::uint64_t{layers} * (end - begin);
    for (int step = 0; step < 12; ++step) {
        const std::uint32_t first = begin + random() % (end - begin);
        const std::uint32_t last = first + 1 + random() % (end - first);
        const std::uint32_t layer = random() % layers;
        const std::uint32_t layer_end = random() % 2 == 0 ? layers : layer + 1;
        coverage.add({layer, layer_end, first, last});
        for (std::uint32_t l = layer; l < layer_end; ++l) {
            for (std::uint32_t token = first; token < last; ++token) {
                missing -= there[l][token] ? 0u : 1u;
                there[l][token] = true;
            }
        }
        REQUIRE(coverage.missing() == missing);
        const auto find = [&](std::uint32_t token, bool whole) {
            for (; token < end; ++token) {
                bool all = true;
                for (std::uint32_t l = 0; l < layers; ++l) {
                    all = all && there[l][token];
                }
                if (all == whole) { break; }
            }
            return token;
        };
        for (std::uint32_t token = begin; token <= end; ++token) {
            REQUIRE(coverage.first_missing(token) == find(token, false));
            REQUIRE(coverage.first_whole(token) == find(token, true));
        }
    }
}
