#include <string>

#include "gateway/openai/prepare.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

TEST_CASE("of the tools that a model is shown it can call those that are allowed", "[gateway][openai]") {
    const gateway::Models models = gateway_test::make_models({"m"});
    const auto form_of = [&](const std::string& allowed) {
        const std::string tools =
            R"("tools":[{"type":"function","function":{"name":"a"}},{"type":"function","function":{"name":"b"}}])";
        return gateway::read_form(gateway::Endpoint::chat,
                                  R"({"messages":[{"role":"user","content":"hi"}],)" + tools +
                                      R"(,"tool_choice":{"type":"allowed_tools","allowed_tools":)" + allowed + "}}",
                                  {}, models);
    };
    const std::string b = R"("tools":[{"type":"function","function":{"name":"b"}}]})";
    const auto form = form_of(R"({"mode":"auto",)" + b);
    REQUIRE(form);
    CHECK(form->tools.choice == gateway::ToolsForm::Choice::automatic);
    CHECK((form->tools.tools.size() == 1 && form->tools.tools.front().name == "b"));
    CHECK(form->template_context.find(R"("name":"a")") != std::string::npos);
    CHECK(form_of(R"({"mode":"required",)" + b)->tools.choice == gateway::ToolsForm::Choice::required);
    for (const char* wrong :
         {R"({"mode":"some","tools":[{"function":{"name":"b"}}]})", R"({"mode":"auto","tools":[]})",
          R"({"mode":"auto"})", R"({"mode":"auto","tools":[{"function":{"name":"c"}}]})", "5", "{}"}) {
        CAPTURE(wrong);
        CHECK(form_of(wrong).error().param == "tool_choice");
    }
}

TEST_CASE("a form of answers leaves calls, which are wanted or allowed, to their tools", "[gateway][openai]") {
    const gateway::Models models = gateway_test::make_models({"m"});
    const std::string tool =
        R"({"type":"function","function":{"name":"f","parameters":{"type":"object","properties":{"town":{}}}}})";
    const std::string format =
        R"("response_format":{"type":"json_schema","json_schema":{"name":"x","schema":{"type":"object","properties":{"sea":{}}}}})";
    gateway_test::ByteText text;
    text.style = {.tools = gateway::ToolFormat::hermes};
    gateway::ClusterView cluster;
    cluster.context_tokens = 1000;
    const auto prepared = [&](const std::string& fields, gateway::FormLimits bounds = {}) {
        const auto form = gateway::read_form(
            gateway::Endpoint::chat, R"({"messages":[{"role":"user","content":"hi"}],)" + fields + "}", bounds, models);
        REQUIRE(form);
        return gateway::prepare(*form,
                                {.limits = bounds, .text = text, .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
    };
    const auto has = [](const auto& made, const std::string& part) {
        REQUIRE(made);
        return made->form.grammar != nullptr && made->form.grammar->text().find(part) != std::string::npos;
    };
    const std::string tools = format + R"(,"tools":[)" + tool + "]";
    for (const std::string& fields : {tools, R"("response_format":{"type":"json_object"},"tools":[)" + tool + "]",
                                      R"("structured_outputs":{"disable_any_whitespace":true},)" + tools}) {
        const auto both = prepared(fields);
        CHECK((has(both, "start: answer | ") && has(both, "answer: %json {") && has(both, "town")));
        CHECK((both->form.grammar_is_answers && both->reader.tools && both->reader.tools->answers_in_json));
    }
    CHECK(has(prepared(tools), "sea"));
    gateway::FormLimits strict;
    strict.all_calls_by_schema = false;
    const auto any_call = prepared(tools, strict);
    CHECK((has(any_call, "start: answer | ") && !has(any_call, "town")));

    const auto none = prepared(tools + R"(,"tool_choice":"none")");
    CHECK((has(none, "sea") && !has(none, "town") && !none->reader.tools));
    const auto required = prepared(tools + R"(,"tool_choice":"required")");
    CHECK((has(required, "town") && !has(required, "sea") && !required->form.grammar_is_answers));
    REQUIRE(required->reader.tools);
    CHECK_FALSE(required->reader.tools->answers_in_json);
    const auto own =
        prepared(R"("structured_outputs":{"json":{"type":"object","properties":{"sea":{}}}},"tools":[)" + tool + "]");
    CHECK((has(own, "sea") && !has(own, "town") && !own->reader.tools));
    text.style = {};  // nobody knows how it would call
    const auto unknown = prepared(tools);
    CHECK((has(unknown, "sea") && !has(unknown, "town")));

    text.style = {.tools = gateway::ToolFormat::hermes};
    const std::string cannot = R"({"type":"object","unheard-of":1})";
    const auto field_of = [&](const std::string& fields) { return prepared(fields).error().param.value(); };
    CHECK(field_of(R"("response_format":{"type":"json_schema","json_schema":{"schema":)" + cannot + R"(}},"tools":[)" +
                   tool + "]") == "response_format");
    CHECK(field_of(format + R"(,"tools":[{"type":"function","function":{"name":"f","strict":true,"parameters":)" +
                   cannot + "}}]") == "tools");
}

TEST_CASE("calls that the model begins by itself keep to the schemas of all tools that can be kept to",
          "[gateway][openai]") {
    const auto tool = [](const std::string& name, const std::string& schema, const std::string& more = "") {
        return R"({"type":"function","function":{"name":")" + name + R"(","parameters":)" + schema + more + "}}";
    };
    const std::string can = R"({"type":"object","properties":{"town":{}}})";
    const std::string cannot = R"({"type":"object","unheard-of":1})";
    const gateway::Models models = gateway_test::make_models({"m"});
    const auto grammar_of = [&](const std::string& tools, bool all) {
        auto bounds = gateway::FormLimits();
        bounds.all_calls_by_schema = all;
        gateway_test::ByteText text;
        text.style = {.tools = gateway::ToolFormat::hermes};
        gateway::ClusterView cluster;
        cluster.context_tokens = 1000;
        const std::string body = R"({"messages":[{"role":"user","content":"hi"}],"tools":[)" + tools + "]}";
        const auto form = gateway::read_form(gateway::Endpoint::chat, body, bounds, models);
        REQUIRE(form);
        const auto made = gateway::prepare(
            *form, {.limits = bounds, .text = text, .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
        if (!made) { return "refused: " + made.error().message; }
        REQUIRE(made->reader.tools);
        return made->form.grammar == nullptr ? std::string("none") : made->form.grammar->text();
    };
    const auto has = [](const std::string& text, const std::string& part) {
        return text.find(part) != std::string::npos;
    };
    CHECK(has(grammar_of(tool("a", can), true), "town"));
    CHECK(grammar_of(tool("a", can), false) == "none");
    CHECK(grammar_of(tool("a", cannot), true) == "none");
    const std::string both = grammar_of(tool("a", cannot) + "," + tool("b", can), true);
    CHECK((has(both, "town") && !has(both, "unheard-of") && has(both, "call_0: ") && has(both, "call_1: ")));
    const std::string strict = R"(,"strict":true)";
    CHECK(has(grammar_of(tool("a", cannot, strict), true), "refused"));
    CHECK(has(grammar_of(tool("a", cannot, strict) + "," + tool("b", can), true), "refused"));
    const std::string one =
        grammar_of(tool("a", can, strict) + "," + tool("b", R"({"type":"object","properties":{"sea":{}}})"), false);
    CHECK((has(one, "town") && !has(one, "sea")));
}
