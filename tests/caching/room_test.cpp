// Who gets room in a cache of similar questions that is full.
#include <string>
#include <utility>

#include "caching/semantic/semantic_cache.h"
#include "tests/support/catch.h"

using namespace std::chrono_literals;
using caching::HitKind;

namespace {

/// A cache of equal questions whose answers live a minute.
struct Bench {
    explicit Bench(std::size_t entries_max, double doorkeeper_from)
        : cache(options(entries_max, doorkeeper_from), clock, hashed, hashed) {}

    static caching::SemanticCacheOptions options(std::size_t entries_max, double doorkeeper_from) {
        caching::SemanticCacheOptions options;
        options.entries_max = entries_max;
        options.doorkeeper_from = doorkeeper_from;
        for (auto& policy : options.categories) {
            policy.ttl_ms = 60'000;
            policy.ttl_longest_ms = 0;
            policy.quota_share = 1;
            policy.semantic = false;
        }
        return options;
    }
    static caching::Question question(int number) {
        caching::Question question;
        question.tenant = "acme";
        question.model = "m";
        question.messages = {{"user", "What does the word of number " + std::to_string(number) + " mean?"}};
        return question;
    }
    bool has(int number) { return cache.lookup(question(number)).kind == HitKind::exact; }
    /// The model has answered what is not there.
    void ask(int number) {
        auto found = cache.lookup(question(number));
        if (found.kind != HitKind::none) { return; }
        caching::Answer answer;
        answer.content = "answer " + std::to_string(number);
        cache.store(question(number), std::move(found.probe), answer);
    }

    base::FakeClock clock;
    caching::HashedEmbedder hashed;
    caching::SemanticCache cache;
};

}  // namespace

TEST_CASE("answers beyond their time make room: who comes new is not turned away for them", "[caching]") {
    Bench bench(100, 0.9);
    for (int number = 0; number < 200; ++number) {
        bench.ask(number);
    }
    REQUIRE(bench.cache.counts().entries == 91u);
    REQUIRE(bench.cache.counts().turned_away == 109u);
    bench.clock.advance(61s);
    for (int number = 1000; number < 1091; ++number) {
        bench.ask(number);
        CHECK(bench.has(number));
        CHECK(bench.cache.counts().entries <= 92u);
    }
    CHECK(bench.cache.counts().turned_away == 109u);
    CHECK(bench.cache.counts().expired == 91u);
    CHECK(bench.cache.counts().evicted == 0u);
    bench.ask(2000);  // nothing is beyond its time any more
    CHECK(bench.cache.counts().turned_away == 110u);
}

TEST_CASE("the oldest beyond its time goes first, and what is within its time stays", "[caching]") {
    // With a door, and without one: then only evictions make room.
    const auto doorkeeper_from = GENERATE(0.9, 2.0);
    CAPTURE(doorkeeper_from);
    Bench bench(100, doorkeeper_from);
    const int full = doorkeeper_from < 1 ? 91 : 100;
    for (int number = 0; number < 30; ++number) {
        bench.ask(number);
    }
    bench.clock.advance(50s);
    for (int number = 30; number < full; ++number) {
        bench.ask(number);
    }
    bench.clock.advance(15s);  // the first thirty are over
    for (int number = 1000; number < 1030; ++number) {
        bench.ask(number);
    }
    for (int number = 30; number < full; ++number) {
        CAPTURE(number);
        CHECK(bench.has(number));
    }
    for (int number = 1000; number < 1030; ++number) {
        CHECK(bench.has(number));
    }
    CHECK(bench.cache.counts().evicted == 0u);
    CHECK(bench.cache.counts().expired == 30u);
}

TEST_CASE("one that is stored sweeps a few, however much is over", "[caching]") {
    Bench bench(1000, 0.9);
    for (int number = 0; number < 901; ++number) {
        bench.ask(number);
    }
    bench.clock.advance(61s);
    const std::size_t before = bench.cache.counts().entries;
    bench.ask(5000);
    CHECK(bench.cache.counts().entries + 8 >= before);
    CHECK(bench.has(5000));
}
