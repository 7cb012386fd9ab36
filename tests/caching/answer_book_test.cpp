#include "caching/exact/answer_book.h"

#include <random>
#include <set>

#include "tests/support/catch.h"

using caching::AnswerBook;
using caching::AnswerFilter;
using caching::SavedAnswer;

namespace {

SavedAnswer make(std::uint64_t key, const std::string& tenant = "a", std::size_t text_bytes = 10) {
    SavedAnswer answer;
    answer.key = {0, key};
    answer.tenant = tenant;
    answer.answer.text = std::string(text_bytes, 'x');
    return answer;
}

}  // namespace

TEST_CASE("what was used longest ago goes first", "[caching]") {
    AnswerBook book({.entries_max = 3});
    for (const std::uint64_t key : {1U, 2U, 3U}) {
        CHECK(book.put(make(key)).empty());
    }
    CHECK(book.find({0, 1}) != nullptr);
    const auto gone = book.put(make(4));
    REQUIRE(gone.size() == 1);
    CHECK(gone.front().low == 2);
    CHECK(book.find({0, 2}) == nullptr);
    CHECK(book.find({0, 1}) != nullptr);
    CHECK(book.counts().evicted == 1);
}

TEST_CASE("a tenant that fills its share pushes out its own", "[caching]") {
    const std::size_t one = make(1, "a", 1000).bytes();
    AnswerBook book({.entries_max = 1000, .bytes_max = 10 * one, .tenant_share = 0.3});
    book.put(make(100, "b", 1000));
    for (std::uint64_t key = 1; key <= 20; ++key) {
        book.put(make(key, "a", 1000));
    }
    CHECK(book.counts().entries == 4);
    CHECK(book.find({0, 100}) != nullptr);
    CHECK(book.find({0, 20}) != nullptr);
    const auto too_large = book.put(make(21, "a", 9000));
    REQUIRE(too_large.size() == 1);
    CHECK(too_large.front().low == 21);
}

TEST_CASE("a new answer takes the place of the old one", "[caching]") {
    AnswerBook book({});
    book.put(make(1, "a", 10));
    const std::size_t bytes = book.counts().bytes;
    book.put(make(1, "a", 30));
    CHECK(book.counts().entries == 1);
    CHECK(book.counts().bytes == bytes + 20);
    CHECK(book.find({0, 1})->answer.text.size() == 30);
}

TEST_CASE("a filter means what all of its parts mean", "[caching]") {
    AnswerBook book({});
    SavedAnswer tagged = make(1, "a");
    tagged.tags = {"doc1", "doc2"};
    tagged.revision = "r1";
    tagged.created_unix_us = 100;
    book.put(tagged);
    book.put(make(2, "a"));
    book.put(make(3, "b"));
    const auto count = [&](const AnswerFilter& filter) { return book.purge(filter, true).size(); };
    AnswerFilter filter;
    CHECK(count(filter) == 3);
    filter.tenant = "a";
    CHECK(count(filter) == 2);
    filter.tag = "doc2";
    CHECK(count(filter) == 1);
    filter.revision = "r2";
    CHECK(count(filter) == 0);
    AnswerFilter old;
    old.created_before_unix_us = 50;
    CHECK(book.purge(old, false).size() == 2);
    CHECK(book.counts().entries == 1);
}

TEST_CASE("bounds hold through any traffic", "[caching]") {
    std::mt19937 random{7};
    AnswerBook book({.entries_max = 40, .bytes_max = 40'000, .tenant_share = 0.4});
    std::set<std::uint64_t> there;
    for (int step = 0; step < 5000; ++step) {
        const std::uint64_t key = random() % 200;
        const std::string tenant(1, static_cast<char>('a' + random() % 5));
        if (random() % 3 == 0) {
            REQUIRE((book.find({0, key}) != nullptr) == there.contains(key));
            continue;
        }
        there.insert(key);
        for (const auto& gone : book.put(make(key, tenant, random() % 2000))) {
            there.erase(gone.low);
        }
        REQUIRE(book.counts().entries == there.size());
        REQUIRE(book.counts().entries <= 40);
        REQUIRE(book.counts().bytes <= 40'000);
    }
    book.purge({}, false);
    CHECK(book.counts().bytes == 0);
}
