#include "caching/semantic/semantic_cache.h"

#include <cmath>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "tests/support/catch.h"

using namespace std::chrono_literals;
using caching::HitKind;
using caching::Question;
using caching::SemanticCache;
using caching::SemanticCacheOptions;

namespace {

/// A cache, its clock, and a model that answers with what it is told.
struct Bench {
    explicit Bench(SemanticCacheOptions options = {}) : cache(std::move(options), clock, hashed, hashed) {}

    base::FakeClock clock;
    caching::HashedEmbedder hashed;
    SemanticCache cache;

    static Question ask(const std::string& text, const std::string& tenant = "acme") {
        Question question;
        question.tenant = tenant;
        question.model = "m";
        question.messages = {{"system", "You answer questions about files."}, {"user", text}};
        return question;
    }
    static caching::Answer say(const std::string& content) {
        caching::Answer answer;
        answer.content = content;
        return answer;
    }
    /// What was served, or empty after the model has answered `otherwise`.
    std::string turn(const Question& question, const std::string& otherwise) {
        caching::Lookup found = cache.lookup(question);
        if (found.kind != HitKind::none) { return caching::from_document(found.document)->content; }
        cache.store(question, std::move(found.probe), say(otherwise));
        return {};
    }
};

const std::string kAsked = "How do I list hidden files in a folder?";
const std::string kReworded = "How can I list hidden files in a folder?";

}  // namespace

TEST_CASE("equal and reworded questions are answered once", "[caching]") {
    Bench bench;
    CHECK(bench.turn(Bench::ask(kAsked), "ls -a").empty());
    CHECK(bench.cache.lookup(Bench::ask(kAsked)).kind == HitKind::exact);
    CHECK(bench.cache.lookup(Bench::ask("  " + kAsked + " ")).kind == HitKind::exact);
    const auto found = bench.cache.lookup(Bench::ask(kReworded));
    CHECK(found.kind == HitKind::semantic);
    CHECK(caching::from_document(found.document)->content == "ls -a");
    CHECK(bench.cache.lookup(Bench::ask("How do I delete hidden files in a folder?")).kind == HitKind::none);
}

TEST_CASE("an unrelated question is never answered (every question the same answer: LiteLLM #12234)", "[caching]") {
    Bench bench;
    bench.turn(Bench::ask(kAsked), "ls -a");
    for (const char* text :
         {"What is the capital of France?", "hello", "who are you", "Write a poem about the sea", "?"}) {
        CAPTURE(text);
        CHECK(bench.cache.lookup(Bench::ask(text)).kind == HitKind::none);
    }
}

TEST_CASE("tenants never see each other (semantic-router #1448 and #2134, OWASP LLM08 #126)", "[caching]") {
    Bench bench;
    bench.turn(Bench::ask(kAsked, "acme"), "of acme");
    CHECK(bench.turn(Bench::ask(kAsked, "globex"), "of globex").empty());
    CHECK(bench.turn(Bench::ask(kReworded, "initech"), "of initech").empty());
    CHECK(bench.turn(Bench::ask(kAsked, "globex"), "") == "of globex");
    CHECK(bench.turn(Bench::ask(kReworded, "globex"), "") == "of globex");
}

TEST_CASE("the same words in another conversation are another question (GPTCache #8)", "[caching]") {
    Bench bench;
    const auto about = [](const std::string& who, const std::string& text) {
        Question question = Bench::ask(text);
        question.messages.insert(question.messages.begin() + 1, {"user", "Tell me of " + who});
        return question;
    };
    bench.turn(about("Ada Lovelace", "How old did she get?"), "36");
    CHECK(bench.turn(about("Grace Hopper", "How old did she get?"), "85").empty());
    CHECK(bench.turn(Bench::ask("How old did she get?"), "who?").empty());
    CHECK(bench.turn(about("Ada Lovelace", "How old did she get?"), "") == "36");
    CHECK(bench.turn(about("Ada  Lovelace ", " How old did she  get? "), "") == "36");
}

TEST_CASE("a false answer can be taken back (semantic-router #1581)", "[caching]") {
    Bench bench;
    bench.turn(Bench::ask(kAsked), "rm -rf");
    const auto found = bench.cache.lookup(Bench::ask(kAsked));
    REQUIRE(found.kind == HitKind::exact);
    CHECK(bench.cache.report_wrong(found.entry));
    CHECK(bench.cache.lookup(Bench::ask(kAsked)).kind == HitKind::none);
    CHECK(bench.cache.lookup(Bench::ask(kReworded)).kind == HitKind::none);
    CHECK_FALSE(bench.cache.report_wrong(found.entry));
}

TEST_CASE("a full cache goes on answering (100 % misses once full: semantic-router #2313)", "[caching]") {
    SemanticCacheOptions options;
    options.entries_max = 50;
    options.doorkeeper_from = 2;  // everybody in: the hardest case
    Bench bench(options);
    for (int i = 0; i < 500; ++i) {
        const auto question = Bench::ask("What does the word of number " + std::to_string(i) + " mean?");
        CHECK(bench.turn(question, "answer " + std::to_string(i)).empty());
        CHECK(bench.turn(question, "") == "answer " + std::to_string(i));
        bench.clock.advance(1s);
    }
    CHECK(bench.cache.counts().entries == 50u);
    CHECK(bench.cache.counts().evicted == 450u);
}

TEST_CASE("at the door a full cache wants to see a question twice", "[caching]") {
    SemanticCacheOptions options;
    options.entries_max = 10;
    Bench bench(options);
    for (int i = 0; i < 30; ++i) {
        bench.turn(Bench::ask("Unique question " + std::to_string(i)), "x");
    }
    CHECK(bench.cache.counts().turned_away > 0u);
    const auto asked = Bench::ask("Is this one asked often?");
    CHECK(bench.turn(asked, "yes").empty());
    CHECK(bench.turn(asked, "yes").empty());  // now it is known at the door
    CHECK(bench.turn(asked, "") == "yes");
}

TEST_CASE("answers end with their time, earlier when they have changed, later when not", "[caching]") {
    SemanticCacheOptions options;
    for (auto& policy : options.categories) {
        policy.ttl_ms = 90'000;
        policy.ttl_longest_ms = 240'000;
    }
    Bench bench(options);
    /// How long the answer that is kept now is served, to 5 s; the model then says `then`.
    const auto lives_s = [&](const std::string& then) {
        int seconds = 0;
        while (bench.cache.lookup(Bench::ask(kAsked)).kind != HitKind::none) {
            bench.clock.advance(5s);
            seconds += 5;
        }
        bench.turn(Bench::ask(kAsked), then);
        return seconds;
    };
    bench.turn(Bench::ask(kAsked), "one");
    CHECK(lives_s("one") == 90);
    int before = 90;
    for (int again = 0; again < 20; ++again) {  // it stays: the more often that was seen, the longer it lives
        const int now = lives_s("one");
        CHECK(now >= before);
        before = now;
    }
    CHECK(before == 240);  // but no longer than may be
    lives_s("two");
    const int changed = lives_s("three");
    CHECK(changed < 240);
    CHECK(lives_s("four") < changed);
    for (int again = 0; again < 20; ++again) {
        before = lives_s("number " + std::to_string(again));
    }
    CHECK(before == 30);  // and no shorter than that
    CHECK(bench.cache.counts().entries == 1u);
}

TEST_CASE("an answer whose kind was seen to change lives shorter the next time, others' answers tell", "[caching]") {
    const auto second_life_s = [](bool others_change) {
        SemanticCacheOptions options;
        for (auto& policy : options.categories) {
            policy.error_target = 0;  // equal questions only
            policy.ttl_ms = 600'000;
            policy.ttl_longest_ms = 6'000'000;
        }
        Bench bench(options);
        for (int round = 0; round < 8; ++round) {
            for (const char* thing : {"a server", "a disk", "an archive"}) {
                bench.turn(Bench::ask(std::string("How do I list hidden files in a folder of ") + thing + "?"),
                           others_change ? std::to_string(round) : "the same");
            }
            bench.clock.advance(7000s);
        }
        bench.turn(Bench::ask(kAsked), "ls -a");
        bench.clock.advance(601s);
        bench.turn(Bench::ask(kAsked), "ls -a");
        int seconds = 0;
        while (bench.cache.lookup(Bench::ask(kAsked)).kind != HitKind::none) {
            bench.clock.advance(10s);
            seconds += 10;
        }
        return seconds;
    };
    CHECK(second_life_s(true) < 600);
    CHECK(second_life_s(false) > 600);
}

TEST_CASE("what changes soon lives a minute, and what is calculated is answered to equal questions only", "[caching]") {
    Bench bench;
    const auto news = Bench::ask("Who is the current president of Peru right now?");
    bench.turn(news, "A");
    bench.clock.advance(91s);
    CHECK(bench.turn(news, "B").empty());
    const std::string sum =
        "Tom has 12 apples and buys 5 boxes of 8 apples each. He gives half of all the apples to "
        "his 3 friends. How many apples does Tom have left?";
    bench.turn(Bench::ask(sum), "26");
    CHECK(bench.turn(Bench::ask(sum), "") == "26");
    CHECK(bench.turn(Bench::ask("Please: " + sum), "?").empty());
}

TEST_CASE(
    "entries go by tenant, revision, tag, age and meaning, after a dry run (no way to invalidate: prompt-cache #8)",
    "[caching]") {
    Bench bench;
    const auto put = [&](Question question, const std::string& revision, std::vector<std::string> tags) {
        question.revision = revision;
        auto found = bench.cache.lookup(question);
        bench.cache.store(question, std::move(found.probe), Bench::say("x"), 1.0, std::move(tags));
    };
    put(Bench::ask(kAsked), "1", {"doc-7"});
    put(Bench::ask("What is a symbolic link?"), "2", {});
    put(Bench::ask("What is a symbolic link?", "globex"), "2", {"doc-7", "doc-8"});
    const auto count = [&](const caching::EntryFilter& filter) { return bench.cache.invalidate(filter, true).size(); };
    caching::EntryFilter by_tenant;
    by_tenant.tenant = "globex";
    CHECK(count(by_tenant) == 1u);
    caching::EntryFilter by_revision;
    by_revision.model_revision = "2";
    CHECK(count(by_revision) == 2u);
    caching::EntryFilter by_tag;
    by_tag.tag = "doc-7";
    CHECK(count(by_tag) == 2u);
    caching::EntryFilter by_meaning;
    by_meaning.near_text = kReworded;
    by_meaning.near_similarity = 0.7;
    CHECK(count(by_meaning) == 1u);
    caching::EntryFilter by_age;
    by_age.older_than = 10s;
    CHECK(count(by_age) == 0u);
    bench.clock.advance(11s);
    CHECK(count(by_age) == 3u);
    CHECK(bench.cache.counts().entries == 3u);  // all of that was dry
    CHECK(bench.cache.invalidate(by_tag, false).size() == 2u);
    CHECK(bench.cache.counts().entries == 1u);
    CHECK(bench.cache.invalidate(caching::EntryFilter{}, false).size() == 1u);
    CHECK(bench.cache.counts().bytes == 0u);
    CHECK(bench.cache.counts().partitions == 0u);
}

TEST_CASE("a tenant fills its share and no more", "[caching]") {
    SemanticCacheOptions options;
    options.bytes_max = 100'000;
    options.tenant_share = 0.2;
    options.doorkeeper_from = 2;
    Bench bench(options);
    bench.turn(Bench::ask(kAsked, "small"), "kept");
    for (int i = 0; i < 300; ++i) {
        bench.turn(Bench::ask("Question number " + std::to_string(i), "loud"), "x");
    }
    CHECK(bench.cache.counts().bytes <= 40'000u);
    CHECK(bench.turn(Bench::ask(kAsked, "small"), "") == "kept");
}

TEST_CASE("a wrong guess teaches: the same likeness is not trusted again", "[caching]") {
    Bench bench;
    std::size_t served = 0;
    for (int i = 0; i < 400; ++i) {
        const std::string word = "thing" + std::to_string(i);
        bench.turn(Bench::ask("What is a " + word + " in a kernel"), "first " + word);
        auto found = bench.cache.lookup(Bench::ask("Can you tell me about a " + word + " and the kernel"));
        if (found.kind == HitKind::none) {
            bench.cache.store(Bench::ask("Can you tell me about a " + word + " and the kernel"), std::move(found.probe),
                              Bench::say("second " + word));
        } else if (i >= 200) {
            ++served;
        }
        if (found.kind == HitKind::semantic) {  // all of them are looked at here
            bench.cache.observe_shadow(Bench::ask("Can you tell me about a " + word + " and the kernel"),
                                       std::move(found.probe), Bench::say("second " + word));
        }
    }
    CHECK(served == 0u);
}

TEST_CASE("a category that costs more than it brings is searched seldom until it pays", "[caching]") {
    /// Takes 10 ms a text.
    struct SlowEmbedder final : caching::Embedder {
        explicit SlowEmbedder(base::FakeClock& of) : clock(of) {}
        std::string name() const override { return inner.name(); }
        std::size_t dimensions() const override { return inner.dimensions(); }
        base::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override {
            clock.advance(10ms);
            ++calls;
            return inner.embed(texts);
        }
        base::FakeClock& clock;
        caching::HashedEmbedder inner;
        std::size_t calls = 0;
    };
    using caching::CategoryAccount;
    base::FakeClock clock;
    SlowEmbedder embedder(clock);
    SemanticCacheOptions options;
    options.shadow_share = 0;
    SemanticCache cache(options, clock, embedder, embedder.inner);
    auto kept = cache.lookup(Bench::ask(kAsked));
    const std::size_t category = kept.probe.category;
    cache.store(Bench::ask(kAsked), std::move(kept.probe), Bench::say("ls -a"), 5.0);
    const auto searches = [&](const std::string& text) {
        const std::size_t before = embedder.calls;
        const caching::Lookup found = cache.lookup(Bench::ask(text));
        REQUIRE(found.probe.category == category);
        return embedder.calls - before;
    };
    // One hit of 5 s pays for 500 searches of 10 ms.
    const std::string stranger = "How do I sort the files in a folder by their size?";
    REQUIRE(cache.lookup(Bench::ask(kReworded)).kind == HitKind::semantic);
    for (std::uint32_t count = 1; count < CategoryAccount::kWindow; ++count) {
        CHECK_FALSE(cache.account(category).is_in_deficit());
        REQUIRE(searches(stranger) == 1);
    }
    CHECK(cache.account(category).is_in_deficit());
    CHECK(cache.account(category).earned_s() > 2.0);
    CHECK(cache.account(category).spent_s() == Approx(0.01 * CategoryAccount::kWindow));
    // Equal questions are answered all the same, and of others few are searched for.
    CHECK(cache.lookup(Bench::ask(kAsked)).kind == HitKind::exact);
    std::size_t probes = 0;
    for (std::uint32_t count = 0; count < 4 * CategoryAccount::kProbeEvery; ++count) {
        probes += searches(stranger);
    }
    CHECK(probes == 4);
    // Hits among them open it again.
    while (cache.account(category).is_in_deficit()) {
        probes += searches(kReworded);
        REQUIRE(probes <= CategoryAccount::kProbesJudged);
    }
    CHECK(searches(stranger) == 1);
}

TEST_CASE("without similarity only equal questions are answered", "[caching]") {
    SemanticCacheOptions options;
    options.semantic = false;
    Bench bench(options);
    bench.turn(Bench::ask(kAsked), "ls -a");
    CHECK(bench.turn(Bench::ask(kAsked), "") == "ls -a");
    CHECK(bench.turn(Bench::ask(kReworded), "x").empty());
    CHECK(bench.cache.counts().partitions == 0u);
}

TEST_CASE("settings of categories are read, and wrong ones named", "[caching]") {
    base::Config config;
    REQUIRE(
        config.add_text("caching:\n  semantic:\n    entries_max: 7\n    categories:\n      code:\n"
                        "        error_target: 0.001\n      legal:\n        similarity: false\n"
                        "        prototypes: [\"Is this contract valid?\"]\n",
                        "test"));
    SemanticCacheOptions options;
    caching::read_semantic_options(config, options);
    REQUIRE(config.finish());
    CHECK(options.entries_max == 7u);
    CHECK(options.categories[1].error_target == 0.001);
    REQUIRE(options.categories.size() == caching::kBuiltInCategories + 1);
    CHECK(options.categories.back().name == "legal");
    const caching::HashedEmbedder hashed;
    const caching::CategoryClassifier classifier(options.categories, hashed);
    CHECK(classifier.classify("Is this contract valid please?") == caching::kBuiltInCategories);

    base::Config wrong;
    REQUIRE(wrong.add_text("caching:\n  semantic:\n    categories:\n      mine:\n        ttl_ms: 5\n", "test"));
    caching::read_semantic_options(wrong, options);
    CHECK_FALSE(wrong.finish());
}

namespace {

/// Vectors in a plane, by the angle in degrees that a test gives each text.
struct Angles final : caching::Embedder {
    std::string name() const override { return "angles"; }
    std::size_t dimensions() const override { return 2; }
    base::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override {
        std::vector<std::vector<float>> vectors;
        for (const std::string& text : texts) {
            const double angle = degrees.at(text) * 3.14159265358979 / 180;
            vectors.push_back({static_cast<float>(std::cos(angle)), static_cast<float>(std::sin(angle))});
        }
        return vectors;
    }
    std::map<std::string, double> degrees;
};

}  // namespace

TEST_CASE("near questions vote for an answer, but equal words come before votes", "[caching]") {
    base::FakeClock clock;
    caching::HashedEmbedder hashed;
    Angles angles;
    SemanticCacheOptions options;
    for (auto& category : options.categories) {
        category.error_target = 0;  // nothing is served by similarity: all of it is stored
    }
    SemanticCache cache(options, clock, angles, hashed);
    const auto store = [&](const std::string& text, double degrees, const std::string& answer) {
        angles.degrees[text] = degrees;
        const Question question = Bench::ask(text);
        cache.store(question, cache.lookup(question).probe, Bench::say(answer));
    };
    store("How do I repair the kettle in my office?", 1, "kettle");
    store("How do I repair the toaster in my office?", 2, "toaster");
    store("How do I repair the toaster beside my office?", 2.5, "toaster");
    store("How do I repair the toaster behind my office?", 3, "toaster");
    const auto candidate = [&](const std::string& text) {
        angles.degrees[text] = 0;
        return cache.lookup(Bench::ask(text)).probe;
    };
    const auto by_votes = candidate("How do I repair the printer in my office?");
    REQUIRE(by_votes.has_candidate);
    CHECK(by_votes.candidate_meaning == caching::meaning_of(Bench::say("toaster")));
    CHECK(by_votes.evidence.vote > 0);
    CHECK(by_votes.evidence.rival > by_votes.evidence.similarity);  // the nearest one's
    const auto by_words = candidate("Please tell me how to repair the kettle in the office.");
    REQUIRE(by_words.has_candidate);
    CHECK(by_words.candidate_meaning == caching::meaning_of(Bench::say("kettle")));
    CHECK(by_words.evidence.vote < 0);
}

TEST_CASE("where nearly all questions are of one kind, the others are taken for it", "[caching]") {
    SemanticCacheOptions options;
    for (auto& category : options.categories) {
        category.error_target = 0;  // nothing is served by similarity: all of it is stored
    }
    Bench bench(options);
    const caching::CategoryClassifier classifier(options.categories, bench.hashed);
    constexpr std::size_t kSupport = 0;
    constexpr std::size_t kMaths = 2;
    constexpr std::size_t kFrom = 32;
    std::vector<std::string> support;
    for (const char* thing : {"card", "transfer", "payment", "refund", "top up", "cash withdrawal", "account", "PIN"}) {
        for (const char* form : {"How do I cancel my ", "Why was my ", "Where can I see my ", "I still wait for my ",
                                 "Can you help me with my ", "There is a fee for my "}) {
            const std::string text =
                std::string(form) + thing + (std::string(form).starts_with("Why") ? " declined?" : "?");
            if (classifier.classify(text) == kSupport && support.size() < kFrom) { support.push_back(text); }
        }
    }
    REQUIRE(support.size() == kFrom);
    const std::string other = "Who painted the portrait of the merchant and his wife?";
    const std::string changing = "Who is currently the best chess player?";
    const std::string maths =
        "Tom has 3 boxes with 12 apples each and gives 7 apples to Ann. How many apples does Tom have left?";
    REQUIRE(classifier.classify(other) == caching::kGeneral);
    REQUIRE(classifier.classify(changing) == caching::kVolatile);
    REQUIRE(classifier.classify(maths) == kMaths);
    const auto kind = [&](const std::string& text, const std::string& tenant = "acme") {
        return bench.cache.lookup(Bench::ask(text, tenant)).probe.category;
    };
    for (std::size_t at = 0; at < kFrom; ++at) {
        CHECK(kind(other) == caching::kGeneral);
        bench.turn(Bench::ask(support[at]), "answer " + std::to_string(at));
    }
    CHECK(kind(other) == kSupport);
    CHECK(kind(changing) == caching::kVolatile);
    CHECK(kind(maths) == kMaths);
    CHECK(kind(other, "umbrella") == caching::kGeneral);
    // No kind has nine of ten any more.
    for (const char* game : {"go", "poker", "bridge", "tennis"}) {
        const std::string text = "Who is currently the best player of " + std::string(game) + "?";
        REQUIRE(kind(text) == caching::kVolatile);
        bench.turn(Bench::ask(text), "answer");
    }
    CHECK(kind(other) == caching::kGeneral);
}
