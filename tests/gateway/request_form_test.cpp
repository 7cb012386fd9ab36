#include "gateway/openai/request_form.h"

#include <string>
#include <vector>

#include "gateway/openai/prepare.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using gateway::Endpoint;
using gateway_test::ByteText;
using gateway_test::kBos;
using gateway_test::kEnd;
using gateway_test::kEos;
using gateway_test::kVocabulary;
using gateway_test::Tokens;

const gateway::Models& models() {
    static const gateway::Models kModels = gateway_test::make_models({"m"}, {"alias"});
    return kModels;
}

gateway::FormLimits limits() {
    return {};
}

gateway::ApiResult<gateway::RequestForm> chat(const std::string& fields) {
    return gateway::read_form(
        Endpoint::chat, R"({"messages":[{"role":"user","content":"hi"}])" + (fields.empty() ? "" : "," + fields) + "}",
        limits(), models());
}

gateway::ApiResult<gateway::RequestForm> messages(const std::string& list) {
    return gateway::read_form(Endpoint::chat, R"({"messages":)" + list + "}", limits(), models());
}

gateway::ApiResult<gateway::RequestForm> completion(const std::string& fields) {
    return gateway::read_form(Endpoint::completions, "{" + fields + "}", limits(), models());
}

gateway::ApiResult<gateway::PreparedRequest> prepared(gateway::ApiResult<gateway::RequestForm> form,
                                                      std::uint32_t context_tokens = 1000,
                                                      const gateway::FormLimits& bounds = limits()) {
    REQUIRE(form);
    gateway::ClusterView cluster;
    cluster.context_tokens = context_tokens;
    cluster.block_tokens = 4;
    cluster.numerics_id = 77;
    return gateway::prepare(
        std::move(*form), {.limits = bounds, .text = ByteText(), .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
}

std::string shown(const Tokens& tokens) {
    std::string text;
    for (const base::TokenId token : tokens) {
        text += token >= kBos ? "{" + std::to_string(token) + "}" : std::string(1, static_cast<char>(token));
    }
    return text;
}

}  // namespace

TEST_CASE("a field of a wrong type or out of range is a 400 that names it", "[gateway][openai]") {
    const std::vector<std::pair<std::string, std::string>> cases = {
        {"n", "0"},
        {"n", "17"},
        {"n", "-1"},
        {"n", "1.5"},
        {"n", "\"2\""},
        {"n", "16384"},
        {"n", "1e30"},
        {"max_tokens", "0"},
        {"max_tokens", "-2"},
        {"max_tokens", "2147483648"},
        {"max_tokens", "99999999999999999999"},
        {"max_completion_tokens", "0"},
        {"temperature", "-0.1"},
        {"temperature", "2.1"},
        {"temperature", "\"1\""},
        {"top_p", "1.01"},
        {"min_p", "-1"},
        {"top_k", "-2"},
        {"repetition_penalty", "0"},
        {"presence_penalty", "-2.1"},
        {"frequency_penalty", "3"},
        {"seed", "1.5"},
        {"seed", "\"7\""},
        {"seed", "true"},
        {"logprobs", "2"},
        {"top_logprobs", "5"},
        {"top_logprobs", "21"},
        {"top_logprobs", "-1"},
        {"stop", "[1]"},
        {"stop", "7"},
        {"stop", R"(["a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a","a"])"},
        {"stop_token_ids", "[-1]"},
        {"stop_token_ids", "[259]"},
        {"stop_token_ids", "[\"a\"]"},
        {"stop_token_ids", "3"},
        {"logit_bias", "[]"},
        {"logit_bias", R"({"x":1})"},
        {"logit_bias", R"({"-1":1})"},
        {"logit_bias", R"({"259":1})"},
        {"logit_bias", R"({"1":101})"},
        {"logit_bias", R"({"1":"a"})"},
        {"min_tokens", "-1"},
        {"ignore_eos", "1"},
        {"stream", "\"yes\""},
        {"stream_options", R"({"include_usage":true})"},
        {"best_of", "2"},
        {"tools", R"([{"type":"function"}])"},
        {"tools", R"(["f"])"},
        {"tools", R"([{"type":"function","function":{"name":""}}])"},
        {"tools", R"([{"type":"web_search"}])"},
        {"tools", R"({"type":"function"})"},
        {"functions", R"(["f"])"},
        {"tool_choice", "\"required\""},
        {"tool_choice", R"({"type":"function","function":{"name":"f"}})"},
        {"response_format", R"({"type":"xml"})"},
        {"response_format", R"({"type":"json_schema"})"},
        {"response_format", R"({"type":"json_schema","json_schema":{}})"},
        {"response_format", "{}"},
        {"response_format", "\"text\""},
        {"structured_outputs", R"({"regex":5})"},
        {"structured_outputs", R"({"structural_tag":{}})"},
        {"structured_outputs", R"({"choice":[]})"},
        {"structured_outputs", R"({"regex":"a","choice":["b"]})"},
        {"guided_json", "5"},
        {"guided_choice", R"(["a",""])"},
        {"guided_grammar", "{}"},
        {"grammar", "\"root ::= [a]\""},
        {"modalities", R"(["text","audio"])"},
        {"chat_template", "\"x\""},
        {"cache_salt", "\"\""},
        {"cache_salt", "1"},
        {"prompt_cache_key", "1"},
        {"priority", "\"high\""},
        {"truncate_prompt_tokens", "0"},
        {"chat_template_kwargs", R"({"messages":[]})"},
        {"chat_template_kwargs", R"({"tokenize":true})"},
        {"use_beam_search", "true"},
        {"prompt_logprobs", "1"},
        {"model", "5"},
    };
    for (const auto& [field, value] : cases) {
        CAPTURE(field, value);
        const auto form = chat("\"" + field + "\":" + value);
        REQUIRE_FALSE(form);
        CHECK(form.error().status == 400u);
        CHECK(form.error().param == field);
        CHECK(form.error().message.find(field) != std::string::npos);
    }
    REQUIRE_FALSE(chat(R"("max_tokens":3,"min_tokens":4)"));
}

TEST_CASE("null is as good as absent, and unknown fields are accepted", "[gateway][openai]") {
    REQUIRE(chat(R"("n":null,"stop":null,"seed":null,"tools":null,"stream":null,"stream_options":null,"logprobs":null,
                    "response_format":null,"tool_choice":null,"max_tokens":null,"model":null)"));
    REQUIRE(chat(R"("some_field":{"a":[1]},"user":"u","metadata":{"a":"b"},"store":true,"service_tier":"auto",
                    "parallel_tool_calls":true,"prediction":{"type":"content"},"web_search_options":{},"verbosity":"low","priority":1e30,
                    "kv_transfer_params":{"host":"x"},"modalities":["text"],"audio":{"voice":"alloy","format":"wav"},"tools":[],"functions":[],"tool_choice":"auto",
                    "function_call":"none","response_format":{"type":"text"},"prompt_cache_key":"k","best_of":1)"));
}

TEST_CASE("fields are taken as they were meant", "[gateway][openai]") {
    const auto form =
        chat(R"("model":"alias","stream":true,"stream_options":{"include_usage":true},"n":2,"max_tokens":5,
        "max_completion_tokens":7.0,"temperature":0,"top_k":-1,"seed":-3,"stop":["a",null,"b"],"stop_token_ids":[1],
        "logit_bias":{"5":-100,"6":0.5},"logprobs":true,"top_logprobs":20,"min_tokens":2,"cache_salt":"s","sse_ping_interval":-1)");
    REQUIRE(form);
    REQUIRE(form->model_name == "alias");
    REQUIRE(form->stream);
    REQUIRE(form->include_usage);
    REQUIRE(form->n == 2u);
    REQUIRE(form->new_tokens_max == 7u);
    REQUIRE(form->top_k == 0);
    REQUIRE(form->seed == static_cast<std::uint64_t>(-3));
    REQUIRE(form->stop_strings == std::vector<std::string>{"a", "b"});
    REQUIRE(form->logit_bias.size() == 2u);
    REQUIRE(form->top_logprobs == 20u);
    REQUIRE(form->cache_scope == "salt:s");
    REQUIRE(form->ping_interval_s == -1);
}

TEST_CASE("a budget for reasoning has the names that other servers gave it", "[gateway][openai]") {
    for (const char* field : {R"("thinking_token_budget":9)", R"("thinking_budget":9)", R"("thinking_budget_tokens":9)",
                              R"("reasoning":{"max_tokens":9,"effort":"low"})"}) {
        CAPTURE(field);
        REQUIRE(chat(field)->reasoning_tokens_max == 9u);
    }
    REQUIRE_FALSE(chat("")->reasoning_tokens_max);
    REQUIRE_FALSE(chat("")->reasoning_unbounded);
    REQUIRE_FALSE(chat(R"("thinking_token_budget":-1)")->reasoning_tokens_max);
    REQUIRE(chat(R"("thinking_token_budget":-1)")->reasoning_unbounded);
    REQUIRE(chat(R"("thinking_token_budget":0)")->reasoning_tokens_max == 0u);
    REQUIRE(chat(R"("thinking_token_budget":-2)").error().param == "thinking_token_budget");
    REQUIRE(chat(R"("reasoning":{"max_tokens":"x"})").error().status == 400);
}

TEST_CASE("the reasoning of a prepared chat has its budget, or the server's", "[gateway][openai]") {
    ByteText text;
    text.style = {.reasons = true, .reasoning_begin = 1, .reasoning_end = 2};
    gateway::ClusterView cluster;
    cluster.context_tokens = 1000;
    gateway::FormLimits bounds;
    const auto rule_of = [&](const std::string& fields) {
        auto made = gateway::prepare(
            *chat(fields), {.limits = bounds, .text = text, .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
        REQUIRE(made);
        return gateway::generation_request(*made, 0, 0, 0, text).reasoning;
    };
    REQUIRE(rule_of("") == base::ReasoningRule{.begin = 1, .end = 2});
    bounds.reasoning_tokens_max = 50;
    REQUIRE(rule_of("")->tokens_max == 50u);
    REQUIRE(rule_of(R"("thinking_token_budget":3)")->tokens_max == 3u);
    REQUIRE_FALSE(rule_of(R"("thinking_token_budget":-1)")->tokens_max);
    text.style = {};
    REQUIRE_FALSE(rule_of(R"("thinking_token_budget":3)"));
}

TEST_CASE("what asks for nothing is no error", "[gateway][openai]") {
    for (const std::string stop : {"\"\"", "[\"\"]", "[\"\",null]", "[]", "null"}) {
        CAPTURE(stop);
        const auto form = chat("\"stop\":" + stop);
        REQUIRE(form);
        CHECK(form->stop_strings.empty());
    }
    REQUIRE(chat(R"("stop":["","a"])")->stop_strings == std::vector<std::string>{"a"});
    for (const std::string name : {"max_tokens", "max_completion_tokens"}) {
        for (const std::string value : {"-1", "-1.0"}) {
            CAPTURE(name, value);
            const auto form = chat("\"" + name + "\":" + value);
            REQUIRE(form);
            CHECK_FALSE(form->new_tokens_max);
            CHECK(prepared(form, 100)->new_tokens_max == 100 - prepared(form, 100)->prompts[0].tokens->size());
        }
    }
    REQUIRE(chat(R"("max_tokens":-1,"max_completion_tokens":5)")->new_tokens_max == 5u);
    REQUIRE(chat(R"("max_tokens":5,"max_completion_tokens":-1)")->fills_context);
    REQUIRE(prepared(completion(R"("prompt":"abc","max_tokens":-1)"), 100)->new_tokens_max == 96u);
    REQUIRE(prepared(completion(R"("prompt":"abc")"), 100)->new_tokens_max == 16u);
    REQUIRE(chat(R"("best_of":0)"));
    REQUIRE_FALSE(chat(R"("seed":-1)")->seed);
}

TEST_CASE("a seed may be any whole number", "[gateway][openai]") {
    REQUIRE(chat(R"("seed":9223372036854775807)")->seed == 9223372036854775807u);
    REQUIRE(chat(R"("seed":9223372036854775808)")->seed == 9223372036854775808u);
    REQUIRE(chat(R"("seed":18446744073709551615)")->seed == 18446744073709551615u);
    REQUIRE(chat(R"("seed":7.0)")->seed == 7u);
    const auto beyond = chat(R"("seed":1000000000000000000000000000000)");
    REQUIRE(beyond->seed);
    REQUIRE(beyond->seed == chat(R"("seed":1e30)")->seed);
    REQUIRE(beyond->seed != chat(R"("seed":2e30)")->seed);
    REQUIRE(beyond->seed != chat(R"("seed":-1e30)")->seed);
    REQUIRE_FALSE(chat(R"("seed":1e999)"));
}

TEST_CASE("either endpoint takes the other's form of logprobs", "[gateway][openai]") {
    REQUIRE_FALSE(completion(R"("prompt":"a","logprobs":false)")->logprobs);
    REQUIRE(completion(R"("prompt":"a","logprobs":true)")->logprobs);
    REQUIRE(completion(R"("prompt":"a","logprobs":true)")->top_logprobs == 1u);
    REQUIRE(completion(R"("prompt":"a","logprobs":0)")->logprobs);
    REQUIRE_FALSE(chat(R"("logprobs":0)")->logprobs);
}

TEST_CASE("whether a stream is asked for is seen without reading the body", "[gateway][openai]") {
    const std::string text(100'000, 'x');
    for (const std::string& body :
         {std::string(R"({"stream":true})"), std::string("{\"model\":5,\"stream\" :\n true,"),
          R"({"stream":true,"prompt":")" + text + "\"}", R"({"prompt":")" + text + R"(","stream":true})"}) {
        CAPTURE(body.substr(0, 40));
        CHECK(gateway::seems_to_ask_for_stream(body));
    }
    for (const std::string body : {R"({"stream":false})", R"({"stream_options":true})", "", "\"stream\"",
                                   "\"stream\":", R"({"prompt":"\"stream\":true"})"}) {
        CAPTURE(body);
        CHECK_FALSE(gateway::seems_to_ask_for_stream(body));
    }
}

TEST_CASE("tools are shown to the model where its template takes them", "[gateway][openai]") {
    const std::string tools = R"("tools":[{"type":"function","function":{"name":"get_weather","parameters":{}}}])";
    const std::string functions = R"("functions":[{"name":"get_weather","parameters":{}}])";
    for (const std::string& fields :
         {tools, tools + R"(,"tool_choice":"auto")", tools + R"(,"tool_choice":"none")",
          tools + R"(,"parallel_tool_calls":false)", functions, functions + R"(,"function_call":"none")"}) {
        CAPTURE(fields);
        CHECK(shown(*prepared(chat(fields))->prompts[0].tokens) == "tool:get_weather;user:hi{258}assistant:");
    }
    CHECK(shown(*prepared(chat(R"("tools":[],"tool_choice":"auto")"))->prompts[0].tokens) == "user:hi{258}assistant:");

    ByteText without;
    without.shows_tools = false;
    gateway::ClusterView cluster;
    cluster.context_tokens = 1000;
    auto bounds = limits();
    const auto prepare_without = [&](const std::string& fields) {
        return gateway::prepare(
            chat(fields).value(),
            {.limits = bounds, .text = without, .cluster = cluster, .hash_key = {}, .now_unix_s = 0});
    };
    REQUIRE(prepare_without(tools + R"(,"tool_choice":"none")"));
    REQUIRE(prepare_without(functions + R"(,"function_call":"none")"));
    const std::string strict = R"("tools":[{"type":"function","function":{"name":"f","strict":true}}])";
    for (const std::string& fields : {tools, functions, strict}) {  // may be called or not: they are not
        const auto left_out = prepare_without(fields);
        REQUIRE((left_out && left_out->tools_left_out));
        CHECK((left_out->form.grammar == nullptr && !left_out->reader.tools));  // what looks like a call is text
        CHECK(shown(*left_out->prompts[0].tokens) == "user:hi{258}assistant:");
    }
    const auto refuses = [&](const std::string& fields, const std::string& param) {
        const auto refused = prepare_without(fields);
        REQUIRE_FALSE(refused);
        CHECK((refused.error().status == 400u && refused.error().param == param));
    };
    refuses(tools + R"(,"tool_choice":"required")", "tools");
    refuses(functions + R"(,"function_call":{"name":"get_weather"})", "functions");
    bounds.leaves_tools_out = false;
    refuses(tools, "tools");
    REQUIRE(prepare_without(tools + R"(,"tool_choice":"none")"));
    REQUIRE_FALSE(completion(R"("prompt":"a",)" + tools));
}

TEST_CASE("an unknown model is a 404 with a code, a missing one the served one", "[gateway][openai]") {
    const auto unknown = chat(R"("model":"gpt-9")");
    REQUIRE(unknown.error().status == 404u);
    REQUIRE(unknown.error().code == "model_not_found");
    REQUIRE(chat("")->model_name == "m");
    REQUIRE(chat(R"("model":"default")")->model_name == "m");
}

TEST_CASE("bodies that are no JSON object are refused", "[gateway][openai]") {
    for (const std::string body : {"", "{", "null", "[]", "\"a\"", "{} {}", "{\"a\":1,}", "\xff\xfe",
                                   "{\"a\":\"\xed\xa0\x80\"}", "{\"a\":\"\\ud800\"}", "{\"a\":\"\xc0\x80\"}"}) {
        CAPTURE(body);
        const auto form = gateway::read_form(Endpoint::chat, body, limits(), models());
        REQUIRE_FALSE(form);
        CHECK(form.error().status == 400u);
    }
    std::string deep;
    for (int depth = 0; depth < 1'000'000; ++depth) {
        deep += "{\"a\":";
    }
    REQUIRE(gateway::read_form(Endpoint::chat, deep, limits(), models()).error().status == 400u);
}

TEST_CASE("messages are checked one by one", "[gateway][openai]") {
    for (const std::string list :
         {"null", "[]", "\"hi\"", "[1]", "[{}]", R"([{"role":"user"}])", R"([{"role":"user","content":null}])",
          R"([{"role":"no body","content":"x"}])", R"([{"role":1,"content":"x"}])", R"([{"role":"user","content":5}])",
          R"([{"role":"user","content":[{"text":"x"}]}])", R"([{"role":"user","content":[{"type":"text"}]}])",
          R"([{"role":"user","content":[{"type":"image_url","image_url":{"url":"data:,"}}]}])"}) {
        CAPTURE(list);
        const auto form = messages(list);
        REQUIRE_FALSE(form);
        CHECK(form.error().status == 400u);
        CHECK(form.error().param->starts_with("messages"));
    }
    const auto form = messages(R"([{"role":"developer","content":"d"},
        {"role":"user","content":[{"type":"text","text":"a","cache_control":{}},{"type":"text","text":"b"}],"name":null},
        {"role":"assistant","content":null,"tool_calls":[{"id":"1","function":{"name":"f","arguments":"{\"x\":1}"}}]},
        {"role":"tool","content":"r","tool_call_id":"1"}])");
    REQUIRE(form);
    REQUIRE(form->template_context.find(R"({"role":"system","content":"d"})") != std::string::npos);
    // Parts stay parts: what becomes of them is the template's matter.
    REQUIRE(form->template_context.find(
                R"([{"type":"text","text":"a","cache_control":{}},{"type":"text","text":"b"}])") != std::string::npos);
    REQUIRE(form->template_context.find(R"("arguments":{"x":1})") != std::string::npos);
}

TEST_CASE("a chat prompt is the rendered template", "[gateway][openai]") {
    const auto request = prepared(chat(R"("max_tokens":5)"));
    REQUIRE(request);
    REQUIRE(shown(*request->prompts[0].tokens) == "user:hi{258}assistant:");
    REQUIRE(request->new_tokens_max == 5u);
    // Without a bound the context is the bound.
    REQUIRE(prepared(chat(""), 100)->new_tokens_max == 100 - request->prompts[0].tokens->size());
}

TEST_CASE("special tokens that people write stay text", "[gateway][openai]") {
    const auto request =
        prepared(messages(R"([{"role":"user","content":"a<|end|>b<s>"},{"role":"user","content":"c"}])"));
    REQUIRE(request);
    REQUIRE(shown(*request->prompts[0].tokens) == "user:a<|end|>b<s>{258}user:c{258}assistant:");
}

TEST_CASE("the longest special text counts, and what only looks like one is text", "[gateway][openai]") {
    for (const std::string content : {"<s", "<<s><", "</s><s>", "<|end<|end|>|>", "\xee\x82\xa0<s>\xee\x82\xa0"}) {
        CAPTURE(content);
        const auto request = prepared(messages(R"([{"role":"user","content":")" + content + R"("}])"));
        REQUIRE(request);
        CHECK(shown(*request->prompts[0].tokens) == "user:" + content + "{258}assistant:");
    }
    // Private-use characters are no marks.
    const auto request =
        prepared(messages(R"([{"role":"user","content":"<s>"},{"role":"assistant","content":"\ue0000\ue001</s>"}])"));
    REQUIRE(request);
    REQUIRE(shown(*request->prompts[0].tokens) ==
            "user:<s>{258}assistant:\xee\x80\x80" + ("0\xee\x80\x81</s>" + std::string("{258}assistant:")));
}

TEST_CASE("every string that a client sent is data, wherever the template prints it", "[gateway][openai]") {
    const auto tokens_of = [](const gateway::ApiResult<gateway::RequestForm>& form) {
        const auto request = prepared(form);
        REQUIRE(request);
        return shown(*request->prompts[0].tokens);
    };
    // Names, documents and variables, values and keys.
    REQUIRE(tokens_of(messages(R"([{"role":"user","name":"<s>","content":"a"}])")) == "user:<s>,a{258}assistant:");
    REQUIRE(tokens_of(messages(R"([{"role":"user","content":"a"}],"documents":[{"text":"x</s>","<s>":1}])")) ==
            R"(user:a{258}[{"text":"x</s>","<s>":1}]assistant:)");
    REQUIRE(
        tokens_of(messages(R"([{"role":"user","content":"a"}],"chat_template_kwargs":{"extra":{"a":["<|end|>"]}})")) ==
        R"(user:a{258}{"a":["<|end|>"]}assistant:)");
    // Assistants too, but for what answers show.
    REQUIRE(tokens_of(messages(R"([{"role":"assistant","content":"<s><think>"}])")) ==
            "assistant:<s><think>{258}assistant:");
    // Two strings that the template prints side by side do not make one.
    REQUIRE(tokens_of(messages(
                R"([{"role":"user","content":[{"type":"text","text":"<|en"},{"type":"text","text":"d|>"}]}])")) ==
            "user:<|end|>{258}assistant:");
    REQUIRE(tokens_of(messages(R"([{"role":"user","content":"<"}])")) == "user:<{258}assistant:");
}

TEST_CASE("more text than the bound is a 400 that names it", "[gateway][openai]") {
    gateway::FormLimits bounds = limits();
    bounds.text_bytes_max = 9;
    const auto two = [](const std::string& second) {
        return messages(R"([{"role":"user","content":"12345"},{"role":"system","content":")" + second + R"("}])");
    };
    REQUIRE(prepared(two("6789"), 1000, bounds));
    const auto long_chat = prepared(two("67890"), 1000, bounds);
    REQUIRE_FALSE(long_chat);
    REQUIRE(long_chat.error().status == 400u);
    REQUIRE(long_chat.error().param == "messages");
    REQUIRE(long_chat.error().message.find("10 bytes of text; at most 9") != std::string::npos);
    REQUIRE(prepared(completion(R"("prompt":["12345","6789"])"), 1000, bounds));
    REQUIRE(prepared(completion(R"("prompt":["12345","67890"])"), 1000, bounds).error().param == "prompt");
}

TEST_CASE("more logprobs than the bound is a 400 that names the numbers", "[gateway][openai]") {
    gateway::FormLimits bounds = limits();
    bounds.logprob_records_max = 48;
    // 2 choices x 2 prompts x 4 tokens x (1 + 2 top logprobs) = 48
    const std::string asked = R"("prompt":["a","b"],"n":2,"max_tokens":4,)";
    REQUIRE(prepared(completion(asked + R"("logprobs":2)"), 1000, bounds));
    const auto more_top = prepared(completion(asked + R"("logprobs":3)"), 1000, bounds);
    REQUIRE_FALSE(more_top);
    REQUIRE(more_top.error().status == 400u);
    REQUIRE(more_top.error().param == "logprobs");
    REQUIRE(more_top.error().message.find("may need 64 logprobs") != std::string::npos);
    REQUIRE(more_top.error().message.find("at most 48") != std::string::npos);
    // With echo those of the prompts too: BOS and a letter each.
    REQUIRE_FALSE(prepared(completion(asked + R"("logprobs":2,"echo":true)"), 1000, bounds));
    REQUIRE(prepared(completion(asked + R"("logprobs":1,"echo":true)"), 1000, bounds));
    REQUIRE(prepared(completion(R"("prompt":["a","b"],"n":2,"max_tokens":400)"), 1000, bounds));
    // Without max_tokens a chat may fill the context.
    REQUIRE_FALSE(prepared(chat(R"("logprobs":true)"), 1000, bounds));
    REQUIRE(prepared(chat(R"("logprobs":true,"max_tokens":48)"), 1000, bounds));
}

TEST_CASE("a prepared request keeps no text but what is echoed", "[gateway][openai]") {
    const auto talk =
        prepared(messages(R"([{"role":"user","content":"a text that is longer than a string holds in itself"}],)"
                          R"("continue_final_message":true)"));
    REQUIRE(talk);
    REQUIRE(talk->form.template_context.empty());
    REQUIRE(talk->form.template_context.capacity() < 32u);
    REQUIRE_FALSE(talk->form.continued_text);
    REQUIRE(prepared(completion(R"("prompt":"abc")"))->prompts[0].text.empty());
    REQUIRE(prepared(completion(R"("prompt":"abc","echo":true)"))->prompts[0].text == "abc");
    REQUIRE(prepared(completion(R"("prompt":[97,98],"echo":true)"))->prompts[0].text == "ab");
}

TEST_CASE("a template that refuses is a 400 with its words", "[gateway][openai]") {
    const auto refused = prepared(messages(R"([{"role":"user","content":"refuse me"}])"));
    REQUIRE(refused.error().status == 400u);
    REQUIRE(refused.error().message == "the template refuses");
}

TEST_CASE("the last message can be continued", "[gateway][openai]") {
    const std::string list = R"([{"role":"user","content":"hi"},{"role":"assistant","content":"I am "}],)";
    const auto request = prepared(messages(list + R"("continue_final_message":true,"add_generation_prompt":false)"));
    REQUIRE(request);
    REQUIRE(shown(*request->prompts[0].tokens) == "user:hi{258}assistant:I am");
    REQUIRE_FALSE(messages(list + R"("continue_final_message":true,"add_generation_prompt":true)"));
    const std::string again = R"([{"role":"user","content":"ababab"},{"role":"assistant","content":"aabab"}],)";
    const auto later = prepared(messages(again + R"("continue_final_message":true)"));
    REQUIRE(later);
    REQUIRE(shown(*later->prompts[0].tokens) == "user:ababab{258}assistant:aabab");
    // A long text of a user, with special text in it, after much that looks like it.
    const std::string letters(1u << 20, 'a');
    const auto long_text =
        prepared(messages(R"([{"role":"user","content":")" + letters + letters + R"("},{"role":"user","content":")" +
                          letters + "<s>" + letters + R"("}],"continue_final_message":true)"),
                 8u << 20);
    REQUIRE(long_text);
    const bool is_equal =
        shown(*long_text->prompts[0].tokens) == "user:" + letters + letters + "{258}user:" + letters + "<s>" + letters;
    CHECK(is_equal);
    // Parts: the last one goes on.
    const auto parts = prepared(messages(
        R"([{"role":"user","content":[{"type":"text","text":"a"},{"type":"text","text":"b "}]}],"continue_final_message":true)"));
    REQUIRE(parts);
    REQUIRE(shown(*parts->prompts[0].tokens) == "user:ab");
    const auto lost = prepared(messages(R"([{"role":"user","content":"  "}],"continue_final_message":true)"));
    REQUIRE_FALSE(lost);
    REQUIRE(lost.error().param == "continue_final_message");
}

TEST_CASE("a prompt beyond the context is told both numbers", "[gateway][openai]") {
    const auto request = prepared(completion(R"("prompt":"0123456789","max_tokens":6)"), 16);
    REQUIRE(request.error().status == 400u);
    REQUIRE(request.error().code == "context_length_exceeded");
    REQUIRE(request.error().message.find("maximum context length is 16 tokens") != std::string::npos);
    REQUIRE(request.error().prompt_tokens == 11u);
    REQUIRE(request.error().context_tokens == 16u);
    REQUIRE(prepared(completion(R"("prompt":"0123456789","max_tokens":5)"), 16));
    REQUIRE(prepared(completion(R"("prompt":"0123456789")"), 16)->new_tokens_max == 5u);
    REQUIRE_FALSE(prepared(completion(R"("prompt":"0123456789","max_tokens":1)"), 11));
}

TEST_CASE("prompts come as text, tokens, and lists of both", "[gateway][openai]") {
    REQUIRE(shown(*prepared(completion(R"("prompt":"ab<|end|>")"))->prompts[0].tokens) == "{256}ab{258}");
    REQUIRE(shown(*prepared(completion(R"("prompt":"ab","add_special_tokens":false)"))->prompts[0].tokens) == "ab");
    REQUIRE(shown(*prepared(completion(R"("prompt":[97,98])"))->prompts[0].tokens) == "ab");
    const auto several = prepared(completion(R"("prompt":["a","b"],"n":2)"));
    REQUIRE(several->prompts.size() == 2u);
    REQUIRE(prepared(completion(R"("prompt":[[97],[98,99]])"))->prompts.size() == 2u);
    for (const char* prompt : {"null", "[]", "[[]]", "[1,259]", "[1,-1]", "[1,\"a\"]", "[\"a\",1]", "{}", "7"}) {
        CAPTURE(prompt);
        const auto form = completion("\"prompt\":" + std::string(prompt));
        REQUIRE_FALSE(form);
        CHECK(form.error().param == "prompt");
    }
    REQUIRE(prepared(completion(R"("prompt":"a","max_tokens":0)"))->hides_generated);
    REQUIRE(completion(R"("prompt":"a","suffix":"b","echo":true)").error().param == "suffix");
}

TEST_CASE("a truncated text keeps its BOS, ids are the last ones", "[gateway][openai]") {
    const auto tokens_of = [](const std::string& fields) {
        return shown(*prepared(completion(fields))->prompts[0].tokens);
    };
    REQUIRE(tokens_of(R"("prompt":"abcdef","truncate_prompt_tokens":3)") == "{256}ef");
    REQUIRE(tokens_of(R"("prompt":"abcdef","truncate_prompt_tokens":1)") == "{256}");
    REQUIRE(tokens_of(R"("prompt":"abcdef","truncate_prompt_tokens":7)") == "{256}abcdef");
    REQUIRE(tokens_of(R"("prompt":"abcdef","truncate_prompt_tokens":2,"add_special_tokens":false)") == "ef");
    REQUIRE(tokens_of(R"("prompt":[256,97,98,99],"truncate_prompt_tokens":2)") == "bc");
}

TEST_CASE("an empty prompt is answered from BOS", "[gateway][openai]") {
    REQUIRE(shown(*prepared(completion(R"("prompt":"")"))->prompts[0].tokens) == "{256}");
    REQUIRE(prepared(completion(R"("prompt":["","a"])"))->prompts.size() == 2u);
    const auto nothing = prepared(completion(R"("prompt":"","add_special_tokens":false)"));
    REQUIRE_FALSE(nothing);
    REQUIRE(nothing.error().status == 400u);
}

TEST_CASE("top_p may be 0, which leaves the likeliest token", "[gateway][openai]") {
    const auto request = prepared(completion(R"("prompt":"a","top_p":0)"));
    REQUIRE(request);
    const auto one = gateway::generation_request(*request, 0, 0, 4, ByteText());
    REQUIRE(one.sampling.top_p() == 1.0F);
    REQUIRE(one.sampling.top_k() == 1u);
    ByteText text;
    text.defaults = {.top_p = 0};
    REQUIRE(gateway::generation_request(*prepared(completion(R"("prompt":"a")")), 0, 0, 4, text).sampling.top_k() ==
            1u);
    REQUIRE_FALSE(completion(R"("prompt":"a","top_p":-0.1)"));
    REQUIRE_FALSE(completion(R"("prompt":"a","top_p":1.1)"));
}

TEST_CASE("a sequence gets what the client asked for, then the model's defaults", "[gateway][openai]") {
    ByteText text;
    text.defaults = {.temperature = 0.6, .top_p = 0.9, .top_k = 20};
    const auto request =
        prepared(completion(R"("prompt":"a","top_p":0.5,"seed":4,"n":2,"stop_token_ids":[97],"echo":true,
        "logprobs":3,"max_tokens":9,"min_tokens":2,"stop":"x")"));
    const auto one = gateway::generation_request(*request, 0, 1, 4, text);
    REQUIRE(one.sampling.temperature() == 0.6F);
    REQUIRE(one.sampling.top_p() == 0.5F);
    REQUIRE(one.sampling.top_k() == 20u);
    REQUIRE(one.sampling.repetition_penalty() == 1.0F);
    REQUIRE(one.sampling.seed() == 4u);
    REQUIRE(one.sampling.choice() == 1u);
    REQUIRE(one.sampling.logprobs());
    REQUIRE(one.sampling.top_logprobs() == 3u);
    REQUIRE(one.sampling.prompt_logprobs());
    REQUIRE(one.stop_tokens == Tokens{97, kEos});
    REQUIRE(one.stop_tokens_asked == 1u);
    REQUIRE(one.new_tokens_max == 9u);
    REQUIRE(one.new_tokens_min == 2u);
    REQUIRE(one.text.stop_strings == std::vector<std::string>{"x"});
    const auto free = prepared(completion(R"("prompt":"a","ignore_eos":true)"));
    REQUIRE(gateway::generation_request(*free, 0, 0, 4, text).stop_tokens.empty());
}
