// Examples for a small model that outlive the process: what a store is told, and what of it is taken again.
#include <sqlite3.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <limits>
#include <string>
#include <vector>

#include "caching/in_context/in_context_cache.h"
#include "caching/semantic/embedder.h"
#include "caching/store/sqlite_store.h"
#include "tests/caching/store_world.h"
#include "tests/support/catch.h"

using caching::ExampleChanges;
using caching::InContextCache;
using caching::InContextOptions;
using caching::InContextQuestion;
using caching::SavedExample;
using caching::SqliteStore;
using namespace std::chrono_literals;
using store_test::Folder;

namespace {

const caching::HashedEmbedder& embedder() {
    static const caching::HashedEmbedder hashed;
    return hashed;
}

InContextQuestion ask(const std::string& text, const std::string& tenant = "acme") {
    return {.tenant = tenant, .scope = "be brief", .text = text, .vector = embedder().embed_one(text)};
}

InContextOptions always_small() {
    InContextOptions options;
    options.route = caching::RouteMode::small;
    options.threshold_share = 0;
    options.key.bytes[3] = std::byte{9};
    return options;
}

/// One life of the cache, and a store that is told of all that changes.
struct Life {
    explicit Life(InContextOptions options = always_small())
        : cache(std::move(options), clock, embedder().dimensions()) {
        cache.book().track_changes();
    }
    bool restore(const SavedExample& one) { return cache.restore(one, embedder().embed_one(one.question)); }
    ExampleChanges changes() { return cache.book().take_changes(true); }

    base::FakeClock clock;
    InContextCache cache;
};

std::vector<SavedExample> all_of(SqliteStore& store) {
    std::vector<SavedExample> all;
    REQUIRE(store.load_examples([&](SavedExample one) {
        all.push_back(std::move(one));
        return true;
    }));
    return all;
}

/// Tells the store what has changed.
void tell(SqliteStore& store, ExampleChanges changes) {
    std::vector<caching::StoreChange> all;
    for (SavedExample& one : changes.put) {
        all.emplace_back(std::move(one));
    }
    all.emplace_back(caching::ErasedExamples{changes.gone});
    all.emplace_back(caching::ExampleStandings{changes.standings});
    REQUIRE(store.apply(all));
}

void run_sql(const std::string& file, const std::string& sql) {
    sqlite3* database = nullptr;
    REQUIRE(sqlite3_open(file.c_str(), &database) == SQLITE_OK);
    CHECK(sqlite3_exec(database, sql.c_str(), nullptr, nullptr, nullptr) == SQLITE_OK);
    sqlite3_close(database);
}

}  // namespace

TEST_CASE("an example of an earlier life stands in the prompt, with what it has brought",
          "[caching][in_context][store]") {
    const Folder folder;
    {
        Life life;
        auto store = SqliteStore::open(folder.file());
        REQUIRE(store);
        life.cache.keep(ask("list all files larger than 10 MB"), "find . -size +10M", "r1", {"shell"});
        life.cache.keep(ask("who wrote the opera Fidelio"), "Beethoven", "r1");
        tell(**store, life.changes());
        life.clock.advance(2h);
        for (int time = 0; time < 3; ++time) {
            const auto decision = life.cache.decide(ask("list all files larger than 20 MB"));
            REQUIRE(decision.chosen.examples.size() == 1);
            life.cache.judge(decision, {.small = 0.9, .large = 1.0});
        }
        const ExampleChanges later = life.changes();
        CHECK(later.put.empty());  // what it says has not changed
        REQUIRE(later.standings.size() == 1);
        tell(**store, later);
        CHECK(life.changes().standings.empty());
    }
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    Life life;
    life.clock.advance(5h);
    auto all = all_of(**store);
    REQUIRE(all.size() == 2);
    for (const SavedExample& one : all) {
        REQUIRE(life.restore(one));
        CHECK_FALSE(life.restore(one));  // it is there already
    }
    CHECK(life.changes().put.empty());  // nothing is new to the store
    const auto decision = life.cache.decide(ask("list all files larger than 20 MB"));
    REQUIRE(decision.chosen.examples.size() == 1);
    CHECK(decision.chosen.rendered.find("find . -size +10M") != std::string::npos);
    const caching::Example& example = *life.cache.book().find(decision.chosen.examples.front());
    CHECK(example.uses == 4);
    CHECK(example.record_uses == 3);
    CHECK(example.revision == "r1");
    CHECK(example.tags == std::vector<std::string>{"shell"});
    // Nobody else's, still.
    CHECK(life.cache.decide(ask("list all files larger than 20 MB", "other")).chosen.examples.empty());
    CHECK(life.cache.remove({.tag = "shell"}, false) == 1);
    const ExampleChanges gone = life.changes();
    REQUIRE(gone.gone.size() == 1);
    tell(**store, gone);
    CHECK(all_of(**store).size() == 1);
}

TEST_CASE("its age and its value go on by the wall clock", "[caching][in_context][store]") {
    SavedExample saved;
    {
        Life life;
        life.cache.keep(ask("list all files larger than 10 MB"), "find . -size +10M", "r1");
        saved = life.changes().put.at(0);
    }
    Life life;
    life.clock.advance(10h);
    REQUIRE(life.restore(saved));
    double value = 0;
    life.cache.book().for_each([&](const caching::Example& one) {
        CHECK(life.clock.now() - one.created == 10h);
        value = life.cache.book().value_of(one);
    });
    CHECK(value < 0.36);  // 0.9 to the power of ten
    CHECK(value > 0.34);
    CHECK(life.cache.remove({.older_than = 9h}, true) == 1);
    CHECK(life.cache.remove({.older_than = 11h}, true) == 0);
}

TEST_CASE("what was changed, cut, or put under another name is not taken", "[caching][in_context][store]") {
    Life first;
    first.cache.keep(ask("list all files larger than 10 MB"), "find . -size +10M", "r1", {"shell"});
    const SavedExample saved = first.changes().put.at(0);
    const auto is_taken = [&](const std::function<void(SavedExample&)>& change,
                              InContextOptions options = always_small()) {
        SavedExample one = saved;
        change(one);
        Life life(std::move(options));
        return life.restore(one);
    };
    CHECK(is_taken([](SavedExample&) {}));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.tenant = "other"; }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.answer.pop_back(); }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.question += "?"; }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.partition.low ^= 1; }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.revision = "r2"; }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.tags.clear(); }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.created_unix_us += 1; }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.standing.exact.high ^= 1; }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.standing.value = std::numeric_limits<double>::quiet_NaN(); }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.standing.record = 7; }));
    CHECK_FALSE(is_taken([](SavedExample& one) { one.seal = {}; }));
    InContextOptions other_key = always_small();
    other_key.key.bytes[0] = std::byte{1};
    CHECK_FALSE(is_taken([](SavedExample&) {}, other_key));
    InContextOptions smaller = always_small();
    smaller.example_bytes_max = 20;
    CHECK_FALSE(is_taken([](SavedExample&) {}, smaller));
    smaller = always_small();
    smaller.bytes_max = 100;
    CHECK_FALSE(is_taken([](SavedExample&) {}, smaller));
    smaller = always_small();
    smaller.examples_max = 0;
    CHECK_FALSE(is_taken([](SavedExample&) {}, smaller));
}

TEST_CASE("a store hears of what made room, and of an answer that was replaced", "[caching][in_context][store]") {
    InContextOptions options = always_small();
    options.examples_max = 20;
    Life life(options);
    const Folder folder;
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    for (int number = 0; number < 100; ++number) {
        life.cache.keep(ask("question number " + std::to_string(number)), "answer", "r1");
        if (number % 7 == 0) { tell(**store, life.changes()); }
    }
    life.cache.keep(ask("question number 99"), "a better answer", "r2");
    tell(**store, life.changes());
    const auto all = all_of(**store);
    CHECK(all.size() == life.cache.book().counts().examples);
    CHECK(all.size() <= 20);
    for (const SavedExample& one : all) {
        CHECK(life.cache.book().has(one.standing.exact));
        if (one.question == "question number 99") { CHECK(one.answer == "a better answer"); }
    }
    // A later life with less room takes no more than it has.
    options.examples_max = 5;
    Life later(options);
    std::size_t taken = 0;
    for (const SavedExample& one : all) {
        taken += later.restore(one) ? 1 : 0;
    }
    CHECK(taken == 5);
}

TEST_CASE("a table of another form goes, and the answers beside it stay", "[caching][in_context][store]") {
    const Folder folder;
    Life life;
    life.cache.keep(ask("list all files larger than 10 MB"), "find . -size +10M", "r1");
    const auto put = life.changes().put;
    {
        auto store = SqliteStore::open(folder.file());
        REQUIRE(store);
        caching::SavedAnswer answer;
        answer.answer.text = "kept";
        REQUIRE((*store)->apply({put.at(0), answer}));
    }
    run_sql(folder.file(),
            "ALTER TABLE examples ADD COLUMN mood TEXT; UPDATE about SET value = '2' WHERE name = 'examples_form'");
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    CHECK(all_of(**store).empty());
    std::size_t answers = 0;
    REQUIRE((*store)->load([&](caching::SavedAnswer) { return ++answers > 0; }));
    CHECK(answers == 1);
    REQUIRE((*store)->apply({put.at(0)}));
    CHECK(all_of(**store).size() == 1);
}

TEST_CASE("a row that was damaged on the disk costs that example alone", "[caching][in_context][store]") {
    const Folder folder;
    {
        Life life;
        auto store = SqliteStore::open(folder.file());
        REQUIRE(store);
        life.cache.keep(ask("list all files larger than 10 MB"), "find . -size +10M", "r1");
        life.cache.keep(ask("who wrote the opera Fidelio"), "Beethoven", "r1");
        life.cache.keep(ask("how high is Mont Blanc"), "4806 m", "r1");
        tell(**store, life.changes());
    }
    run_sql(folder.file(),
            "UPDATE examples SET answer = 'Mozart' WHERE answer = CAST('Beethoven' AS BLOB);"
            "UPDATE examples SET seal = x'00' WHERE answer = CAST('4806 m' AS BLOB)");
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    Life life;
    std::size_t taken = 0;
    for (const SavedExample& one : all_of(**store)) {
        taken += life.restore(one) ? 1 : 0;
    }
    CHECK(taken == 1);
    CHECK(life.cache.decide(ask("list all files larger than 20 MB")).chosen.examples.size() == 1);
}

TEST_CASE("examples are in the file whole or not at all after a kill", "[caching][in_context][store]") {
    const Folder folder;
    constexpr int kBatch = 16;
    Life writer;
    store_test::kill_while_writing(folder.file(),
                                   [&](std::uint64_t batch) {  // all examples of one batch have one answer
                                       for (int number = 0; number < kBatch; ++number) {
                                           writer.cache.keep(ask("question number " + std::to_string(number)),
                                                             std::to_string(batch) + std::string(1500, 'x'), "r1");
                                       }
                                       std::vector<caching::StoreChange> changes;
                                       for (SavedExample& one : writer.changes().put) {
                                           changes.emplace_back(std::move(one));
                                       }
                                       return changes;
                                   });
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    const auto all = all_of(**store);
    REQUIRE(all.size() == kBatch);
    Life life;
    for (const SavedExample& one : all) {
        CHECK(one.answer == all.front().answer);
        CHECK(life.restore(one));
    }
}
