#include <algorithm>
#include <map>
#include <random>
#include <string>

#include "caching/in_context/example_book.h"
#include "caching/semantic/embedder.h"
#include "tests/support/catch.h"
#include "tests/support/seeds.h"

using caching::Example;
using caching::ExampleBook;
using caching::ExampleId;

namespace {

constexpr std::size_t kDimensions = 16;

}  // namespace

TEST_CASE("bytes, tenants and clusters add up through any order of changes, within all bounds",
          "[caching][in_context][property]") {
    const auto seed = GENERATE(range(0u, test_support::seeds_of(12)));
    CAPTURE(seed);
    std::mt19937 random{seed};
    base::FakeClock clock;
    caching::InContextOptions options;
    options.examples_max = 60;
    options.bytes_max = 50'000;
    options.tenant_share = 0.5;
    options.example_bytes_max = 600;
    ExampleBook book(options, clock, kDimensions);
    const auto any_id = [&] {
        std::vector<ExampleId> ids;
        book.for_each([&](const Example& example) { ids.push_back(example.id); });
        std::sort(ids.begin(), ids.end());
        return ids.empty() ? ExampleId{0} : ids[random() % ids.size()];
    };
    const auto quality = [&] { return 0.01 * static_cast<double>(random() % 100); };
    for (int step = 0; step < 800; ++step) {
        clock.advance(std::chrono::seconds(random() % 600));
        const std::string tenant = "t" + std::to_string(random() % 3);
        switch (random() % 8) {
            case 0: {
                caching::ExampleFilter filter;
                if (random() % 10 == 0) {
                    filter.tenant = tenant;
                } else {
                    filter.id = any_id();
                }
                book.remove(filter, random() % 2 == 0);
                break;
            }
            case 1:
                book.used(any_id(), quality());
                break;
            case 2:
                book.judged(any_id(), quality(), 0.5, 0.2);
                break;
            case 3:
                book.replayed(any_id(), std::string(1 + random() % 700, 'r'), quality());
                break;
            default: {
                std::vector<float> vector(kDimensions);
                std::normal_distribution<float> normal;
                for (float& value : vector) {
                    value = normal(random);
                }
                caching::normalise(vector);
                book.add({.tenant = tenant,
                          .partition = {1, static_cast<std::uint64_t>(tenant.back()) * 10 + random() % 2},
                          .question = "question " + std::to_string(random() % 150),
                          .answer = std::string(random() % 800, 'a'),
                          .revision = random() % 2 == 0 ? "r1" : "r2",
                          .tags = {},
                          .vector = vector,
                          .answer_quality = quality()});
                break;
            }
        }
        std::size_t bytes = 0;
        std::map<std::string, std::size_t> by_tenant;
        std::map<base::BlockHash, std::size_t> by_partition;
        book.for_each([&](const Example& example) {
            bytes += example.bytes;
            ++by_tenant[example.tenant];
            ++by_partition[example.partition];
            REQUIRE(example.question.size() + example.answer.size() <= options.example_bytes_max);
        });
        const auto counts = book.counts();
        REQUIRE(counts.bytes == bytes);
        REQUIRE(counts.bytes <= options.bytes_max);
        REQUIRE(counts.examples <= options.examples_max);
        REQUIRE(counts.partitions == by_partition.size());
        for (const auto& [name, examples] : by_tenant) {
            REQUIRE(examples <= options.examples_max / 2);
        }
        for (const auto& [partition, examples] : by_partition) {
            REQUIRE(book.index(partition) != nullptr);
            REQUIRE(book.index(partition)->size() == examples);
        }
    }
}
