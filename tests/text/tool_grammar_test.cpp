// What an answer can be in which the model decides itself whether it calls a strict tool.
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/openai/tool_form.h"
#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/grammar.h"
#include "text/tokenizer.h"

namespace {

gateway::ToolsForm tools(bool parallel) {
    gateway::ToolsForm form;
    form.choice = gateway::ToolsForm::Choice::automatic;
    form.parallel = parallel;
    gateway::ToolsForm::Tool say{.name = "say"};
    say.parameters =
        R"({"type":"object","properties":{"word":{"enum":["hello","bye"]}},"required":["word"],"additionalProperties":false})";
    say.strict = true;
    form.tools = {say, {.name = "any"}};
    form.tools.back().parameters = R"({"type":"object","not":{}})";  // is not looked at: it is not strict
    return form;
}

class Answers {
public:
    explicit Answers(bool parallel) {
        auto loaded = text::Tokenizer::load(text_test::stories_folder() / "tokenizer.json", {});
        REQUIRE(loaded);
        tokenizer_ = std::move(*loaded);
        const std::vector<base::TokenId> eos{2};
        auto vocabulary = text::GrammarVocabulary::make(*tokenizer_, eos, 512);
        REQUIRE(vocabulary);
        auto grammar = (*vocabulary)->compile({text::GrammarKind::lark, gateway::open_grammar(tools(parallel)).text()});
        if (!grammar) { FAIL(grammar.error().message); }
        grammar_ = std::move(*grammar);
    }

    /// Whether an answer can begin so.
    bool can_be(const std::string& answer) const { return consumed(answer).has_value(); }
    /// Whether it can end there.
    bool can_end(const std::string& answer) const {
        auto matcher = consumed(answer);
        std::vector<std::uint32_t> mask(512 / 32);
        REQUIRE(matcher);
        REQUIRE(matcher->mask(mask));
        return (mask[0] >> 2 & 1) != 0;
    }

private:
    std::optional<text::GrammarMatcher> consumed(const std::string& answer) const {
        const auto ids = tokenizer_->encode(answer, {.add_special = false, .parse_special = false});
        REQUIRE(ids);
        auto matcher = grammar_->matcher();
        REQUIRE(matcher);
        if (!matcher->consume(*ids)) { return std::nullopt; }
        return std::move(*matcher);
    }

    std::shared_ptr<const text::Tokenizer> tokenizer_;
    std::shared_ptr<const text::Grammar> grammar_;
};

}  // namespace

TEST_CASE("a call that has begun keeps to the schema of a strict tool", "[text][tools]") {
    const Answers answers(true);
    const std::string call = "<tool_call>\n{\"name\": \"say\", \"arguments\": {\"word\": \"hello\"}}\n</tool_call>";
    CHECK(answers.can_end("Once, 1 < 2 and a <tool is no call."));
    CHECK(answers.can_end(""));
    CHECK(answers.can_end("Well.\n" + call));
    CHECK(answers.can_end(call + "\n" + call + " That was it."));
    CHECK(answers.can_end("<tool_call>\n{\"name\": \"any\", \"arguments\": {\"x\": [1, null]}}\n</tool_call>"));
    CHECK_FALSE(answers.can_end("<tool_call>\n{\"name\": \"say\", \"arguments\": {"));
    CHECK_FALSE(answers.can_be("<tool_call>\n{\"name\": \"fly"));
    CHECK_FALSE(answers.can_be("<tool_call>\n{\"name\": \"say\", \"arguments\": {\"word\": \"no"));
    CHECK_FALSE(answers.can_be("<tool_call> I would call"));
}

TEST_CASE("one call and no more where the client wants it so", "[text][tools]") {
    const Answers answers(false);
    const std::string call = "<tool_call>\n{\"name\": \"say\", \"arguments\": {\"word\": \"bye\"}}\n</tool_call>";
    CHECK(answers.can_end("No."));
    CHECK(answers.can_end("So: " + call));
    CHECK_FALSE(answers.can_be(call + "\n<tool_call>"));
}
