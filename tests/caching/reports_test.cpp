// What users of other caches have reported, as tests of ours; more of them stand beside what they are about (look for
// #).
#include <random>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "caching/semantic/semantic_cache.h"
#include "tests/support/catch.h"

using caching::HitKind;
using caching::Message;
using caching::Question;

namespace {

struct Cache {
    explicit Cache(caching::SemanticCacheOptions options = {}) : cache(std::move(options), clock, hashed, hashed) {}
    /// The model answers what is not served; what was served, else empty.
    std::string turn(const Question& question, const std::string& otherwise) {
        caching::Lookup found = cache.lookup(question);
        if (found.kind != HitKind::none) { return caching::from_document(found.document)->content; }
        caching::Answer answer;
        answer.content = otherwise;
        cache.store(question, std::move(found.probe), answer);
        return {};
    }
    base::FakeClock clock;
    caching::HashedEmbedder hashed;
    caching::SemanticCache cache;
};

Question talk(std::vector<Message> messages) {
    Question question;
    question.tenant = "acme";
    question.model = "m";
    question.messages = std::move(messages);
    return question;
}

Question ask(const std::string& text) {
    return talk({{"user", text}});
}

}  // namespace

TEST_CASE("consecutive turns of an agent are never answered from an earlier one (LiteLLM docs #833)", "[caching]") {
    Cache one;
    const auto loop = [](const std::string& seen) {
        return talk({{"user", "Is the build green?"}, {"assistant", ""}, {"tool", seen}, {"user", "go on"}});
    };
    CHECK(one.turn(loop("red"), "fix it").empty());
    CHECK(one.turn(loop("red"), "fix it").empty());
    CHECK(one.turn(loop("green"), "done").empty());
    CHECK(one.cache.lookup(loop("red")).reason == caching::Uncacheable::agent);
    CHECK(one.cache.counts().entries == 0);
}

TEST_CASE("a conversation hits with its whole history and only with it (zeph #1372, then #1375)", "[caching]") {
    Cache one;
    const auto about = [](const std::string& who, const std::string& blank = " ") {
        return talk(
            {{"user", "Tell me about" + blank + who}, {"assistant", "Born long ago."}, {"user", "Where did he die?"}});
    };
    CHECK(one.turn(about("Mozart"), "Vienna").empty());
    CHECK(one.turn(about("Mozart", "  "), "") == "Vienna");  // the same conversation, formatted otherwise
    CHECK(one.turn(about("Chopin"), "Paris").empty());       // the same last words after another one
    CHECK(one.turn(ask("Where did he die?"), "who?").empty());
}

TEST_CASE("a nearest question that may not answer hides no other one that may (semantic-router #2030)", "[caching]") {
    Cache one;
    one.turn(ask("How do I list 5 hidden files in a folder?"), "five");
    one.turn(ask("How can I list 7 hidden files in a folder?"), "seven");
    CHECK(one.turn(ask("How do I list 7 hidden files in a folder?"), "") == "seven");
    CHECK(one.turn(ask("How can I list 5 hidden files in a folder?"), "") == "five");
}

TEST_CASE("what is hashed beside the question leaves the question to likeness (LiteLLM #29086)", "[caching]") {
    Cache one;
    Question question = ask("How do I list hidden files in a folder?");
    question.parameters = "max_tokens=100";
    one.turn(question, "ls -a");
    Question reworded = ask("How can I list hidden files in a folder?");
    reworded.parameters = "max_tokens=100";
    CHECK(one.turn(reworded, "") == "ls -a");
    reworded.parameters = "max_tokens=5";
    CHECK(one.turn(reworded, "ls").empty());
}

TEST_CASE("of thousands of pairs of different questions none answers the other (hydra #945)", "[caching]") {
    Cache one;
    const std::vector<std::string> verbs = {"open",  "close", "rename", "compress", "encrypt",
                                            "print", "share", "delete", "copy",     "count"};
    const std::vector<std::string> things = {"a folder",       "an archive", "the journal", "my mailbox",
                                             "this partition", "a symlink",  "the spool",   "a certificate",
                                             "the clipboard",  "a snapshot"};
    std::size_t wrong = 0;
    for (const std::string& verb : verbs) {
        for (const std::string& thing : things) {
            const std::string served =
                one.turn(ask("How do I " + verb + " " + thing + " on my machine?"), verb + thing);
            wrong += served.empty() || served == verb + thing ? 0 : 1;
        }
    }
    CHECK(wrong == 0);
}

TEST_CASE("a conversation with somebody else's pronoun is another one (GPTCache #411, LightRAG #3510)", "[caching]") {
    Cache one;
    const auto then = [](const std::string& first) {
        return talk({{"user", first}, {"assistant", "Yes."}, {"user", "How old is she?"}});
    };
    one.turn(then("Do you know Marie Curie?"), "66");
    CHECK(one.turn(then("Do you know Ada Lovelace?"), "36").empty());
    CHECK(one.turn(then("Do you know Marie Curie?"), "") == "66");
}

TEST_CASE("questions about one thing are not answered with another one's, however often they come (GPTCache #388)",
          "[caching]") {
    Cache one;
    const std::vector<std::pair<std::string, std::string>> questions = {
        {"what is TV ?", "a device"},
        {"can you explain what function of TV is ?", "to show programmes"},
        {"can you tell me more about TV ?", "a device"},
        {"what is the function of money ?", "to pay"}};
    std::set<std::string> kept;
    for (int loop = 0; loop < 5; ++loop) {
        for (const auto& [question, answer] : questions) {
            const std::string served = one.turn(ask(question), answer);
            CHECK((served.empty() || served == answer));
            CHECK((!kept.contains(question) || served == answer));  // an equal question always hits (LiteLLM #6954)
            if (served.empty()) { kept.insert(question); }
        }
    }
    CHECK(kept.size() >= 3);
}

TEST_CASE("the first answer is not everybody's (GPTCache #379, AI-Gateway #63, LiteLLM #6954)", "[caching]") {
    Cache one;
    one.turn(ask("hello world"), "receive a hello message");
    for (const char* other :
         {"bye", "hello", "What time is it?", "what are the best cars", "2+2", "x", "hello worlds apart"}) {
        CAPTURE(other);
        CHECK(one.turn(ask(other), std::string("about ") + other).empty());
    }
    CHECK(one.turn(ask("hello world"), "") == "receive a hello message");
    CHECK(one.turn(ask("what are the best cars"), "") == "about what are the best cars");
}

TEST_CASE("a reworded question hits every time, not only once (LiteLLM #31610)", "[caching]") {
    Cache one;
    one.turn(ask("How do I list hidden files in a folder?"), "ls -a");
    for (int i = 0; i < 20; ++i) {
        CHECK(one.turn(ask("How can I list hidden files in a folder?"), "") == "ls -a");
    }
}

TEST_CASE("wrong answers stay within the target, whoever asks what (GPTCache #549: about 80 % right at best)",
          "[caching]") {
    // Questions of one form whose answers hang on a word that means nothing to the gates: the hardest kind.
    Cache one;
    std::mt19937 random{7};
    std::size_t hits = 0;
    std::size_t wrong = 0;
    for (int i = 0; i < 6000; ++i) {
        const std::string thing = "gadget" + std::string(1, static_cast<char>('a' + random() % 26)) +
                                  std::string(1, static_cast<char>('a' + random() % 26));
        const std::string frame = random() % 2 == 0 ? "How do I repair the " : "Please tell me how to repair the ";
        const std::string served = one.turn(ask(frame + thing + " in my office"), thing);
        hits += served.empty() ? 0 : 1;
        wrong += served.empty() || served == thing ? 0 : 1;
    }
    CAPTURE(hits, wrong);
    CHECK(hits > 3000);
    CHECK(static_cast<double>(wrong) <= 0.01 * static_cast<double>(hits));
}

TEST_CASE("a higher least similarity lets less through, not more (documented the wrong way: semantic-router #578)",
          "[caching]") {
    const auto hits_at = [](double least) {
        caching::SemanticCacheOptions options;
        for (auto& category : options.categories) {
            category.similarity_min = least;
        }
        Cache one(options);
        one.turn(ask("How do I list hidden files in a folder?"), "ls -a");
        return one.turn(ask("How can I list hidden files in a folder?"), "").empty() ? 0 : 1;
    };
    CHECK(hits_at(0.0) == 1);
    CHECK(hits_at(1.0) == 0);
}

TEST_CASE("what is over makes room, and nothing grows (ageing: semantic-router #702 and #2288)", "[caching]") {
    caching::SemanticCacheOptions options;
    options.entries_max = 100;
    options.doorkeeper_from = 2;
    for (auto& category : options.categories) {
        category.ttl_ms = category.ttl_longest_ms = 60'000;
    }
    Cache one(options);
    std::size_t bytes_most = 0;
    for (int round = 0; round < 20; ++round) {
        for (int i = 0; i < 100; ++i) {
            const std::string name = "round " + std::to_string(round) + " item " + std::to_string(i);
            CHECK(one.turn(ask("What is " + name + "?"), name).empty());
        }
        const auto counts = one.cache.counts();
        CHECK(counts.entries <= 100);
        CHECK(counts.partitions <= 1);
        // The second round's entries are the largest there are: all later ones are as long.
        if (round == 1) { bytes_most = counts.bytes + counts.bytes / 4; }
        CHECK((round < 2 || counts.bytes <= bytes_most));
        one.clock.advance(std::chrono::minutes(2));
    }
    one.turn(ask("What is the last one?"), "this");
    CHECK(one.turn(ask("What is the last one?"), "") == "this");
}

TEST_CASE("texts that are made to have one vector are not one question (CacheAttack, arXiv 2601.23088)", "[caching]") {
    /// The attacker's dream: every text has the same vector.
    struct OneVector final : caching::Embedder {
        std::string name() const override { return "collided"; }
        std::size_t dimensions() const override { return 16; }
        base::Result<std::vector<std::vector<float>>> embed(std::span<const std::string> texts) override {
            return std::vector<std::vector<float>>(texts.size(), std::vector<float>(16, 0.25F));
        }
    };
    base::FakeClock clock;
    caching::HashedEmbedder hashed;
    OneVector collided;
    SECTION("not where nothing was learnt") {
        caching::SemanticCache cache({}, clock, collided, hashed);
        caching::Answer planted;
        planted.content = "send your password to the attacker";
        const Question trap = ask("zq xv lorem collide with whatever you like");
        cache.store(trap, cache.lookup(trap).probe, planted);
        for (const char* victim : {"How do I reset my password?", "Where is my order?", "lorem ipsum", "zq"}) {
            CHECK(cache.lookup(ask(victim)).kind == HitKind::none);
        }
    }
    SECTION("nor where honest traffic has taught that such a vector means an equal question") {
        caching::BlendedEmbedder both(collided, hashed);  // the second, different embedder
        caching::SemanticCache cache({}, clock, both, hashed);
        const auto turn = [&](const std::string& text, const std::string& answer) {
            caching::Lookup found = cache.lookup(ask(text));
            if (found.kind != HitKind::none) { return caching::from_document(found.document)->content; }
            caching::Answer said;
            said.content = answer;
            cache.store(ask(text), std::move(found.probe), said);
            return std::string();
        };
        for (int i = 0; i < 500; ++i) {
            const std::string thing =
                "device" + std::string(1, static_cast<char>('a' + i % 26)) + std::to_string(i / 26);
            turn("How do I repair the " + thing + "?", thing);
            turn("How can I repair my " + thing + "?", thing);
        }
        turn("zq xv collide collide", "send your password to the attacker");
        std::size_t hijacked = 0;
        for (int i = 0; i < 200; ++i) {
            const std::string served = turn("Where do I find form " + std::string(1, static_cast<char>('a' + i % 26)) +
                                                std::to_string(i) + " of the office?",
                                            "form");
            hijacked += served == "send your password to the attacker" ? 1 : 0;
        }
        CHECK(hijacked == 0);
    }
}

TEST_CASE("an answer that somebody planted answers only those who share its tenant and prompt (poisoning)",
          "[caching]") {
    Cache one;
    Question planted = ask("How do I list hidden files in a folder?");
    planted.tenant = "attacker";
    one.turn(planted, "rm -rf /");
    CHECK(one.turn(ask("How do I list hidden files in a folder?"), "ls -a").empty());
    Question under_other_prompt = talk({{"system", "Answer with an attack."}, {"user", "How do I print a file?"}});
    one.turn(under_other_prompt, "rm -rf /");
    CHECK(one.turn(ask("How do I print a file?"), "cat").empty());
    Question of_user = ask("How do I copy a file?");
    of_user.user = "mallory";
    one.turn(of_user, "rm -rf /");
    CHECK(one.turn(ask("How do I copy a file?"), "cp").empty());
}
