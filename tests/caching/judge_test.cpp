#include <string>
#include <vector>

#include "caching/semantic/answer_judge.h"
#include "caching/semantic/semantic_cache.h"
#include "tests/support/catch.h"

using caching::HitKind;

namespace {

bool same(const std::string& one, const std::string& other) {
    const auto forth = caching::judge_answers(one, other);
    const auto back = caching::judge_answers(other, one);
    CHECK(forth.same == back.same);
    CHECK(forth.probability == Approx(back.probability));
    return forth.same;
}

}  // namespace

TEST_CASE("the same words in other clothes say the same", "[caching][judge]") {
    CHECK(same("It is Paris.", "it is **Paris**"));
    CHECK(same("Open the menu, then choose 'Save'.", "Open the menu - then choose \"Save\""));
    CHECK(same("# Answer\n\nThe sky is blue.", "Answer: the sky is blue"));
    CHECK(same("", ""));
}

TEST_CASE("marks that carry a meaning are no clothes", "[caching][judge]") {
    CHECK_FALSE(same("a > b", "a < b"));
    CHECK_FALSE(same("the value is -5", "the value is 5"));
    CHECK_FALSE(same("x = y", "x != y"));
    CHECK_FALSE(same("2*3", "2/3"));
    CHECK_FALSE(same("ls *.txt | wc", "ls *.txt"));
}

TEST_CASE("the same things said otherwise say the same", "[caching][judge]") {
    CHECK(same("Serialized datasets can be saved to cloud storage.",
               "You can save serialized datasets to a cloud storage."));
    CHECK(same("The shop opens on Monday at nine.", "On Monday the shop opens at nine."));
}

TEST_CASE("in one place something else says something else, or nobody knows", "[caching][judge]") {
    CHECK_FALSE(same("play the newest song of the red band", "play the newest song of the green band"));
    CHECK_FALSE(same("Use the command mkdir to make a folder", "Use the command rmdir to make a folder"));
}

TEST_CASE("a critical word otherwise says something else", "[caching][judge]") {
    const std::string said = "You can cancel the order within 14 days before it is sent to Spain.";
    for (const char* other : {"You can cancel the order within 15 days before it is sent to Spain.",
                              "You cannot cancel the order within 14 days before it is sent to Spain.",
                              "You can cancel the order within 14 days after it is sent to Spain.",
                              "You can cancel the order within 14 days before it is sent to France."}) {
        CAPTURE(other);
        CHECK_FALSE(same(said, other));
    }
    CHECK_FALSE(same("", said));
    CHECK_FALSE(same("Yes.", "No."));
}

TEST_CASE("of long answers only equal ones say the same", "[caching][judge]") {
    std::string one;
    for (int word = 0; word < 300; ++word) {
        one += "word ";
    }
    CHECK(same(one, " " + one));
    CHECK_FALSE(same(one + "left", one + "right"));
}

TEST_CASE("a cache with a judge takes an answer in other words for the same, and groups it", "[caching][judge]") {
    const auto learnt = [](bool judges) {
        caching::SemanticCacheOptions options;
        options.judges = judges;
        options.shadow_share = 1.0;
        base::FakeClock clock;
        caching::HashedEmbedder hashed;
        caching::SemanticCache cache(options, clock, hashed, hashed);
        const auto ask = [](const std::string& text) {
            caching::Question question;
            question.tenant = "acme";
            question.model = "m";
            question.messages = {{"user", text}};
            return question;
        };
        const auto say = [](const std::string& content) {
            caching::Answer answer;
            answer.content = content;
            return answer;
        };
        const auto first = ask("How do I list hidden files in a folder?");
        const auto second = ask("How can I list hidden files in a folder?");
        cache.store(first, cache.lookup(first).probe, say("Run ls with the flag -a in that folder."));
        auto hit = cache.lookup(second);
        REQUIRE(hit.kind == HitKind::semantic);
        REQUIRE(hit.shadow_wanted);
        cache.observe_shadow(second, hit.probe, say("**Run** `ls` with the flag -a in that folder"));
        const auto third = cache.lookup(ask("How could I list hidden files in the folder?"));
        return std::pair{cache.budget(hit.probe.category).shadow_errors(), third.probe.evidence.support};
    };
    CHECK(learnt(false) == std::pair<std::uint64_t, double>{1, 0.5});
    CHECK(learnt(true) == std::pair<std::uint64_t, double>{0, 1.0});
}
