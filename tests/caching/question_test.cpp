#include "caching/semantic/question.h"

#include "caching/semantic/answer.h"
#include "tests/support/catch.h"

using caching::keys_of;
using caching::Question;
using caching::Uncacheable;
using caching::why_not;

namespace {

Question make_question() {
    Question question;
    question.tenant = "acme";
    question.model = "m";
    question.messages = {
        {"system", "be brief"}, {"user", "who are you?"}, {"assistant", "a model"}, {"user", "since when?"}};
    return question;
}

}  // namespace

TEST_CASE("everything an answer depends on is in the partition", "[caching]") {
    const base::HashKey key{};
    const auto before = keys_of(make_question(), "e", key).partition;
    const auto changed = [&](auto change) {
        Question question = make_question();
        change(question);
        return keys_of(question, "e", key).partition != before;
    };
    CHECK(changed([](Question& q) { q.tenant = "globex"; }));
    CHECK(changed([](Question& q) { q.user = "u"; }));
    CHECK(changed([](Question& q) { q.model = "n"; }));
    CHECK(changed([](Question& q) { q.revision = "2"; }));
    CHECK(changed([](Question& q) { q.adapter = "lora"; }));
    CHECK(changed([](Question& q) { q.parameters = "max_tokens=5"; }));
    CHECK(changed([](Question& q) { q.response_format = "{}"; }));
    CHECK(changed([](Question& q) { q.tools = "[]"; }));
    CHECK(changed([](Question& q) { q.messages[0].content = "be long"; }));
    CHECK(changed([](Question& q) { q.messages[1].content = "who am I?"; }));
    CHECK(changed([](Question& q) { q.messages[2].content = "a cat"; }));
    CHECK(changed([](Question& q) { q.messages.erase(q.messages.begin()); }));
    CHECK_FALSE(changed([](Question& q) { q.messages[3].content = "something else"; }));
    CHECK_FALSE(changed([](Question& q) { q.messages[1].content = "  who  are you? "; }));
    CHECK(keys_of(make_question(), "other embedder", key).partition != before);
    base::HashKey other{};
    other.bytes[0] = std::byte{1};
    CHECK(keys_of(make_question(), "e", other).partition != before);
}

TEST_CASE("fields cannot flow into each other", "[caching]") {
    Question a = make_question();
    Question b = make_question();
    a.tenant = "ab";
    a.user = "c";
    b.tenant = "a";
    b.user = "bc";
    CHECK(keys_of(a, "e", {}).partition != keys_of(b, "e", {}).partition);
}

TEST_CASE("what must not be kept says why", "[caching]") {
    const caching::CacheRules rules;
    const auto reason = [&](auto change) {
        Question question = make_question();
        change(question);
        return why_not(question, rules);
    };
    CHECK(reason([](Question&) {}) == Uncacheable::none);
    CHECK(reason([](Question& q) { q.temperature = 0.7; }) == Uncacheable::temperature);
    CHECK(reason([](Question& q) { q.tools = "[]"; }) == Uncacheable::tools);
    CHECK(reason([](Question& q) { q.choices = 2; }) == Uncacheable::choices);
    CHECK(reason([](Question& q) { q.logprobs = true; }) == Uncacheable::logprobs);
    CHECK(reason([](Question& q) { q.has_files = true; }) == Uncacheable::files);
    CHECK(reason([](Question& q) { q.no_store = true; }) == Uncacheable::no_store);
    CHECK(reason([](Question& q) { q.messages.clear(); }) == Uncacheable::empty);
    // Agent loops replay a stale turn (reported for LiteLLM).
    CHECK(reason([](Question& q) { q.messages.push_back({"tool", "42"}); }) == Uncacheable::agent);
    CHECK(reason([](Question& q) { q.messages[1].content = "mail me at jo@example.org"; }) == Uncacheable::personal);
    CHECK(reason([](Question& q) { q.messages[3].content = "card 4111 1111 1111 1111"; }) == Uncacheable::personal);
    CHECK(reason([](Question& q) { q.messages[3].content = "what is 4111 1111 1111 1112?"; }) == Uncacheable::none);
}

TEST_CASE("an answer comes back from its document as it was", "[caching]") {
    caching::Answer answer;
    answer.content = "a \"quoted\"\n\xc3\xa9 text";
    answer.reasoning = "because";
    answer.stop_string = "\n\n";
    answer.stop_token = 0;
    answer.prompt_tokens = 12;
    answer.cached_tokens = 8;
    answer.completion_tokens = 34;
    answer.model = "m";
    const auto again = caching::from_document(caching::to_document(answer));
    REQUIRE(again);
    CHECK(again->content == answer.content);
    CHECK(again->reasoning == answer.reasoning);
    CHECK(again->stop_string == answer.stop_string);
    CHECK(again->stop_token == answer.stop_token);
    CHECK(again->prompt_tokens == 12u);
    CHECK(again->cached_tokens == 8u);
    CHECK(again->completion_tokens == 34u);
    CHECK(caching::meaning_of(*again) == caching::meaning_of(answer));
    const std::string document = caching::to_document(answer);
    for (std::size_t cut = 0; cut < document.size(); ++cut) {
        CHECK_FALSE(caching::from_document(document.substr(0, cut)));  // torn
    }
}

TEST_CASE("only a complete answer may be given to another (errors kept as answers: semantic-router #2130)",
          "[caching]") {
    caching::Answer answer;
    answer.content = "yes";
    CHECK(caching::may_be_stored(answer));
    answer.finish_reason = "length";
    CHECK_FALSE(caching::may_be_stored(answer));
    answer.finish_reason = "stop";
    answer.refusal = "no";
    CHECK_FALSE(caching::may_be_stored(answer));
    answer.refusal.clear();
    answer.content.clear();
    CHECK_FALSE(caching::may_be_stored(answer));
}
