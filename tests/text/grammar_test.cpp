#include "text/grammar.h"

#include <string>
#include <utility>

#include "tests/support/catch.h"

namespace {

using text::GrammarKind;

base::Error refusal(GrammarKind kind, const std::string& source) {
    const auto checked = text::check_grammar({kind, source});
    CAPTURE(source.substr(0, 200));
    REQUIRE(!checked);
    return checked.error();
}

}  // namespace

TEST_CASE("what cannot be done is refused by the keyword", "[text]") {
    for (const auto& [schema, keyword] : {std::pair<std::string, std::string>{R"({"not":{"type":"string"}})", "not"},
                                          {R"({"type":"array","uniqueItems":true})", "uniqueItems"},
                                          {R"({"type":"object","if":{},"then":{}})", "if"},
                                          {R"({"type":"string","format":"no-such-form"})", "no-such-form"},
                                          {R"({"type":"array","contains":{"type":"string"}})", "contains"},
                                          {R"({"$ref":"http://example.com/a.json"})", "http://example.com"}}) {
        const base::Error error = refusal(GrammarKind::json_schema, schema);
        CAPTURE(error.message);
        CHECK(error.code == base::ErrorCode::invalid_argument);
        CHECK(error.message.find(keyword) != std::string::npos);
    }
}

TEST_CASE("grammars that are no grammars are refused", "[text]") {
    CHECK(refusal(GrammarKind::json_schema, "{").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::json_schema, "7").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::json_schema, "false").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::regex, "(").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::regex, "(?=a)b").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::choice, "[]").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::choice, R"(["a",1])").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::lark, "start: missing").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::lark, "").code == base::ErrorCode::invalid_argument);
    CHECK(refusal(GrammarKind::lark, "start: <|im_end|>").code == base::ErrorCode::invalid_argument);
}

TEST_CASE("grammars that are too much are refused, and soon", "[text]") {
    std::string deep;
    for (int i = 0; i < 100'000; ++i) {
        deep += R"({"type":"array","items":)";
    }
    CHECK(refusal(GrammarKind::json_schema, deep).code == base::ErrorCode::resource_exhausted);
    CHECK(refusal(GrammarKind::regex, std::string(50'000, '(') + std::string(50'000, ')')).code ==
          base::ErrorCode::resource_exhausted);
    CHECK(refusal(GrammarKind::lark, "start: " + std::string(2 << 20, 'a')).code ==
          base::ErrorCode::resource_exhausted);
    std::string chain = "start: a0\n";
    for (int i = 0; i < 2'000; ++i) {  // recursed over; many more end a text process (text_process_test.cpp)
        chain += "a" + std::to_string(i) + ": a" + std::to_string(i + 1) + "\n";
    }
    CHECK(!text::check_grammar({GrammarKind::lark, chain}));  // the last one is nobody's rule
    static_cast<void>(text::check_grammar({GrammarKind::regex, "(a{1,1000}){1,1000}(b?){1000}"}));  // may pass
    static_cast<void>(text::check_grammar({GrammarKind::json_schema, R"({"type":"array","maxItems":1000000000,)"
                                                                     R"("minItems":1000000000,"items":{}})"}));
}

TEST_CASE("grammars that people use pass", "[text]") {
    for (const char* schema :
         {R"({})", R"(true)", R"({"type":"object"})",
          R"({"type":"object","properties":{"a":{"$ref":"#/$defs/x"}},"$defs":{"x":{"type":["string","null"]}}})",
          R"({"anyOf":[{"type":"string","pattern":"^[a-z]+$"},{"type":"number","exclusiveMinimum":0}]})",
          R"({"type":"array","items":{"type":"string","format":"date-time"},"minItems":1,"maxItems":3})",
          R"({"$defs":{"n":{"type":"object","properties":{"next":{"$ref":"#/$defs/n"}}}},"$ref":"#/$defs/n"})"}) {
        const auto checked = text::check_grammar({GrammarKind::json_schema, schema});
        CAPTURE(schema);
        if (!checked) { UNSCOPED_INFO(checked.error().message); }
        CHECK(checked);
    }
    CHECK(text::check_grammar({GrammarKind::json_object, ""}));
    CHECK(text::check_grammar({GrammarKind::regex, "\\d{3}-\\w+"}));
    CHECK(text::check_grammar({GrammarKind::choice, R"(["a","b \" c","ä"])"}));
    CHECK(text::check_grammar({GrammarKind::lark, "start: \"x\" n\nn: /[0-9]+/"}));
}
