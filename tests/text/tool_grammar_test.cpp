// What an answer can be in which the model decides itself whether it calls a strict tool.
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "gateway/openai/tool_form.h"
#include "gateway/openai/tool_stream.h"
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
    /// `marks`: of the form, as tokens; else as text. `answer_schema`: of what is no call; empty: any text.
    explicit Answers(bool parallel, gateway::ToolFormat format = gateway::ToolFormat::hermes,
                     std::vector<base::TokenId> marks = {}, const std::string& answer_schema = {})
        : marks_(std::move(marks)), words_(gateway::special_marks(format)) {
        auto loaded = text::Tokenizer::load(text_test::stories_folder() / "tokenizer.json", {});
        REQUIRE(loaded);
        tokenizer_ = std::move(*loaded);
        const std::vector<base::TokenId> eos{2};
        auto vocabulary = text::GrammarVocabulary::make(*tokenizer_, eos, 512);
        REQUIRE(vocabulary);
        auto grammar = (*vocabulary)
                           ->compile({text::GrammarKind::lark,
                                      gateway::open_grammar(tools(parallel), format, marks_, answer_schema).text()});
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
        auto matcher = grammar_->matcher();
        REQUIRE(matcher);
        std::string_view rest = answer;
        while (!rest.empty()) {
            std::size_t size = rest.size();
            std::optional<base::TokenId> mark;
            for (std::size_t index = 0; index < marks_.size(); ++index) {
                const std::size_t at = rest.find(words_[index]);
                if (at < size) { size = at; }
                if (at == 0) { mark = marks_[index]; }
            }
            std::vector<base::TokenId> ids;
            if (mark) {
                ids = {*mark};
                const auto word = std::find(marks_.begin(), marks_.end(), *mark) - marks_.begin();
                size = words_[static_cast<std::size_t>(word)].size();
            } else {
                ids = bytes_of(rest.substr(0, size));
            }
            if (!matcher->consume(ids)) { return std::nullopt; }
            rest.remove_prefix(size);
        }
        return std::move(*matcher);
    }
    /// Byte by byte, so that nothing stands before a text.
    std::vector<base::TokenId> bytes_of(std::string_view text) const {
        std::vector<base::TokenId> ids;
        for (const char c : text) {
            char name[8];
            std::snprintf(name, sizeof name, "<0x%02X>", static_cast<unsigned>(static_cast<unsigned char>(c)));
            const auto token = tokenizer_->token_of(name);
            REQUIRE(token);
            ids.push_back(*token);
        }
        return ids;
    }

    const std::vector<base::TokenId> marks_;
    const std::vector<std::string_view> words_;
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

TEST_CASE("a call that was begun without its mark keeps to the schema, too", "[text][tools]") {
    const bool is_token = GENERATE(false, true);
    const auto marks = is_token ? std::vector<base::TokenId>{300, 301} : std::vector<base::TokenId>();
    const Answers answers(true, gateway::ToolFormat::hermes, marks);
    const std::string call = "{\"name\": \"say\", \"arguments\": {\"word\": \"hello\"}}";
    const std::string marked = "<tool_call>\n" + call + "\n</tool_call>";
    CHECK(answers.can_end(call));
    CHECK(answers.can_end("\n" + call + "\n" + call + "\n"));
    CHECK(answers.can_end("```json\n" + call + "\n```"));
    CHECK(answers.can_end("```\n" + call + "\n" + call + "\n```\n"));
    CHECK(answers.can_end("{\"name\": \"any\", \"arguments\": {\"x\": [1]}}"));
    CHECK(answers.can_end("{\"name\": \"Lily\", \"age\": 3}"));  // JSON that is no call
    CHECK(answers.can_end("```json\n{\"name\": \"Lily\"}\n```\n" + marked));
    CHECK(answers.can_end("```python\nsay()\n```"));
    CHECK(answers.can_end("I say " + call + " and " + marked + " twice"));
    CHECK_FALSE(answers.can_be("{\"name\": \"say\", \"arguments\": {\"word\": \"no"));
    CHECK_FALSE(answers.can_be("```json\n{\"name\": \"say\", \"arguments\": {\"word\": \"no"));
    CHECK_FALSE(answers.can_be("{\"name\": \"say\", \"other"));
    CHECK_FALSE(answers.can_be(call + " and"));
    CHECK_FALSE(answers.can_be(call + "\n```"));
    CHECK_FALSE(answers.can_end("```json\n" + call));
    const Answers one(false, gateway::ToolFormat::hermes, marks);
    CHECK(one.can_end(call));
    CHECK(one.can_end("So: " + marked));
    CHECK_FALSE(one.can_be(call + "\n{"));
}

TEST_CASE("Llama's calls stand alone, and keep to the schema once they have a tool's name", "[text][tools]") {
    const Answers answers(true, gateway::ToolFormat::llama3);
    CHECK(answers.can_end("Hello."));
    CHECK(answers.can_end("{\"name\": \"Lily\", \"age\": 3}"));  // JSON that is no call
    CHECK(answers.can_end("{\"a\": 1}"));
    const std::string call = "{\"name\": \"say\", \"parameters\": {\"word\": \"hello\"}}";
    CHECK(answers.can_end(call));
    CHECK(answers.can_end("\n{\"type\": \"function\", \"name\":\"say\",\"parameters\":{\"word\":\"bye\"}}"));
    CHECK(answers.can_end(call + ";" + call));
    CHECK(answers.can_end("{\"name\": \"any\", \"parameters\": {\"x\": [1]}}"));
    CHECK_FALSE(answers.can_be("{\"name\": \"say\", \"parameters\": {\"word\": \"no"));
    CHECK_FALSE(answers.can_be("{\"name\": \"say\", \"other"));
    CHECK_FALSE(answers.can_end("{\"name\": \"say\", \"parameters\": {\"word\": \"hello\"}"));
    CHECK_FALSE(answers.can_be(call + " and"));
    CHECK(answers.can_end("I say {\"name\": \"say\", \"parameters\": 3"));  // inside of a text nothing is a call
    CHECK_FALSE(Answers(false, gateway::ToolFormat::llama3).can_be(call + ";"));
}

TEST_CASE("calls as a plain list keep to the schema, too", "[text][tools]") {
    const Answers answers(true, gateway::ToolFormat::json);
    const std::string call = "{\"name\": \"say\", \"arguments\": {\"word\": \"hello\"}}";
    CHECK(answers.can_end(call));
    CHECK(answers.can_end("[" + call + ", " + call + "]"));
    CHECK(answers.can_end("[1, 2]"));
    CHECK_FALSE(answers.can_be("[{\"name\": \"say\", \"arguments\": {\"word\": \"no"));
}

TEST_CASE("Mistral's calls keep to the schema behind their mark, be it text or a token", "[text][tools]") {
    const bool is_token = GENERATE(false, true);
    const Answers answers(true, gateway::ToolFormat::mistral,
                          is_token ? std::vector<base::TokenId>{300, 301} : std::vector<base::TokenId>());
    const std::string call = "{\"name\": \"say\", \"arguments\": {\"word\": \"hello\"}}";
    CHECK(answers.can_end("Hello."));
    CHECK(answers.can_end("[TOOL_CALLS][" + call + "]"));
    CHECK(answers.can_end("So: [TOOL_CALLS] [" + call + ", " + call + "]"));
    CHECK(answers.can_end("[TOOL_CALLS]say[ARGS]{\"word\": \"bye\"}"));
    CHECK(answers.can_end("[TOOL_CALLS]say[ARGS]{\"word\": \"bye\"}[TOOL_CALLS]any[ARGS]{}"));
    CHECK_FALSE(answers.can_be("[TOOL_CALLS]say[ARGS]{\"word\": \"no"));
    CHECK_FALSE(answers.can_be("[TOOL_CALLS][{\"name\": \"fly"));
    CHECK_FALSE(answers.can_be("[TOOL_CALLS] then"));
}

TEST_CASE("DeepSeek's calls keep to the schema between their marks, be they text or tokens", "[text][tools]") {
    const bool is_token = GENERATE(false, true);
    const Answers answers(
        true, gateway::ToolFormat::deepseek,
        is_token ? std::vector<base::TokenId>{300, 301, 302, 303, 304} : std::vector<base::TokenId>());
    const std::string begin = "<｜tool▁calls▁begin｜>";
    const std::string end = "<｜tool▁calls▁end｜>";
    const std::string older =
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>say\n```json\n{\"word\": \"hello\"}\n```<｜tool▁call▁end｜>";
    const std::string newer = "<｜tool▁call▁begin｜>say<｜tool▁sep｜>{\"word\": \"hello\"}<｜tool▁call▁end｜>";
    CHECK(answers.can_end("Hello."));
    CHECK(answers.can_end(begin + older + end));
    CHECK(answers.can_end("So: " + begin + newer + newer + end));
    CHECK(answers.can_end(begin + older + "\n" + older + end));
    CHECK_FALSE(answers.can_end(begin + newer));
    CHECK_FALSE(answers.can_be(begin + "<｜tool▁call▁begin｜>fly"));
    CHECK_FALSE(answers.can_be(begin + "<｜tool▁call▁begin｜>say<｜tool▁sep｜>{\"word\": \"no"));
    CHECK_FALSE(answers.can_be(begin + "so"));
}

TEST_CASE("an answer with tools and a schema is JSON of that schema, or calls and nothing else", "[text][tools]") {
    const std::string schema =
        R"({"type":"object","properties":{"name":{"enum":["Lily"]}},"required":["name"],"additionalProperties":false})";
    const std::string answer = R"({"name": "Lily"})";
    const std::string call = R"({"name": "say", "arguments": {"word": "hello"}})";
    struct Case {
        gateway::ToolFormat format;
        std::vector<base::TokenId> marks;
        std::string calls;
        std::string begun_wrong;
    };
    const std::string hermes = "<tool_call>\n" + call + "\n</tool_call>";
    const std::string deepseek =
        "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>say<｜tool▁sep｜>{\"word\": "
        "\"hello\"}<｜tool▁call▁end｜><｜tool▁calls▁end｜>";
    const std::string wrong = R"({"name": "say", "arguments": {"word": "no)";
    for (const Case& one : std::vector<Case>{
             {gateway::ToolFormat::hermes, {}, hermes, "<tool_call>\n" + wrong},
             {gateway::ToolFormat::hermes, {300, 301}, hermes + "\n" + hermes, "<tool_call>\n" + wrong},
             {gateway::ToolFormat::mistral, {}, "[TOOL_CALLS][" + call + "]", "[TOOL_CALLS][" + wrong},
             {gateway::ToolFormat::mistral, {300, 301}, "[TOOL_CALLS]say[ARGS]{\"word\": \"bye\"}", "[TOOL_CALLS]fly"},
             {gateway::ToolFormat::deepseek, {300, 301, 302, 303, 304}, deepseek, "<｜tool▁calls▁begin｜>so"}}) {
        CAPTURE(gateway::tool_format_name(one.format), one.calls);
        const Answers answers(true, one.format, one.marks, schema);
        CHECK(answers.can_end(answer));
        CHECK(answers.can_end(one.calls));
        CHECK_FALSE(answers.can_be(one.begun_wrong));
        CHECK_FALSE(answers.can_end(""));
        CHECK_FALSE(answers.can_be("So"));
        CHECK_FALSE(answers.can_be(R"({"name": "Tom)"));
        CHECK_FALSE(answers.can_be(answer + " and"));
    }
    CHECK_FALSE(Answers(false, gateway::ToolFormat::hermes, {}, schema).can_be(hermes + "\n<tool_call>"));
}

TEST_CASE("an answer of a schema and a call without marks begin alike, and either is right", "[text][tools]") {
    const bool has_spaces = GENERATE(true, false);
    const auto format = GENERATE(gateway::ToolFormat::llama3, gateway::ToolFormat::json, gateway::ToolFormat::hermes);
    CAPTURE(has_spaces, gateway::tool_format_name(format));
    const std::string spaces =
        has_spaces ? R"({"whitespace_pattern":"[\\x20\\x0A\\x0D\\x09]{1,40}"})" : R"({"whitespace_flexible":false})";
    const std::string schema =
        R"({"type":"object","properties":{"name":{"type":"string"},"degrees":{"type":"integer"},"name of":{"const":1}},)"
        R"("required":["name"],"additionalProperties":{"type":"string"},"x-guidance":)" +
        spaces + "}";
    const Answers answers(true, format, {}, schema);
    const std::string call = R"({"name":"say","arguments":{"word":"hello"}})";
    for (const char* answer : {R"({"name":"Lily"})", R"({"name":"say"})", R"({"name":"saying","degrees":-18})",
                               R"({"name":"","degrees":1,"name of":1,"type":"function"})",
                               R"({"name":"say","argument":"x"})", R"({"name":"any","arguments":"text"})"}) {
        CAPTURE(answer);
        CHECK(answers.can_end(answer));
    }
    for (const char* one :
         {R"({"name":"say","arguments":{"word":"hello"}})", R"({"name":"say","parameters":{"word":"bye"}})",
          R"({"type":"function","name":"say","arguments":{"word":"bye"}})",
          R"({"name":"any","arguments":{"x":[1,{}]}})"}) {
        CAPTURE(one);
        CHECK(answers.can_end(one));
    }
    for (const char* wrong : {R"({"name":"say","arguments":{"word":"no)", R"({"name":"Lily","arguments":{)",
                              R"({"name":"say","arguments":{"word":"hello"}} and)", R"({"degrees")", "So",
                              R"({"type":)"
                              R"("other","name")",
                              "[1"}) {
        CAPTURE(wrong);
        CHECK_FALSE(answers.can_be(wrong));
    }
    CHECK_FALSE(answers.can_end(""));
    CHECK_FALSE(answers.can_end(R"({"name":"say","arguments":{"word":"hello"})"));
    const std::string spaced = "{ \"name\": \"say\",\n  \"arguments\": {\"word\" : \"hello\"} }";
    CHECK(answers.can_be(spaced) == has_spaces);
    CHECK(answers.can_be(R"({ "name": "Lily", "degrees" : 3})") == has_spaces);
    if (has_spaces) {
        CHECK(answers.can_end(spaced));
        CHECK(answers.can_end("{\"name\":" + std::string(40, ' ') + "\"Lily\"}"));
        CHECK_FALSE(answers.can_be("{\"name\":" + std::string(41, ' ')));
    }
    const bool is_hermes = format == gateway::ToolFormat::hermes;
    const std::string next = is_hermes ? call : ";" + call;
    CHECK(answers.can_end(call + next + next));
    const std::string marked = R"(<tool_call>{"name": "say", "arguments": {"word":"hello"}}</tool_call>)";
    CHECK(answers.can_be(marked) == is_hermes);
    CHECK(answers.can_be("<tool_call>\n" + marked.substr(11)) == is_hermes);
    CHECK_FALSE(answers.can_be(R"(<tool_call>{"name": "say", "arguments": {"word":"no)"));
    CHECK(answers.can_be("[" + call + "," + call + "]") == (format == gateway::ToolFormat::json));
    CHECK_FALSE(answers.can_be(R"({"name":"Lily"})" + next));  // calls and nothing else, or none
    CHECK_FALSE(Answers(false, format, {}, schema).can_be(call + next));
}

TEST_CASE("an answer of a schema that has nothing of a call, and the calls beside it", "[text][tools]") {
    const std::string schema =
        R"({"$defs":{"day":{"type":"object","properties":{"rain":{"type":"boolean"}},"required":["rain"]}},)"
        R"("type":"array","items":{"$ref":"#/$defs/day"},"x-guidance":{"whitespace_pattern":"[\\x20\\x0A\\x0D\\x09]{1,40}"}})";
    for (const auto format : {gateway::ToolFormat::llama3, gateway::ToolFormat::json}) {
        CAPTURE(gateway::tool_format_name(format));
        const Answers answers(true, format, {}, schema);
        CHECK(answers.can_end(R"([{"rain": true}, {"rain": false}])"));
        CHECK(answers.can_end("[]"));
        CHECK(answers.can_end(R"({"name": "say", "parameters": {"word": "hello"}})"));
        CHECK_FALSE(answers.can_be(R"({"rain": true})"));
        CHECK_FALSE(answers.can_be(R"([{"rain": 1)"));
    }
}

TEST_CASE("one call and no more where the client wants it so", "[text][tools]") {
    const Answers answers(false);
    const std::string call = "<tool_call>\n{\"name\": \"say\", \"arguments\": {\"word\": \"bye\"}}\n</tool_call>";
    CHECK(answers.can_end("No."));
    CHECK(answers.can_end("So: " + call));
    CHECK_FALSE(answers.can_be(call + "\n<tool_call>"));
}

TEST_CASE("every form's grammar passes the check that knows no model", "[text][tools]") {
    for (const gateway::ToolFormat format :
         {gateway::ToolFormat::hermes, gateway::ToolFormat::llama3, gateway::ToolFormat::mistral,
          gateway::ToolFormat::deepseek, gateway::ToolFormat::json}) {
        for (const bool parallel : {false, true}) {
            CAPTURE(gateway::tool_format_name(format), parallel);
            const auto checked = text::check_grammar(
                {text::GrammarKind::lark, gateway::open_grammar(tools(parallel), format, {}).text()});
            if (!checked) { FAIL(checked.error().message); }
            const auto with_answer = text::check_grammar(
                {text::GrammarKind::lark, gateway::open_grammar(tools(parallel), format, {}, "{}").text()});
            if (!with_answer) { FAIL(with_answer.error().message); }
        }
    }
}
