#include <string>

#include "gateway/openai/prepare.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

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
