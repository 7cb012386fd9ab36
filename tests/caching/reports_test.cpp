// What users of other caches have reported, as tests of ours; more of them stand beside what they are about (look for
// #).
#include <string>
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
