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
    const auto twice = form_of(R"({"mode":"auto","tools":[{"name":"b"},{"name":"b"}]})");
    REQUIRE(twice);
    CHECK(twice->tools.tools.size() == 1);
    std::string many = R"({"name":"b"})";
    for (int times = 0; times < 128; ++times) {
        many += R"(,{"name":"b"})";
    }
    CHECK(form_of(R"({"mode":"auto","tools":[)" + many + "]}").error().param == "tool_choice");
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
    for (const auto format_of_calls :
         {gateway::ToolFormat::llama3, gateway::ToolFormat::json, gateway::ToolFormat::mistral}) {
        text.style = {.tools = format_of_calls};
        const auto both = prepared(tools);
        CHECK((has(both, "start: answer | ") && has(both, "sea") && has(both, "town")));
        CHECK((both->reader.tools && both->reader.tools->answers_in_json));
    }
    text.style = {.tools = gateway::ToolFormat::hermes};
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

TEST_CASE("a template of the request's own is taken where the server allows it, within a bound", "[gateway][openai]") {
    const gateway::Models models = gateway_test::make_models({"m"});
    gateway_test::ByteText text;
    text.shows_tools = false;
    gateway::ClusterView cluster;
    cluster.context_tokens = 1000;
    gateway::FormLimits bounds;
    bounds.template_bytes_max = 10;
    const std::string messages = R"("messages":[{"role":"user","content":"hi"}])";
    const auto prompt_of = [&](const std::string& fields) {
        const auto form =
            gateway::read_form(gateway::Endpoint::chat, "{" + messages + "," + fields + "}", bounds, models);
        if (!form) { return form.error().param.value_or("?") + ": " + form.error().message; }
        const auto made = gateway::prepare(
            *form, {.limits = bounds, .text = text, .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
        if (!made) { return made.error().param.value_or("?") + ": " + made.error().message; }
        std::string shown;
        for (const base::TokenId token : *made->prompts.at(0).tokens) {
            shown += text.token_bytes(token);
        }
        return shown;
    };
    const std::string own = prompt_of(R"("chat_template":"mine")");
    CHECK(own == "mine" + prompt_of(R"("chat_template":"")"));
    CHECK(prompt_of(R"("chat_template":"broken")") == "chat_template: does not compile");
    CHECK(prompt_of(R"("chat_template":"more than ten")").starts_with("chat_template: "));
    CHECK(prompt_of(R"("chat_template":5)").starts_with("chat_template: "));
    const std::string tool = R"("tools":[{"type":"function","function":{"name":"f"}}],"tool_choice":"required")";
    CHECK(prompt_of(tool).starts_with("tools: "));
    CHECK(prompt_of(tool + R"(,"chat_template":"mine")") == own);
    bounds.text_bytes_max = own.size() - 1;
    CHECK(prompt_of(R"("chat_template":"mine")").starts_with("chat_template: the chat template makes a prompt of "));
    bounds.text_bytes_max = 1000;
    const auto text_form =
        gateway::read_form(gateway::Endpoint::completions, R"({"prompt":"a","chat_template":"x"})", bounds, models);
    CHECK(text_form.error().param == "chat_template");
    bounds.template_bytes_max = 0;
    CHECK(prompt_of(R"("chat_template":"mine")").starts_with("chat_template: 'chat_template' is not taken"));
    CHECK(prompt_of(R"("chat_template":"")") == own.substr(4));
}

TEST_CASE("calls that the model begins by itself keep to the schemas of all tools that can be kept to",
          "[gateway][openai]") {
    const auto tool = [](const std::string& name, const std::string& schema, const std::string& more = "") {
        return R"({"type":"function","function":{"name":")" + name + R"(","parameters":)" + schema + more + "}}";
    };
    const std::string can = R"({"type":"object","properties":{"town":{}}})";
    const std::string cannot = R"({"type":"object","unheard-of":1})";
    const gateway::Models models = gateway_test::make_models({"m"});
    std::size_t checked = 0;
    const auto grammar_of = [&](const std::string& tools, bool all, std::uint64_t bytes_max = 256 << 10) {
        auto bounds = gateway::FormLimits();
        bounds.all_calls_by_schema = all;
        bounds.grammar_bytes_max = bytes_max;
        gateway_test::ByteText text;
        text.style = {.tools = gateway::ToolFormat::hermes};
        gateway::ClusterView cluster;
        cluster.context_tokens = 1000;
        const std::string body = R"({"messages":[{"role":"user","content":"hi"}],"tools":[)" + tools + "]}";
        const auto form = gateway::read_form(gateway::Endpoint::chat, body, bounds, models);
        REQUIRE(form);
        const auto made = gateway::prepare(
            *form, {.limits = bounds, .text = text, .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
        checked = text.grammars_checked;
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

    // What takes too much is tried once: as many tools as there are would take so many times as much.
    const std::string three =
        tool("a", can) + "," + tool("b", R"({"type":"object","much-of":1})") + "," + tool("c", can);
    CHECK(grammar_of(three, true) == "none");
    CHECK(checked == 1);
    CHECK(grammar_of(tool("a", can) + "," + tool("b", can), true, 100) == "none");
    CHECK(checked == 0);
}
