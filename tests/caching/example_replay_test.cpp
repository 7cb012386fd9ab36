// Examples that the large model answers again: which, what their answers are tried on, and which answer stays.
#include <limits>
#include <optional>
#include <string>

#include "caching/in_context/in_context_cache.h"
#include "caching/semantic/embedder.h"
#include "tests/support/catch.h"

using caching::Example;
using caching::ExampleId;
using caching::InContextCache;
using caching::InContextOptions;
using caching::InContextQuestion;
using Replayed = InContextCache::Replayed;

namespace {

const caching::HashedEmbedder& embedder() {
    static const caching::HashedEmbedder hashed;
    return hashed;
}

InContextQuestion ask(const std::string& text, const std::string& tenant = "acme") {
    return {.tenant = tenant, .scope = "", .text = text, .vector = embedder().embed_one(text)};
}

bool any(const Example&) {
    return true;
}

struct Cache {
    explicit Cache(InContextOptions given = {}) {
        given.route = caching::RouteMode::small;
        given.threshold_share = 0;
        given.helpfulness_min = 0;
        cache.emplace(given, clock, embedder().dimensions());
    }
    void keep(const std::string& question, const std::string& answer, const std::string& tenant = "acme",
              const std::string& revision = "r1") {
        REQUIRE(cache->keep(ask(question, tenant), answer, revision) == InContextCache::Kept::kept);
    }
    /// The small model answers it with what the cache chooses, and so well.
    void use(const std::string& question, double quality, const std::string& tenant = "acme") {
        const auto decision = cache->decide(ask(question, tenant));
        REQUIRE_FALSE(decision.chosen.examples.empty());
        cache->judge(decision, {.small = quality, .large = {}});
    }
    const Example& example(const std::string& question) const {
        const Example* found = nullptr;
        cache->book().for_each([&](const Example& one) {
            if (one.question == question) { found = &one; }
        });
        REQUIRE(found != nullptr);
        return *found;
    }
    base::FakeClock clock;
    std::optional<InContextCache> cache;
};

const std::string kMiles = "convert 10 miles to kilometres";
const std::string kMore = "convert 25 miles to kilometres";

}  // namespace

TEST_CASE("an example that shall be answered again comes with questions next to it", "[caching][in_context][replay]") {
    Cache one;
    one.keep(kMiles, "about 16 km");
    CHECK_FALSE(one.cache->next_replay(any));  // nobody has used it
    one.use("convert 12 miles to kilometres", 0.4);
    CHECK_FALSE(one.cache->next_replay(any));  // and there is nothing to try an answer on
    one.keep(kMore, "40.2 km");
    one.keep("who painted the ceiling of the Sistine Chapel", "Michelangelo");
    one.keep("convert 26 miles to kilometres", "41.8 km", "acme", "r0");  // of other weights
    one.keep("convert 27 miles to kilometres", "43.5 km", "other");
    const auto replay = one.cache->next_replay(any);
    REQUIRE(replay);
    CHECK(replay->question == kMiles);
    CHECK(replay->answer == "about 16 km");
    CHECK(replay->tenant == "acme");
    REQUIRE(replay->trials.size() == 1);
    CHECK(replay->trials.front().question == kMore);
    CHECK(replay->trials.front().answer == "40.2 km");
    CHECK_FALSE(one.cache->next_replay([&](const Example& example) { return example.id != replay->example; }));
}

TEST_CASE("what did worst is answered again first, and is tried on so many questions at the most",
          "[caching][in_context][replay]") {
    InContextOptions options;
    options.replay_trials = 2;
    options.examples_each = 1;
    Cache one(options);
    for (int miles = 10; miles < 20; ++miles) {
        one.keep("convert " + std::to_string(miles) + " miles to kilometres", std::to_string(miles) + " of them");
    }
    one.keep("who painted the ceiling of the Sistine Chapel", "Michelangelo");
    one.keep("who painted the ceiling of the opera in Paris", "Chagall");
    for (int round = 0; round < 5; ++round) {
        one.use("convert 12 miles to kilometres", 0.9);
        one.use("who painted the ceiling of the Sistine Chapel", 0.2);
    }
    const auto replay = one.cache->next_replay(any);
    REQUIRE(replay);
    CHECK(replay->question == "who painted the ceiling of the Sistine Chapel");
    REQUIRE(replay->trials.size() == 1);
    CHECK(replay->trials.front().answer == "Chagall");
    const auto next = one.cache->next_replay([&](const Example& example) { return example.id != replay->example; });
    REQUIRE(next);
    CHECK(next->trials.size() == 2);
}

TEST_CASE("a new answer stays where the small model did better with it, also when clients ask again",
          "[caching][in_context][replay]") {
    Cache one;
    one.keep(kMiles, "about 16 km");
    one.keep(kMore, "40.2 km");
    one.use("convert 12 miles to kilometres", 0.4);
    const auto replay = one.cache->next_replay([](const Example& example) { return example.question == kMiles; });
    REQUIRE(replay);
    CHECK(one.cache->replayed(*replay, "16.1 km", 0.04) == Replayed::no_better);  // less than chance makes
    CHECK(one.cache->replayed(*replay, "16.1 km", -0.5) == Replayed::no_better);
    CHECK(one.cache->replayed(*replay, "16.1 km", std::numeric_limits<double>::quiet_NaN()) == Replayed::no_better);
    CHECK(one.cache->replayed(*replay, "ask jo@example.org", 0.9) == Replayed::no_better);  // personal
    CHECK(one.cache->replayed(*replay, std::string(10'000, 'a'), 0.9) == Replayed::no_better);
    CHECK(one.example(kMiles).answer == "about 16 km");
    CHECK(one.example(kMiles).replays == 5);
    CHECK(one.cache->replayed(*replay, "16.1 km", 0.3) == Replayed::better);
    CHECK(one.example(kMiles).answer == "16.1 km");
    // The model's usual answer, from a client that asks now, does not push it out; other weights' answer does.
    CHECK(one.cache->keep(ask(kMiles), "about 16 km", "r1") == InContextCache::Kept::worse);
    CHECK(one.example(kMiles).answer == "16.1 km");
    CHECK(one.cache->keep(ask(kMiles), "sixteen", "r2") == InContextCache::Kept::replaced);
    CHECK(one.example(kMiles).answer == "sixteen");
    // What it was compared with is there no more.
    CHECK(one.cache->replayed(*replay, "16.2 km", 0.9) == Replayed::gone);
    CHECK(one.example(kMiles).answer == "sixteen");
    one.cache->remove({.id = replay->example}, false);
    CHECK(one.cache->replayed(*replay, "16.2 km", 0.9) == Replayed::gone);
}
