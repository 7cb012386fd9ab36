#include <sqlite3.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <vector>

#include "caching/store/sqlite_store.h"
#include "caching/store/write_behind.h"
#include "tests/caching/store_world.h"
#include "tests/support/catch.h"

using caching::SavedAnswer;
using caching::SqliteStore;
using caching::StoreChange;
using store_test::Folder;

namespace {

SavedAnswer make(std::uint64_t key, std::string text = "text", std::int64_t created = 1) {
    SavedAnswer answer;
    answer.key = {key, ~key};
    answer.tenant = "acme";
    answer.model = "m";
    answer.revision = "00ff";
    answer.tags = {"doc1", "doc 2"};
    answer.created_unix_us = created;
    answer.expires_unix_us = created + 10;
    answer.saved_s = 1.5;
    answer.answer = {.text = std::move(text),
                     .is_cut = false,
                     .stop_string = "\n",
                     .stop_token = 7,
                     .prompt_tokens = 3,
                     .cached_tokens = 2,
                     .completion_tokens = 5,
                     .reasoning_tokens = 4};
    return answer;
}

std::vector<SavedAnswer> all_of(SqliteStore& store) {
    std::vector<SavedAnswer> all;
    REQUIRE(store.load([&](SavedAnswer one) {
        all.push_back(std::move(one));
        return true;
    }));
    return all;
}

/// A store that fails on demand.
struct FailingStore final : caching::Store {
    explicit FailingStore(std::atomic<int>& of_batches) : batches(of_batches) {}
    base::Result<base::HashKey> hash_key() override { return base::HashKey{}; }
    base::Result<void> load(const std::function<bool(SavedAnswer)>&) override { return {}; }
    base::Result<void> load_questions(const std::function<bool(caching::SavedQuestion)>&) override { return {}; }
    base::Result<void> load_examples(const std::function<bool(caching::SavedExample)>&) override { return {}; }
    base::Result<std::string> learning() override { return std::string(); }
    base::Result<std::string> example_learning() override { return std::string(); }
    base::Result<void> apply(const std::vector<StoreChange>&) override {
        ++batches;
        return base::fail(base::ErrorCode::unavailable, "the disk is full");
    }
    std::atomic<int>& batches;
};

/// A store whose first batch fails; what it was given then stays given.
struct RecoveringStore final : caching::Store {
    struct Seen {
        std::atomic<int> batches = 0;
        std::atomic<int> erased = 0;
        std::atomic<int> put = 0;
    };
    explicit RecoveringStore(Seen& of) : seen(of) {}
    base::Result<base::HashKey> hash_key() override { return base::HashKey{}; }
    base::Result<void> load(const std::function<bool(SavedAnswer)>&) override { return {}; }
    base::Result<void> load_questions(const std::function<bool(caching::SavedQuestion)>&) override { return {}; }
    base::Result<void> load_examples(const std::function<bool(caching::SavedExample)>&) override { return {}; }
    base::Result<std::string> learning() override { return std::string(); }
    base::Result<std::string> example_learning() override { return std::string(); }
    base::Result<void> apply(const std::vector<StoreChange>& changes) override {
        if (++seen.batches == 1) { return base::fail(base::ErrorCode::unavailable, "the disk is full"); }
        for (const StoreChange& change : changes) {
            seen.erased += std::holds_alternative<caching::ErasedAnswers>(change) ? 1 : 0;
            seen.put += std::holds_alternative<SavedAnswer>(change) ? 1 : 0;
        }
        return {};
    }
    Seen& seen;
};

}  // namespace

TEST_CASE("answers are there after the store was closed, as they were, latest first", "[caching][store]") {
    const Folder folder;
    base::HashKey key;
    const std::string odd("a\0b\xff", 4);
    {
        auto store = SqliteStore::open(folder.file());
        REQUIRE(store);
        key = (*store)->hash_key().value();
        SavedAnswer plain = make(2, odd, 20);
        plain.answer.stop_string.reset();
        plain.answer.stop_token.reset();
        plain.tags.clear();
        REQUIRE((*store)->apply({make(1, "one", 10), plain, make(3, "gone", 30)}));
        REQUIRE((*store)->apply({caching::ErasedAnswers{{base::BlockHash{3, ~std::uint64_t{3}}}}, make(1, "new", 10)}));
    }
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    CHECK((*store)->hash_key().value() == key);
    const auto all = all_of(**store);
    REQUIRE(all.size() == 2);
    CHECK(all[0].answer.text == odd);
    CHECK_FALSE(all[0].answer.stop_string);
    CHECK_FALSE(all[0].answer.stop_token);
    CHECK(all[0].tags.empty());
    CHECK(all[1].answer == make(1, "new").answer);
    CHECK(all[1].key == make(1).key);
    CHECK(all[1].tenant == "acme");
    CHECK(all[1].revision == "00ff");
    CHECK(all[1].tags == make(1).tags);
    CHECK(all[1].expires_unix_us == 20);
    CHECK(all[1].saved_s == 1.5);
    const auto rights = std::filesystem::status(folder.file()).permissions();
    CHECK((rights & std::filesystem::perms::others_all) == std::filesystem::perms::none);
}

TEST_CASE("a file from before reasoning was counted is read, and goes on", "[caching][store]") {
    const Folder folder;
    {
        auto store = SqliteStore::open(folder.file());
        REQUIRE(store);
        REQUIRE((*store)->apply({make(1)}));
    }
    sqlite3* database = nullptr;
    REQUIRE(sqlite3_open(folder.file().c_str(), &database) == SQLITE_OK);
    CHECK(sqlite3_exec(database, "ALTER TABLE answers DROP COLUMN reasoning_tokens", nullptr, nullptr, nullptr) ==
          SQLITE_OK);
    sqlite3_close(database);
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    REQUIRE((*store)->apply({make(2, "text", 5)}));
    const auto all = all_of(**store);
    REQUIRE(all.size() == 2);
    CHECK(all[0].answer.reasoning_tokens == 4);
    CHECK(all[1].answer.reasoning_tokens == 0);
    CHECK(all[1].answer.text == "text");
}

TEST_CASE("a batch is there whole or not at all after a kill", "[caching][store]") {
    const Folder folder;
    constexpr std::uint64_t kBatch = 16;
    store_test::kill_while_writing(folder.file(), [](std::uint64_t batch) {  // each batch has one text
        std::vector<StoreChange> changes;
        for (std::uint64_t key = 0; key < kBatch; ++key) {
            changes.emplace_back(make(key, std::to_string(batch) + std::string(3000, 'x')));
        }
        return changes;
    });
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    const auto all = all_of(**store);
    REQUIRE(all.size() == kBatch);
    for (const SavedAnswer& one : all) {
        CHECK(one.answer.text == all.front().answer.text);
        CHECK(one.answer.text.ends_with(std::string(3000, 'x')));
    }
}

TEST_CASE("a file that is none of ours is refused with its name", "[caching][store]") {
    const Folder folder;
    std::ofstream(folder.file("other.db")) << std::string(5000, 'z');
    const auto other = SqliteStore::open(folder.file("other.db"));
    REQUIRE_FALSE(other);
    CHECK(other.error().message.find("other.db") != std::string::npos);
    const auto nowhere = SqliteStore::open(folder.file("none/answers.db"));
    REQUIRE_FALSE(nowhere);
    CHECK(nowhere.error().code == base::ErrorCode::unavailable);
}

TEST_CASE("what waits is written before the end, and nobody waits for it", "[caching][store]") {
    const Folder folder;
    {
        caching::WriteBehind behind(std::move(*SqliteStore::open(folder.file())), {});
        for (std::uint64_t key = 0; key < 1000; ++key) {
            behind.push(make(key));
        }
        CHECK(behind.lost() == 0);
    }
    auto store = SqliteStore::open(folder.file());
    CHECK(all_of(**store).size() == 1000);
}

TEST_CASE("a store that fails loses changes, and counts them", "[caching][store]") {
    std::atomic<int> batches = 0;
    std::uint64_t lost = 0;
    {
        caching::WriteBehind behind(std::make_unique<FailingStore>(batches), {.changes_max = 8, .batch_max = 4});
        for (std::uint64_t key = 0; key < 8; ++key) {
            behind.push(make(key));
        }
        const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
        while (behind.lost() < 8 && std::chrono::steady_clock::now() < end) {
            std::this_thread::yield();
        }
        lost = behind.lost();
        CHECK_FALSE(behind.is_well());
    }
    CHECK(lost == 8);
    CHECK(batches >= 2);
}

TEST_CASE("what was to go while the store failed goes when it is well again", "[caching][store]") {
    RecoveringStore::Seen seen;
    {
        caching::WriteBehind behind(std::make_unique<RecoveringStore>(seen), {.changes_max = 8, .batch_max = 1});
        CHECK(behind.push(caching::ErasedAnswers{{make(1).key}}));
        CHECK(behind.push(make(2)));
    }
    CHECK(seen.batches == 2);
    CHECK(seen.erased == 1);
    CHECK(seen.put == 1);
}
