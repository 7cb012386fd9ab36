#include <boost/json.hpp>
#include <string>

#include "gateway/anthropic/messages_form.h"
#include "gateway/openai/responses_form.h"
#include "tests/gateway/support.h"
#include "tests/support/catch.h"

namespace {

namespace json = boost::json;
using gateway_test::make_models;

const gateway::Models& models() {
    static const gateway::Models made = make_models({"m"});
    return made;
}

gateway::ApiResult<gateway::RequestForm> response(const std::string& body) {
    return gateway::read_responses_form(json::parse(body).as_object(), {}, models());
}
gateway::ApiResult<gateway::RequestForm> message(const std::string& body) {
    return gateway::read_messages_form(json::parse(body).as_object(), {}, models());
}
json::value context_of(const gateway::ApiResult<gateway::RequestForm>& form) {
    REQUIRE(form);
    return json::parse(form->template_context);
}

}  // namespace

TEST_CASE("items of a response's input become messages", "[gateway][responses]") {
    const auto context = context_of(response(R"({"instructions":"be brief","input":[
        {"role":"developer","content":"d"},
        {"role":"user","content":[{"type":"input_text","text":"a"},{"type":"input_text","text":"b"}]},
        {"type":"reasoning","id":"r","summary":[{"type":"summary_text","text":"s"}]},
        {"type":"message","role":"assistant","content":[{"type":"output_text","text":"t"}]},
        {"type":"function_call","call_id":"1","name":"f","arguments":"{\"x\":1}"},
        {"type":"function_call","call_id":"2","name":"g","arguments":"no object"},
        {"type":"function_call_output","call_id":"1","output":"4"},
        {"type":"function_call_output","call_id":"2","output":[{"type":"input_text","text":"5"}]},
        {"type":"function_call","call_id":"3","name":"f","arguments":"{}"}]})"));
    REQUIRE(context.at("messages") == json::parse(R"([
        {"role":"system","content":"be brief"},{"role":"system","content":"d"},
        {"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b"}]},
        {"role":"assistant","content":"t","reasoning_content":"s","tool_calls":[
            {"id":"1","type":"function","function":{"name":"f","arguments":{"x":1}}},
            {"id":"2","type":"function","function":{"name":"g","arguments":"no object"}}]},
        {"role":"tool","tool_call_id":"1","content":"4"},{"role":"tool","tool_call_id":"2","content":"5"},
        {"role":"assistant","content":"","tool_calls":[
            {"id":"3","type":"function","function":{"name":"f","arguments":{}}}]}])"));
}

TEST_CASE("a budget for reasoning comes through from either form", "[gateway][responses]") {
    REQUIRE(response(R"({"input":"a","reasoning":{"max_tokens":7}})")->reasoning_tokens_max == 7u);
    const std::string talk = R"("messages":[{"role":"user","content":"a"}])";
    REQUIRE(message("{" + talk + R"(,"thinking":{"type":"enabled","budget_tokens":8}})")->reasoning_tokens_max == 8u);
    REQUIRE_FALSE(message("{" + talk + R"(,"thinking":{"type":"disabled"}})")->reasoning_tokens_max);
    REQUIRE(message("{" + talk + R"(,"thinking":{"type":"enabled","budget_tokens":-1}})").error().status == 400);
}

TEST_CASE("fields of a response become a chat's, and are repeated in the answer", "[gateway][responses]") {
    const auto form = response(R"({"input":"a","max_output_tokens":5,"temperature":0.5,"top_p":0.9,"stream":true,"n":7,
        "reasoning":{"effort":"low"},"metadata":{"k":"v"},"tool_choice":{"type":"function","name":"f"},
        "tools":[{"type":"function","name":"f","parameters":{"type":"object"},"strict":true}],
        "text":{"format":{"type":"text"},"verbosity":"low"}})");
    REQUIRE(form);
    REQUIRE(form->endpoint == gateway::Endpoint::responses);
    REQUIRE(form->new_tokens_max == 5u);
    REQUIRE(form->temperature == 0.5);
    REQUIRE(form->stream);
    REQUIRE(form->n == 1u);  // no field of this endpoint
    REQUIRE(form->tools.named == "f");
    REQUIRE(json::parse(form->template_context).at("reasoning_effort") == "low");
    const json::value shown = json::parse("{" + form->shown_fields + "}");
    REQUIRE(shown.at("metadata").at("k") == "v");
    REQUIRE(shown.at("tools").at(0).at("strict") == true);
    REQUIRE(shown.at("tool_choice").at("name") == "f");
    REQUIRE(shown.at("max_output_tokens") == 5);
    REQUIRE(shown.at("instructions").is_null());
    REQUIRE(
        response(R"({"input":"a","text":{"format":{"type":"json_schema","name":"x","schema":{}}}})")->grammar_field ==
        "text.format");
}

TEST_CASE("an answer repeats of reasoning what its specification knows", "[gateway][responses]") {
    const auto shown = [](const std::string& reasoning) {
        const auto form = response(R"({"input":"a")" + (reasoning.empty() ? "" : ",\"reasoning\":" + reasoning) + "}");
        REQUIRE(form);
        return json::serialize(json::parse("{" + form->shown_fields + "}").at("reasoning"));
    };
    const std::string nothing = R"({"effort":null,"summary":null})";
    REQUIRE(shown("") == nothing);
    REQUIRE(shown("null") == nothing);
    REQUIRE(shown(R"({"effort":"xhigh","summary":"detailed"})") == R"({"effort":"xhigh","summary":"detailed"})");
    REQUIRE(shown(R"({"effort":"my own","summary":"short","max_tokens":7,"other":{"a":1},"effort ":"low"})") ==
            nothing);
    REQUIRE(shown(R"({"effort":null,"generate_summary":"auto"})") == nothing);
    // A template may have an effort of its own.
    REQUIRE(json::parse(response(R"({"input":"a","reasoning":{"effort":"my own"}})")->template_context)
                .at("reasoning_effort") == "my own");
    REQUIRE(response(R"({"input":"a","reasoning":{"effort":7}})").error().status == 400);
}

TEST_CASE("an answer repeats text and tools as its specification has them", "[gateway][responses]") {
    const auto shown = [](const std::string& fields, std::string_view name) {
        const auto form = response(R"({"input":"a",)" + fields + "}");
        REQUIRE(form);
        return json::serialize(json::parse("{" + form->shown_fields + "}").at(name));
    };
    REQUIRE(shown(R"("text":null)", "text") == R"({"format":{"type":"text"}})");
    REQUIRE(shown(R"("text":{"verbosity":"low"})", "text") == R"({"format":{"type":"text"},"verbosity":"low"})");
    REQUIRE(shown(R"("text":{"verbosity":"chatty","more":1,"format":{"type":"json_object","more":1}})", "text") ==
            R"({"format":{"type":"json_object"}})");
    REQUIRE(shown(R"("text":{"format":{"type":"json_schema","schema":{"type":"object"},"strict":null}})", "text") ==
            R"({"format":{"type":"json_schema","name":"schema","schema":{"type":"object"}}})");
    REQUIRE(shown(R"("tools":[{"type":"function","name":"f"}])", "tools") ==
            R"([{"type":"function","name":"f","parameters":null,"strict":false}])");
    REQUIRE(response(R"({"input":"a","safety_identifier":")" + std::string(65, 'x') + "\"}").error().param ==
            "safety_identifier");
}

TEST_CASE("tools in a namespace are known to the model by both names", "[gateway][responses]") {
    const std::string tools = R"("tools":[{"type":"function","name":"f","parameters":{"type":"object"}},
        {"type":"namespace","name":"agents","tools":[{"type":"function","name":"start","parameters":{"type":"object"}}]},
        {"type":"web_search","external_web_access":true},{"type":"image_generation"}])";
    const auto form = response("{" + tools + R"(,"input":[{"role":"user","content":"a"},
        {"type":"function_call","call_id":"1","namespace":"agents","name":"start","arguments":"{}"},
        {"type":"function_call_output","call_id":"1","output":"x"}],
        "tool_choice":{"type":"function","namespace":"agents","name":"start"}})");
    REQUIRE(form);
    REQUIRE(form->tools.named == "agents__start");
    const json::value context = json::parse(form->template_context);
    REQUIRE(context.at("tools").as_array().size() == 2u);  // what OpenAI would run itself is nobody's here
    REQUIRE(context.at("tools").at(1).at("function").at("name") == "agents__start");
    REQUIRE(context.at("messages").at(1).at("tool_calls").at(0).at("function").at("name") == "agents__start");
    const json::value shown = json::parse("{" + form->shown_fields + "}");
    REQUIRE(shown.at("tools").as_array().size() == 2u);
    REQUIRE(shown.at("tools").at(1).at("type") == "namespace");
    REQUIRE(gateway::flat_tool_name("", "f") == "f");

    const auto problem = [](const std::string& list) {
        const auto refused = response(R"({"input":"a","tools":[)" + list + "]}");
        REQUIRE_FALSE(refused);
        return refused.error().param.value();
    };
    REQUIRE(problem(R"({"type":"web_search"})") == "tools[0]");  // nothing else is left
    REQUIRE(problem(R"({"type":"namespace","name":"n"})") == "tools[0]");
    REQUIRE(problem(R"({"type":"namespace","tools":[]})") == "tools[0]");
    REQUIRE(problem(R"({"type":"namespace","name":"n","tools":5})") == "tools[0].tools");
    REQUIRE(problem(R"({"type":"namespace","name":"n","tools":[{"type":"custom"}]})") == "tools[0].tools[0]");
}

TEST_CASE("tools that take a text are functions with one argument to the model", "[gateway][responses]") {
    const std::string patch =
        R"({"type":"custom","name":"apply_patch","description":"Edits.","format":{"type":"grammar",)"
        R"("syntax":"lark","definition":"start: /.+/"}})";
    const auto form = response(R"({"tools":[)" + patch + R"(,{"type":"custom","name":"say"},
        {"type":"custom","name":"pick","format":{"type":"grammar","syntax":"regex","definition":"a|b"}},
        {"type":"namespace","name":"n","tools":[{"type":"custom","name":"c","format":{"type":"text"}}]}],
        "tool_choice":{"type":"custom","name":"apply_patch"},"input":[{"role":"user","content":"a"},
        {"type":"custom_tool_call","call_id":"1","name":"apply_patch","input":"a \"b\"\n"},
        {"type":"custom_tool_call_output","call_id":"1","output":"done"}]})");
    REQUIRE(form);
    REQUIRE(form->tools.named == "apply_patch");
    const json::value context = json::parse(form->template_context);
    const auto function = [&](std::size_t index) { return context.at("tools").at(index).at("function"); };
    REQUIRE(function(0).at("description") == "Edits.\n\nIts input keeps to this grammar (Lark):\nstart: /.+/");
    REQUIRE(function(0).at("parameters") ==
            json::parse(R"({"type":"object","additionalProperties":false,"required":["input"],
        "properties":{"input":{"type":"string"}}})"));
    REQUIRE(function(2).at("parameters").at("properties").at("input").at("pattern") == "^(?:a|b)$");
    REQUIRE(function(3).at("name") == "n__c");
    REQUIRE(form->tools.tools.at(1).strict);
    REQUIRE(context.at("messages").at(1).at("tool_calls").at(0).at("function") ==
            json::parse(R"({"name":"apply_patch","arguments":{"input":"a \"b\"\n"}})"));
    REQUIRE(context.at("messages").at(2) == json::parse(R"({"role":"tool","tool_call_id":"1","content":"done"})"));
    REQUIRE(json::parse("{" + form->shown_fields + "}").at("tools").at(0) == json::parse(patch));

    const auto problem = [](const std::string& tool, const std::string& more = "") {
        const auto refused = response(R"({"input":"a","tools":[)" + tool + "]" + more + "}");
        REQUIRE_FALSE(refused);
        return refused.error().param.value();
    };
    const std::string two = R"("input":"a","tools":[{"type":"custom","name":"say"},{"type":"function","name":"f"}])";
    const auto allowed = response("{" + two + R"(,"tool_choice":{"type":"allowed_tools","mode":"required",
        "tools":[{"type":"custom","name":"say"}]}})");
    REQUIRE(allowed);
    REQUIRE(allowed->tools.choice == gateway::ToolsForm::Choice::required);
    REQUIRE((allowed->tools.tools.size() == 1 && allowed->tools.tools.front().name == "say"));
    REQUIRE(
        response("{" + two + R"(,"tool_choice":{"type":"allowed_tools","mode":"auto","tools":[5]}})").error().param ==
        "tool_choice");
    REQUIRE(problem(R"({"type":"custom"})") == "tools[0]");
    REQUIRE(problem(R"({"type":"custom","name":"a","format":{"type":"grammar"}})") == "tools[0].format.type");
    REQUIRE(problem(R"({"type":"custom","name":"a","format":{"type":"grammar","syntax":"ebnf","definition":"x"}})") ==
            "tools[0].format.type");
    REQUIRE(problem(R"({"type":"custom","name":"a","format":5})") == "tools[0].format");
    REQUIRE(problem(R"({"type":"custom","name":"a"})", R"(,"tool_choice":{"type":"mcp","name":"a"})") == "tool_choice");
    REQUIRE(response(R"({"input":[{"type":"custom_tool_call","call_id":"1","name":"a"}]})").error().param ==
            "input[0].input");
}

TEST_CASE("a thread is refused in the way that makes Anthropic's clients do without", "[gateway][messages]") {
    const std::string talk = R"("messages":[{"role":"user","content":"a"}])";
    REQUIRE(message("{" + talk + R"(,"thread":null})"));
    REQUIRE(message("{" + talk + R"(,"thread":false})"));
    for (const char* thread : {R"({"type":"create"})", R"({"type":"continue","previous_message_id":"msg_1"})"}) {
        const auto refused = message("{" + talk + ",\"thread\":" + thread + "}");
        REQUIRE_FALSE(refused);
        REQUIRE(refused.error().status == 400u);
        const json::value body = json::parse(gateway::error_json(refused.error(), gateway::ErrorStyle::anthropic));
        REQUIRE(body.at("error").at("type") == "invalid_request_error");
        REQUIRE(body.at("error").at("details").at("error_code") == "thread_unsupported_request");
        REQUIRE(body.at("error").at("details").at("unsupported").as_array().size() == 1u);
    }
    const auto other = message("{}");
    REQUIRE_FALSE(other);
    REQUIRE_FALSE(json::parse(gateway::error_json(other.error(), gateway::ErrorStyle::anthropic))
                      .at("error")
                      .as_object()
                      .contains("details"));
}

TEST_CASE("problems of translated requests are told in the client's names", "[gateway][responses][messages]") {
    const auto of_response = [](const std::string& fields) {
        const auto form = response("{\"input\":\"a\"" + fields + "}");
        REQUIRE_FALSE(form);
        REQUIRE(form.error().status == 400u);
        REQUIRE(form.error().message.find("'" + form.error().param.value() + "'") != std::string::npos);
        return form.error().param.value();
    };
    REQUIRE(of_response(R"(,"max_output_tokens":"x")") == "max_output_tokens");
    REQUIRE(of_response(R"(,"max_output_tokens":-1)") == "max_output_tokens");
    REQUIRE(of_response(R"(,"temperature":-1)") == "temperature");
    REQUIRE(of_response(R"(,"text":{"format":{"type":"json_schema","schema":5}})") == "text.format");
    REQUIRE(of_response(R"(,"stop_token_ids":"x")") == "stop_token_ids");
    const auto of_message = [](const std::string& fields) {
        const auto form = message(R"({"max_tokens":5,"messages":[{"role":"user","content":"a"}])" + fields + "}");
        REQUIRE_FALSE(form);
        REQUIRE(form.error().message.find("'" + form.error().param.value() + "'") != std::string::npos);
        return form.error().param.value();
    };
    REQUIRE(of_message(R"(,"stop_sequences":[1])") == "stop_sequences");
    REQUIRE(of_message(R"(,"stop_token_ids":"x")") == "stop_token_ids");
    REQUIRE(of_message(R"(,"output_config":{"format":{"type":"json_schema","schema":5}})") == "output_config.format");
    REQUIRE(message(R"({"max_tokens":-1,"messages":[{"role":"user","content":"a"}]})").error().param == "max_tokens");
    REQUIRE(response(R"({"input":"a","model":"x"})").error().code == "model_not_found");
    REQUIRE(message(R"({"messages":[{"role":"user","content":"a"}],"model":"x"})").error().status == 404u);
}

TEST_CASE("blocks of messages become messages of a chat", "[gateway][messages]") {
    const auto form =
        message(R"({"max_tokens":5,"system":[{"type":"text","text":"s"}],"stop_sequences":["x"],"stop":["y"],
        "tools":[{"name":"f","input_schema":{"type":"object"}}],
        "tool_choice":{"type":"any","disable_parallel_tool_use":true},"thinking":{"type":"enabled","budget_tokens":9},
        "messages":[{"role":"user","content":[{"type":"text","text":"a"}]},
            {"role":"assistant","content":[{"type":"thinking","thinking":"h","signature":"q"},{"type":"text","text":"t"},
                {"type":"redacted_thinking","data":"z"},{"type":"tool_use","id":"1","name":"f","input":{"x":1}}]},
            {"role":"user","content":[{"type":"tool_result","tool_use_id":"1","content":"4"},
                {"type":"tool_result","tool_use_id":"2"},{"type":"text","text":"and"},{"type":"text","text":"so"}]}]})");
    const auto context = context_of(form);
    REQUIRE(context.at("messages") == json::parse(R"([{"role":"system","content":"s"},{"role":"user","content":"a"},
        {"role":"assistant","content":"t","reasoning_content":"h","tool_calls":[
            {"id":"1","type":"function","function":{"name":"f","arguments":{"x":1}}}]},
        {"role":"tool","tool_call_id":"1","content":"4"},{"role":"tool","tool_call_id":"2","content":""},
        {"role":"user","content":[{"type":"text","text":"and"},{"type":"text","text":"so"}]}])"));
    REQUIRE(context.at("enable_thinking") == true);
    REQUIRE(context.at("add_generation_prompt") == true);
    REQUIRE(form->stop_strings == std::vector<std::string>{"x"});
    REQUIRE(form->tools.choice == gateway::ToolsForm::Choice::required);
    REQUIRE_FALSE(form->tools.parallel);
}

TEST_CASE("what the system says behind the first message counts from the beginning, what it says later from there",
          "[gateway][messages]") {
    const auto messages_of = [](const std::string& system, const std::string& messages) {
        return context_of(message("{" + system + R"("messages":[)" + messages + "]}")).at("messages");
    };
    const std::string user = R"({"role":"user","content":"a"})";
    const std::string told = R"({"role":"system","content":[{"type":"text","text":"agents","cache_control":{}}]})";
    REQUIRE(
        messages_of(R"("system":"s",)", user + "," + told) ==
        json::parse(R"([{"role":"system","content":[{"type":"text","text":"s"},{"type":"text","text":"agents"}]},)" +
                    user + "]"));
    REQUIRE(messages_of("", user + "," + told) ==
            json::parse(R"([{"role":"system","content":"agents"},)" + user + "]"));
    const std::string answered = user + R"(,{"role":"assistant","content":"b"},)";
    REQUIRE(messages_of(R"("system":"s",)", answered + user + "," + told) ==
            json::parse(R"([{"role":"system","content":"s"},)" + answered + user +
                        R"(,{"role":"system","content":"agents"}])"));
    REQUIRE(message(R"({"messages":[)" + told + "]}").error().param == "messages");
    REQUIRE(message(R"({"messages":[)" + user + R"(,{"role":"ctx","content":"x"}]})").error().param ==
            "messages[1].role");
}

TEST_CASE("a last message of the assistant is continued", "[gateway][messages]") {
    const auto continued = [](const std::string& content) {
        const auto form =
            message(R"({"messages":[{"role":"user","content":"a"},{"role":"assistant","content":)" + content + "}]}");
        REQUIRE(form);
        return form->continued_text;
    };
    REQUIRE(continued("\"so\"") == "so");
    REQUIRE(continued(R"([{"type":"text","text":"so"}])") == "so");
    REQUIRE_FALSE(continued("\"\""));
    REQUIRE_FALSE(continued(R"([{"type":"tool_use","id":"1","name":"f","input":{}}])"));
}
