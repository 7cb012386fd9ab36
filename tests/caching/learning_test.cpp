// What the semantic cache keeps beyond its life: questions and what was learnt of them.

#include <filesystem>
#include <map>
#include <random>
#include <variant>

#include "caching/semantic/semantic_cache.h"
#include "caching/store/sqlite_store.h"
#include "tests/caching/store_world.h"
#include "tests/support/catch.h"

using namespace std::chrono_literals;
using caching::HitKind;
using caching::Question;
using caching::SavedQuestion;
using caching::SemanticCache;
using caching::SemanticCacheOptions;
using caching::SqliteStore;
using store_test::Folder;

namespace {

/// A journal that remembers what a store would have.
struct Book final : caching::QuestionJournal {
    using Key = std::pair<std::uint64_t, std::uint64_t>;
    void put(SavedQuestion question) override { kept[{question.exact.high, question.exact.low}] = question; }
    void erase(std::vector<base::BlockHash> exact) override {
        for (const base::BlockHash& one : exact) {
            kept.erase({one.high, one.low});
        }
    }
    void learnt(std::string bytes) override { learning = std::move(bytes); }
    std::map<Key, SavedQuestion> kept;
    std::string learning;
};

struct Life {
    explicit Life(Book& book, SemanticCacheOptions options = {}) : cache(std::move(options), clock, hashed, hashed) {
        if (!book.learning.empty()) { learnt = cache.restore_learning(book.learning); }
        for (const auto& [key, question] : std::map(book.kept)) {
            restored += cache.restore(question) ? 1 : 0;
        }
        cache.set_journal(&book);
    }
    static Question ask(const std::string& text, const std::string& tenant = "acme") {
        Question question;
        question.tenant = tenant;
        question.model = "m";
        question.revision = "r1";
        question.messages = {{"system", "You answer questions about files."}, {"user", text}};
        return question;
    }
    static caching::Answer say(const std::string& content) {
        caching::Answer answer;
        answer.content = content;
        return answer;
    }
    void answer(const std::string& text, const std::string& content, const std::string& tenant = "acme") {
        const Question question = ask(text, tenant);
        cache.store(question, cache.lookup(question).probe, say(content), 2.0, {"handbook"});
    }
    HitKind kind(const std::string& text, const std::string& tenant = "acme") {
        return cache.lookup(ask(text, tenant)).kind;
    }

    base::FakeClock clock;
    caching::HashedEmbedder hashed;
    SemanticCache cache;
    int restored = 0;
    bool learnt = false;
};

const std::string kAsked = "How do I list hidden files in a folder?";
const std::string kReworded = "How can I list hidden files in a folder?";

}  // namespace

TEST_CASE("another life answers equal and similar questions, of the same tenant only", "[caching][learning]") {
    Book book;
    {
        Life first(book);
        first.answer(kAsked, "ls -a");
        first.clock.advance(10s);
        first.answer("How do I delete a folder?", "rm -r");
    }
    REQUIRE(book.kept.size() == 2);
    Life second(book);
    CHECK(second.restored == 2);
    const auto found = second.cache.lookup(Life::ask(kReworded));
    CHECK(found.kind == HitKind::semantic);
    CHECK(caching::from_document(found.document)->content == "ls -a");
    CHECK(second.kind(kAsked) == HitKind::exact);
    CHECK(second.kind(kAsked, "globex") == HitKind::none);
    CHECK(second.kind("How do I delete hidden files in a folder?") == HitKind::none);
    // And it can be purged by what it was kept with.
    caching::EntryFilter filter;
    filter.tag = "handbook";
    filter.model_revision = "r1";
    CHECK(second.cache.invalidate(filter, false).size() == 2);
    CHECK(book.kept.empty());
}

TEST_CASE("what goes is gone for the next life, whyever it goes", "[caching][learning]") {
    Book book;
    SemanticCacheOptions options;
    options.entries_max = 20;
    options.doorkeeper_from = 2.0;
    Life life(book, options);
    for (int number = 0; number < 100; ++number) {
        life.answer("What is the meaning of word" + std::to_string(number) + "?", "answer " + std::to_string(number));
    }
    CHECK(life.cache.counts().entries == 20);
    CHECK(book.kept.size() == 20);
    REQUIRE_FALSE(book.kept.empty());
    std::size_t there = 0;
    life.cache.for_each([&](const SemanticCache::EntryView& view) {
        for (const auto& [key, question] : book.kept) {
            there += question.document == view.document ? 1 : 0;
        }
    });
    CHECK(there == 20);
    life.cache.invalidate({}, false);
    CHECK(book.kept.empty());
}

TEST_CASE("time goes on while no process runs", "[caching][learning]") {
    Book book;
    {
        Life first(book);
        first.answer(kAsked, "ls -a");
    }
    for (auto& [key, question] : book.kept) {
        question.created_unix_us -= question.ttl_us - 5'000'000;  // five seconds are left of it
    }
    Life second(book);
    CHECK(second.restored == 1);
    CHECK(second.kind(kAsked) == HitKind::exact);
    second.clock.advance(6s);
    CHECK(second.kind(kAsked) == HitKind::none);
    for (auto& [key, question] : book.kept) {
        question.created_unix_us -= 10'000'000;
    }
    Life third(book);
    CHECK(third.restored == 0);
}

TEST_CASE("what is of another embedder, category or size is not kept", "[caching][learning]") {
    Book book;
    {
        Life first(book);
        first.answer(kAsked, "ls -a");
    }
    REQUIRE(book.kept.size() == 1);
    const SavedQuestion whole = book.kept.begin()->second;
    Book none;
    Life life(none);
    const auto refused = [&](auto change) {
        SavedQuestion one = whole;
        change(one);
        return !life.cache.restore(one);
    };
    CHECK(refused([](SavedQuestion& one) { one.embedder = "another"; }));
    CHECK(refused([](SavedQuestion& one) { one.category = "gone"; }));
    CHECK(refused([](SavedQuestion& one) { one.vector.pop_back(); }));
    CHECK(refused([](SavedQuestion& one) { one.document = one.document.substr(0, 20); }));
    CHECK(life.cache.restore(whole));
    CHECK_FALSE(life.cache.restore(whole));  // it is there
    SemanticCacheOptions small;
    small.bytes_max = 100;
    Life narrow(none, small);
    CHECK_FALSE(narrow.cache.restore(whole));
}

TEST_CASE("what was learnt, and a category that was switched off, outlive the process", "[caching][learning]") {
    Book book;
    std::size_t category = 0;
    std::size_t observations = 0;
    double probability = 0;
    caching::Evidence evidence;
    {
        SemanticCacheOptions options;
        options.shadow_share = 1.0;
        Life first(book, options);
        first.answer(kAsked, "ls -a");
        const auto hit = first.cache.lookup(Life::ask(kReworded));
        REQUIRE(hit.kind == HitKind::semantic);
        category = hit.probe.category;
        for (int wrong = 0; wrong < 200; ++wrong) {  // each comparison says that it was wrong
            first.cache.observe_shadow(Life::ask(kReworded + std::to_string(wrong)), hit.probe, Life::say("other"));
        }
        REQUIRE(first.cache.budget(category).state() == caching::ErrorBudget::State::exact_only);
        book.learning = first.cache.learning();
        observations = first.cache.calibration(category).observations();
        evidence = hit.probe.evidence;
        probability = first.cache.calibration(category).probability(evidence);
    }
    Life second(book);
    CHECK(second.learnt);
    CHECK(second.cache.budget(category).state() == caching::ErrorBudget::State::exact_only);
    CHECK(second.cache.budget(category).shadows() == 200);
    CHECK(second.cache.calibration(category).observations() == observations);
    CHECK(second.cache.calibration(category).probability(evidence) == Approx(probability));
    CHECK(second.kind("How might I list hidden files in a folder?") == HitKind::none);
    // The operator who throws everything away begins anew.
    second.cache.invalidate({}, false);
    CHECK(second.cache.budget(category).state() == caching::ErrorBudget::State::open);
    Life third(book);
    CHECK(third.learnt);
    CHECK(third.cache.budget(category).state() == caching::ErrorBudget::State::open);
}

TEST_CASE("a breach is told at once", "[caching][learning]") {
    Book book;
    Life life(book);
    life.answer(kAsked, "ls -a");
    const auto hit = life.cache.lookup(Life::ask(kReworded));
    for (int wrong = 0; wrong < 100 && book.learning.empty(); ++wrong) {
        life.cache.observe_shadow(Life::ask(kReworded + std::to_string(wrong)), hit.probe, Life::say("other"));
    }
    REQUIRE_FALSE(book.learning.empty());
    Life next(book);
    CHECK(next.learnt);
    CHECK(next.cache.budget(hit.probe.category).state() == caching::ErrorBudget::State::tight);
}

TEST_CASE("damaged learning is refused whole", "[caching][learning]") {
    Book book;
    Life life(book);
    for (std::size_t number = 0; number < 60; ++number) {
        life.answer("What is the meaning of word " + std::string(1 + number % 20, 'x') + "?", std::to_string(number));
    }
    const std::string whole = life.cache.learning();
    Book none;
    Life other(none);
    const std::string before = other.cache.learning();
    std::mt19937 random{7};
    for (int tried = 0; tried < 200; ++tried) {
        CHECK_FALSE(other.cache.restore_learning(whole.substr(0, random() % whole.size())));
    }
    CHECK_FALSE(other.cache.restore_learning(whole + "x"));
    CHECK_FALSE(other.cache.restore_learning(""));
    CHECK(other.cache.learning() == before);
    CHECK(other.cache.restore_learning(whole));
    CHECK(other.cache.learning() == whole);
}

TEST_CASE("questions are in the file whole or not at all after a kill", "[caching][store][learning]") {
    const Folder folder;
    Book book;
    SavedQuestion pattern;
    {
        Life life(book);
        life.answer(kAsked, "ls -a");
        pattern = book.kept.begin()->second;
    }
    constexpr std::uint64_t kBatch = 16;
    store_test::kill_while_writing(folder.file(), [&](std::uint64_t batch) {  // each batch has one text
        std::vector<caching::StoreChange> changes;
        for (std::uint64_t key = 0; key < kBatch; ++key) {
            SavedQuestion one = pattern;
            one.exact = {key, ~key};
            one.revision = std::to_string(batch);
            one.document = caching::to_document(Life::say(std::to_string(batch) + std::string(3000, 'x')));
            changes.emplace_back(std::move(one));
        }
        changes.emplace_back(caching::SavedLearning{std::to_string(batch)});
        return changes;
    });
    const auto all_of = [](SqliteStore& store) {
        std::vector<SavedQuestion> all;
        REQUIRE(store.load_questions([&](SavedQuestion one) {
            all.push_back(std::move(one));
            return true;
        }));
        return all;
    };
    auto store = SqliteStore::open(folder.file());
    REQUIRE(store);
    const auto all = all_of(**store);
    REQUIRE(all.size() == kBatch);
    for (const SavedQuestion& one : all) {
        CHECK(one.revision == all.front().revision);
        CHECK(one.document == all.front().document);
        CHECK(one.tags == pattern.tags);
        CHECK(one.meaning == pattern.meaning);
        CHECK(one.partition == pattern.partition);
        CHECK(one.ttl_us == pattern.ttl_us);
        CHECK(one.profile.content == pattern.profile.content);
        CHECK(one.profile.poles == pattern.profile.poles);
        REQUIRE(one.vector.size() == pattern.vector.size());
        double cosine = 0;
        for (std::size_t i = 0; i < one.vector.size(); ++i) {
            cosine += static_cast<double>(one.vector[i]) * static_cast<double>(pattern.vector[i]);
        }
        CHECK(cosine > 0.999);
    }
    CHECK((*store)->learning().value() == all.front().revision);
    REQUIRE((*store)->apply({caching::ErasedQuestions{{all[0].exact, all[1].exact}}}));
    CHECK(all_of(**store).size() == kBatch - 2);
}
