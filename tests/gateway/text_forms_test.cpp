#include "gateway/openai/text_forms.h"

#include "tests/gateway/api_world.h"

namespace {

using namespace gateway_test;

std::string tokens_of(const json::object& answer) {
    return json::serialize(answer.at("tokens"));
}

/// A model whose text processes are all gone.
struct LostText final : ByteText {
    base::Result<Tokens> encode(std::string_view, bool, bool, std::span<const std::size_t>) const override {
        return base::fail(base::ErrorCode::unavailable, "the text process /opt/sluice does not answer");
    }
};

}  // namespace

TEST_CASE("where no text can be read it is the server's fault, and paths stay in it", "[gateway][text]") {
    const auto check = [](gateway::ModelKind kind, const std::string& path, const std::string& fields) {
        CAPTURE(path, fields);
        const auto text = std::make_shared<LostText>();
        World world({}, gateway::Models::make({{.name = "m", .text = text, .aliases = {}, .kind = kind}}, {}).value());
        const auto exchange = world.send("POST", path, "{" + fields + "}");
        REQUIRE(exchange->response);
        CHECK(exchange->response->status == 503u);
        CHECK(exchange->response->body.find("/opt") == std::string::npos);
    };
    check(gateway::ModelKind::text, "/tokenize", R"("prompt":"ab")");
    check(gateway::ModelKind::text, "/tokenize", R"("content":["ab",1])");
    check(gateway::ModelKind::text, "/v1/completions", R"("model":"m","prompt":"ab")");
    check(gateway::ModelKind::vectors, "/v1/embeddings", R"("model":"m","input":"ab")");
}

TEST_CASE("text is tokenized in the forms of vLLM and of llama.cpp", "[gateway][text]") {
    World world;
    const auto ask = [&](const std::string& fields) {
        const auto exchange = world.send("POST", "/tokenize", "{" + fields + "}");
        REQUIRE(exchange->response);
        CAPTURE(fields, exchange->response->body);
        REQUIRE(exchange->response->status == 200u);
        return body(*exchange);
    };
    const auto prompt = ask(R"("prompt":"ab")");
    REQUIRE(tokens_of(prompt) == "[256,97,98]");  // vLLM adds BOS where nothing is said
    REQUIRE(prompt.at("count") == 3);
    REQUIRE(prompt.at("max_model_len") == 4096);
    REQUIRE(prompt.at("token_strs").is_null());
    REQUIRE(tokens_of(ask(R"("prompt":"ab","add_special_tokens":false)")) == "[97,98]");
    REQUIRE(json::serialize(ask(R"("prompt":"a","return_token_strs":true)").at("token_strs")) == R"(["<s>","a"])");
    REQUIRE(tokens_of(ask(R"("prompt":"<s>","add_special_tokens":false)")) == "[256]");
    REQUIRE(tokens_of(ask(R"("prompt":"<s>","add_special_tokens":false,"parse_special":false)")) == "[60,115,62]");
    REQUIRE(tokens_of(ask(R"("prompt":"","add_special_tokens":false)")) == "[]");

    REQUIRE(tokens_of(ask(R"("content":"ab")")) == "[97,98]");  // llama.cpp does not
    REQUIRE(tokens_of(ask(R"("content":"ab","add_special":true)")) == "[256,97,98]");
    REQUIRE(tokens_of(ask(R"("content":["a",98,"c"],"add_special":true)")) == "[256,97,98,99]");
    REQUIRE(tokens_of(ask(R"("content":"aé","with_pieces":true)")) ==
            R"([{"id":97,"piece":"a"},{"id":195,"piece":[195]},{"id":169,"piece":[169]}])");

    const std::string messages = R"("messages":[{"role":"user","content":"<s>"}])";
    const auto chat = ask(messages);
    // What a user wrote is text, whatever it looks like.
    REQUIRE(tokens_of(chat) == "[117,115,101,114,58,60,115,62,258,97,115,115,105,115,116,97,110,116,58]");
    REQUIRE(ask(messages + R"(,"add_generation_prompt":false)").at("count") == 9);
    REQUIRE(ask(messages + R"(,"add_special_tokens":true)").at("count") == 20);
}

TEST_CASE("tokens become text again", "[gateway][text]") {
    World world;
    const auto ask = [&](const std::string& fields) {
        return world.send("POST", "/v1/detokenize", "{" + fields + "}");
    };
    const auto answer = ask(R"("tokens":[256,97,195,169,258])");
    REQUIRE(answer->response->body == R"({"prompt":"<s>aé<|end|>","content":"<s>aé<|end|>"})");
    REQUIRE(body(*ask(R"("tokens":[256,97],"skip_special_tokens":true)")).at("prompt") == "a");
    REQUIRE(body(*ask(R"("tokens":[])")).at("content") == "");
    for (const std::string bad :
         {"", R"("tokens":"a")", R"("tokens":[259])", R"("tokens":[-1])", R"("tokens":["a"])"}) {
        CAPTURE(bad);
        const auto refused = ask(bad);
        CHECK(refused->response->status == 400u);
        CHECK(body(*refused).at("error").at("param") == "tokens");
    }
}

TEST_CASE("a chat is rendered as its prompt would be", "[gateway][text]") {
    World world;
    for (const std::string path : {"/apply-template", "/v1/chat/completions/render", "/chat/completions/render"}) {
        CAPTURE(path);
        const auto exchange = world.send(
            "POST", path,
            R"({"messages":[{"role":"user","content":"<|end|>"}],"tools":[{"type":"function","function":{"name":"f"}}]})");
        REQUIRE(exchange->response->status == 200u);
        const auto answer = body(*exchange);
        CHECK(answer.at("prompt") == "tool:f;user:<|end|><|end|>assistant:");
        CHECK(answer.at("count") == 36 - 6);
        CHECK(answer.at("token_ids").as_array().size() == 30u);
        CHECK(answer.at("max_model_len") == 4096);
    }
    const auto refused =
        world.send("POST", "/apply-template", R"({"messages":[{"role":"user","content":"refuse me"}]})");
    REQUIRE(refused->response->status == 400u);
    REQUIRE(world.send("POST", "/apply-template", "{}")->response->status == 400u);
}

TEST_CASE("routes about text refuse what the others refuse, and count as requests", "[gateway][text]") {
    gateway::GatewayOptions options;
    options.form.text_bytes_max = 10;
    World world(options);
    const auto status = [&](const std::string& path, const std::string& text) {
        return world.send("POST", path, text)->response->status;
    };
    REQUIRE(status("/tokenize", "{") == 400u);
    REQUIRE(status("/tokenize", "{}") == 400u);
    REQUIRE(status("/tokenize", R"({"prompt":"a","content":"a"})") == 400u);
    REQUIRE(status("/tokenize", R"({"prompt":5})") == 400u);
    REQUIRE(status("/tokenize", R"({"content":[{}]})") == 400u);
    REQUIRE(status("/tokenize", R"({"prompt":"12345678901"})") == 400u);
    REQUIRE(status("/tokenize", R"({"messages":[{"role":"user","content":"12345678901"}]})") == 400u);
    REQUIRE(status("/tokenize", R"({"prompt":"a","model":"gpt-9"})") == 404u);
    REQUIRE(status("/tokenize", R"({"prompt":"a","add_special_tokens":"yes"})") == 400u);
    REQUIRE(status("/tokenize", R"({"prompt":"a","model":"org/m"})") == 200u);
    REQUIRE(world.send("GET", "/tokenize")->response->status == 405u);
    REQUIRE(world.api->in_flight() == 0u);
    world.api->drain({});
    REQUIRE(status("/tokenize", R"({"prompt":"a"})") == 503u);
    const auto lines = world.lines();
    REQUIRE(lines.size() == 12u);
    REQUIRE(lines[9].at("endpoint") == "tokenize");
    REQUIRE(lines[9].at("model") == "m");
}

TEST_CASE("text is tokenized before there is any worker", "[gateway][text]") {
    World world({}, make_models({"m"}));
    proto::DescribeReply nobody;
    nobody.add_models()->set_model("other");
    world.owner.table.on_cluster(nobody);
    REQUIRE(world.send("POST", "/tokenize", R"({"prompt":"a"})")->response->status == 200u);
}

TEST_CASE("what is served can be asked for, without addresses and paths", "[gateway][text]") {
    World world({}, make_models({"m", "n"}, {"org/m", "*"}));
    const auto server = body(*world.send("GET", "/server_info"));
    REQUIRE(server.at("version") == "1");
    REQUIRE(json::serialize(server.at("models").at(0).at("names")) == R"(["m","org/m"])");
    REQUIRE(server.at("models").at(1).at("model_path") == "n");
    REQUIRE(server.at("limits").at("n_max") == 16);
    REQUIRE(world.send("GET", "/get_server_info")->response->status == 200u);
    const auto model = body(*world.send("GET", "/model_info"));
    REQUIRE(model.at("model_path") == "m");
    REQUIRE(model.at("is_generation") == true);
    REQUIRE(model.at("vocab_size") == kVocabulary);
    REQUIRE(world.send("GET", "/get_model_info")->response->status == 200u);
    const auto tokenizer = body(*world.send("GET", "/v1/tokenizer_info"));
    REQUIRE(tokenizer.at("bos_token") == "<s>");
    REQUIRE(tokenizer.at("eos_token") == "</s>");
    REQUIRE(json::serialize(tokenizer.at("eos_token_ids")) == "[257]");
}
