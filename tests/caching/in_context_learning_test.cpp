// What router and selector have learnt, from one life of the process to the next.
#include <limits>
#include <string>
#include <utility>

#include "caching/in_context/in_context_cache.h"
#include "caching/semantic/embedder.h"
#include "caching/store/sqlite_store.h"
#include "tests/caching/store_world.h"
#include "tests/support/catch.h"

using caching::Arm;
using caching::InContextCache;
using caching::InContextOptions;
using caching::InContextQuestion;
using caching::SqliteStore;
using store_test::Folder;

namespace {

const caching::HashedEmbedder& embedder() {
    static const caching::HashedEmbedder hashed;
    return hashed;
}

InContextQuestion ask(const std::string& text) {
    return {.tenant = "acme", .scope = "be brief", .text = text, .vector = embedder().embed_one(text)};
}

InContextOptions options_with_a_key() {
    InContextOptions options;
    options.threshold_share = 0;
    options.rest_price = 0.2;  // a tenth of quality is worth it
    options.loss_target = 0.05;
    options.key.bytes[3] = std::byte{9};
    return options;
}

struct Life {
    explicit Life(InContextOptions options = options_with_a_key(), const std::string& models = "small\nlarge")
        : cache(std::move(options), clock, embedder().dimensions(), models) {}

    /// The small model does files as well as the large one, and sums badly.
    void learn(int times = 150) {
        for (int count = 0; count < times; ++count) {
            const std::string number = std::to_string(count);
            cache.judge(cache.decide(ask("list all files larger than " + number + " MB")),
                        {.small = 1.0, .large = 1.0});
            cache.judge(cache.decide(ask("what is the sum of 17 and " + number)), {.small = 0.1, .large = 1.0});
        }
    }
    caching::InContextDecision on_files() { return cache.decide(ask("list all files larger than 77 GB")); }
    caching::InContextDecision on_sums() { return cache.decide(ask("what is the sum of 21 and 12345")); }

    base::FakeClock clock;
    InContextCache cache;
};

}  // namespace

TEST_CASE("what was learnt outlives the process: the same requests go to the same model",
          "[caching][in_context][store]") {
    const Folder folder;
    Life first;
    first.learn();
    {
        auto store = SqliteStore::open(folder.file());
        REQUIRE(store);
        CHECK((*store)->example_learning().value() == "");
        REQUIRE((*store)->apply({caching::SavedExampleLearning{"before"}}));
        const auto learning = first.cache.take_learning(false);
        REQUIRE(learning);
        REQUIRE((*store)->apply({caching::SavedExampleLearning{*learning}}));
        CHECK_FALSE(first.cache.take_learning(true));  // it knows all of it
    }
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    Life second;
    CHECK(second.on_files().route.arm == Arm::large);  // nothing is offloaded on faith
    REQUIRE(second.cache.restore_learning((*store)->example_learning().value()));
    CHECK(second.cache.threshold() == first.cache.threshold());
    CHECK(second.cache.router().account() == first.cache.router().account());
    for (const Arm arm : {Arm::small, Arm::large}) {
        CHECK(second.cache.router().belief(arm).observations() == first.cache.router().belief(arm).observations());
    }
    const auto files = second.on_files();
    const auto sums = second.on_sums();
    CHECK(files.features == first.on_files().features);
    CHECK(files.route.arm == Arm::small);
    CHECK(files.route.mean_small > 0.9);
    CHECK(sums.route.arm == Arm::large);
    CHECK(sums.route.mean_small < 0.4);
    // It goes on learning from there.
    CHECK_FALSE(second.cache.take_learning(true));
    second.learn(1);
    CHECK_FALSE(second.cache.take_learning(false));
    CHECK(second.cache.take_learning(true));
}

TEST_CASE("what is damaged, cut, of another key or of other models is not taken, and nothing changes",
          "[caching][in_context][store]") {
    Life first;
    first.learn(20);
    const std::string learning = first.cache.learning();
    Life life;
    const std::string before = life.cache.learning();
    const auto is_refused = [&](const std::string& bytes) {
        return !life.cache.restore_learning(bytes) && life.cache.learning() == before;
    };
    for (std::size_t at = 0; at < learning.size(); at += 97) {
        CAPTURE(at);
        std::string damaged = learning;
        damaged[at] = static_cast<char>(damaged[at] ^ 0x10);
        CHECK(is_refused(damaged));
        CHECK(is_refused(learning.substr(0, at)));
    }
    CHECK(is_refused(learning + '\0'));
    Life others(options_with_a_key(), "small\nlarger");
    CHECK_FALSE(others.cache.restore_learning(learning));
    InContextOptions other_key = options_with_a_key();
    other_key.key.bytes[0] = std::byte{1};
    Life stranger(other_key);
    CHECK_FALSE(stranger.cache.restore_learning(learning));
    CHECK(life.cache.restore_learning(learning));
}

TEST_CASE("other weights behind a name are known at once, also after a restart", "[caching][in_context]") {
    Life first;
    first.cache.served_by(Arm::small, "r1");
    first.cache.served_by(Arm::large, "r9");
    first.learn();
    CHECK(first.on_files().route.arm == Arm::small);
    first.cache.served_by(Arm::small, "");  // no workers just now
    first.cache.served_by(Arm::small, "r1");
    CHECK(first.cache.counts().model_changes == 0);

    Life second;
    REQUIRE(second.cache.restore_learning(first.cache.learning()));
    second.cache.served_by(Arm::small, "r2");
    second.cache.served_by(Arm::large, "r9");
    CHECK(second.cache.counts().model_changes == 1);
    CHECK(second.on_files().route.arm == Arm::large);
    CHECK(second.on_files().features[caching::kNearSmall] == caching::kUnknownSmall);
    CHECK(second.on_files().features[caching::kNearLarge] > 0.99);
    // While workers of both take turns nothing is forgotten again and again.
    second.learn();
    const auto changes = second.cache.counts().model_changes;
    for (const char* revision : {"r1", "r2", "r1", "r2"}) {
        second.cache.served_by(Arm::small, revision);
    }
    CHECK(second.cache.counts().model_changes == changes);
    CHECK(second.on_files().route.arm == Arm::small);
}

TEST_CASE("what is kept of what was learnt has a bound", "[caching][in_context]") {
    InContextOptions options = options_with_a_key();
    options.examples_max = 0;
    Life life(options);
    life.learn(1200);
    const std::size_t full = life.cache.learning().size();
    CHECK(full < 900'000);
    life.learn(50);
    CHECK(life.cache.learning().size() == full);
}
