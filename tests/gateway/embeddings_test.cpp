// /v1/embeddings: from a body to one vector of each text, over recorded ports.
#include <algorithm>
#include <boost/json.hpp>
#include <cmath>
#include <cstring>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "gateway/api.h"
#include "gateway/openai/embedding_form.h"
#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;
namespace json = boost::json;
using Vector = std::vector<float>;

gateway::Models two_models() {
    std::vector<gateway::ServedModel> models;
    models.push_back({.name = "chat", .text = std::make_shared<ByteText>()});
    models.push_back({.name = "vectors",
                      .text = std::make_shared<ByteText>(),
                      .aliases = {"text-embedding-ada-002"},
                      .kind = gateway::ModelKind::vectors});
    return gateway::Models::make(std::move(models), {}).value();
}

/// The routes over recorded ports, with a model for chat and an encoder for texts of up to 20 tokens.
struct World {
    explicit World(gateway::GatewayOptions given = {}, gateway::RequestOptions requests = {})
        : options(std::move(given)), owner(requests, two_models()) {
        proto::DescribeReply reply;
        for (const auto& [name, tokens] : {std::pair("chat", 4096u), std::pair("vectors", 20u)}) {
            proto::ModelState& state = *reply.add_models();
            state.set_model(name);
            state.set_context_tokens(tokens);
            state.set_ready(true);
        }
        owner.table.on_cluster(reply);
        api = std::make_unique<gateway::Api>(
            gateway::Api::Setup{.options = options,
                                .models = owner.models,
                                .hash_key = {},
                                .table = owner.table,
                                .source = owner.table,
                                .workers = owner.ports,
                                .rewriters = {},
                                .metrics = owner.rows,
                                .log = log,
                                .clock = owner.clock,
                                .post = [this](std::function<void()> work) { posted.push_back(std::move(work)); },
                                .post_text = [this](const std::string&, std::uint64_t,
                                                    std::function<void()> work) { posted.push_back(std::move(work)); },
                                .wake = [this](base::TimePoint at) { wakes.push_back(at); },
                                .load = [] { return gateway::HttpServer::Load{}; },
                                .cors = cors,
                                .version = "1"});
    }
    ~World() {
        api->give_up_all();
        run();
    }
    void run() {
        while (!posted.empty()) {
            const auto work = std::move(posted.front());
            posted.pop_front();
            work();
        }
    }
    std::shared_ptr<FakeExchange> post(const std::string& path, const std::string& body) {
        gateway::HttpRequest request;
        request.head.method = "POST";
        request.head.path = path;
        request.head.fields = {{"content-type", "application/json"}};
        request.body = body;
        request.received_at = owner.clock.now();
        auto exchange = std::make_shared<FakeExchange>();
        api->handle(std::move(request), exchange);
        run();
        return exchange;
    }
    std::shared_ptr<FakeExchange> embed(const std::string& fields) {
        return post("/v1/embeddings", "{" + fields + "}");
    }

    const proto::PlaceRequest& asked(std::size_t number) const { return owner.ports.placed.at(number); }
    base::RequestId id(std::size_t number) const { return base::RequestId{asked(number).request_id()}; }
    void place(std::size_t number) {
        owner.table.on_place_answered(id(number), base::Epoch{asked(number).epoch()},
                                      local_placement(make_endpoint(2, 20)));
        run();
    }
    void refuse(std::size_t number, base::ErrorCode code, std::uint32_t retry_after_ms = 1000) {
        owner.table.on_place_answered(id(number), base::Epoch{asked(number).epoch()}, refusal(code, retry_after_ms));
        run();
    }
    void answer(std::size_t number, const Vector& vector) {
        proto::SequenceOutput output;
        output.set_request_id(base::raw(id(number)));
        output.set_epoch(asked(number).epoch());
        output.mutable_vector()->Assign(vector.begin(), vector.end());
        output.set_finish(proto::SequenceOutput::FINISH_STOP);
        owner.table.on_output(base::Incarnation{20}, output);
        run();
    }

    gateway::GatewayOptions options;
    Owner owner;
    gateway::Cors cors = gateway::Cors::make({}).value();
    gateway::RequestLog log{
        {.kind = gateway::AccessLogKind::off, .metrics = owner.rows, .clock = owner.clock, .sink = {}}};
    std::deque<std::function<void()>> posted;
    std::vector<base::TimePoint> wakes;  // asked for by answers
    std::unique_ptr<gateway::Api> api;
};

json::object body(const FakeExchange& exchange) {
    REQUIRE(exchange.answers == 1);
    return json::parse(exchange.response.value().body).as_object();
}

json::object error(const FakeExchange& exchange, unsigned status) {
    REQUIRE(exchange.answers == 1);
    CHECK(exchange.response->status == status);
    return body(exchange).at("error").as_object();
}

std::string text_of(const json::value& value) {
    return std::string(value.as_string());
}

Vector floats_of(const json::value& list) {
    Vector values;
    for (const json::value& value : list.as_array()) {
        values.push_back(value.to_number<float>());
    }
    return values;
}

const std::vector<std::string> kBadBodies = {R"("input": "")",        R"("input": [])",        R"("input": ["a", ""])",
                                             R"("input": [[1], []])", R"("input": 3)",         R"("input": {"a": 1})",
                                             R"("input": [1, "a"])",  R"("input": ["a", 1])",  R"("input": [[1, -1]])",
                                             R"("input": [1, 259])",  R"("input": [1.5])",     R"("input": null)",
                                             R"("inputs": "a")",      R"("input": [[["a"]]])", R"("input": [true])"};

}  // namespace

TEST_CASE("texts are encoded by workers that encode, and their vectors come back in order", "[gateway][embeddings]") {
    World world;
    const auto exchange = world.embed(R"("model":"vectors","input":["ab","cde"],"user":"someone","new_field":1)");
    REQUIRE(world.owner.ports.placed.size() == 2);
    CHECK(world.asked(0).encode());
    CHECK(world.asked(0).header().model() == "vectors");
    CHECK(world.asked(0).prompt_tokens() == 3);  // with BOS
    CHECK(world.asked(0).new_tokens_max() == 0);
    CHECK(world.asked(0).block_hashes().empty());
    world.place(0);
    world.place(1);
    const auto commands = world.owner.ports.sent_to(20);
    REQUIRE(commands.size() == 2);
    CHECK(commands[0].start().part() == proto::Start::PART_ENCODE);
    CHECK(commands[1].start().prompt_size() == 4);
    world.answer(1, {0.25f, -1.0f});
    CHECK(exchange->answers == 0);
    world.answer(0, {0.1f, 1e-8f});
    const json::object answer = body(*exchange);
    CHECK(exchange->response->status == 200);
    CHECK(exchange->response->content_type == "application/json");
    CHECK(text_of(answer.at("object")) == "list");
    CHECK(text_of(answer.at("model")) == "vectors");
    const json::array& data = answer.at("data").as_array();
    REQUIRE(data.size() == 2);
    for (std::int64_t i = 0; i < 2; ++i) {
        CHECK(text_of(data.at(static_cast<std::size_t>(i)).at("object")) == "embedding");
        CHECK(data.at(static_cast<std::size_t>(i)).at("index") == i);
    }
    CHECK(floats_of(data.at(0).at("embedding")) == Vector{0.1f, 1e-8f});
    CHECK(floats_of(data.at(1).at("embedding")) == Vector{0.25f, -1.0f});
    CHECK(answer.at("usage") == json::value({{"prompt_tokens", 7}, {"total_tokens", 7}}));
    REQUIRE(world.owner.ports.released.size() == 2);
    CHECK(world.owner.ports.released[0].phase() == proto::ReleaseRequest::Ended::PHASE_ALL);
    CHECK(world.owner.ports.released[0].ttft_us() > 0);
    const std::string rows = world.owner.metrics.text();
    CHECK(rows.find(R"(sluice_gateway_tokens_total{kind="prompt",model="vectors"} 7)") != std::string::npos);
    CHECK(rows.find(
              R"(sluice_gateway_requests_total{code="200",endpoint="embeddings",model="vectors",stream="false"} 1)") !=
          std::string::npos);
    CHECK(world.owner.table.open_count() == 0);
}

TEST_CASE("an input is a text, texts, token ids or lists of them; other forms are told what would do",
          "[gateway][embeddings]") {
    World world;
    for (const auto& [input, tokens] : {std::pair(R"("hello")", std::vector<std::uint32_t>{6}),
                                        std::pair(R"([104, 105])", std::vector<std::uint32_t>{2}),
                                        std::pair(R"(["a", "bc"])", std::vector<std::uint32_t>{2, 3}),
                                        std::pair(R"([[1, 2, 3], [4.0]])", std::vector<std::uint32_t>{3, 1}),
                                        std::pair(R"(["a", [1, 2]])", std::vector<std::uint32_t>{2, 2})}) {
        CAPTURE(input);
        const std::size_t before = world.owner.ports.placed.size();
        const auto exchange = world.embed(std::string(R"("input":)") + input);
        REQUIRE(world.owner.ports.placed.size() == before + tokens.size());
        for (std::size_t i = 0; i < tokens.size(); ++i) {
            CHECK(world.asked(before + i).prompt_tokens() == tokens[i]);
            world.place(before + i);
            world.answer(before + i, {1.0f});
        }
        CHECK(exchange->response->status == 200);
        CHECK(text_of(body(*exchange).at("model")) == "vectors");  // the first that encodes, where none is named
    }
    const std::size_t before = world.owner.ports.placed.size();
    for (const std::string& bad : kBadBodies) {
        CAPTURE(bad);
        const json::object told = error(*world.embed(bad), 400);
        CHECK(told.at("param") == "input");
        CHECK_FALSE(told.at("message").as_string().empty());
    }
    CHECK(error(*world.embed(R"("input":"a","encoding_format":"int8")"), 400).at("param") == "encoding_format");
    CHECK(error(*world.embed(R"("input":"a","dimensions":0)"), 400).at("param") == "dimensions");
    CHECK(error(*world.embed(R"("input":"a","model":"nobody")"), 404).at("code") == "model_not_found");
    CHECK(world.owner.ports.placed.size() == before);
}

TEST_CASE("a special token that a text spells stays text", "[gateway][embeddings]") {
    World world;
    world.embed(R"("input":"</s>")");
    CHECK(world.asked(0).prompt_tokens() == 5);
}

TEST_CASE("a text that is too long is told both numbers, too many texts as well", "[gateway][embeddings]") {
    gateway::GatewayOptions options;
    options.form.inputs_max = 2;
    World world(options);
    const json::object told = error(*world.embed(R"("input":["short", "twenty tokens with BOS"])"), 400);
    CHECK(told.at("code") == "context_length_exceeded");
    CHECK(told.at("n_prompt_tokens") == 23);
    CHECK(told.at("n_ctx") == 20);
    const std::string message = text_of(told.at("message"));
    CHECK(message.find("text 1") != std::string::npos);
    CHECK(message.find("23") != std::string::npos);
    CHECK(message.find("20") != std::string::npos);
    const std::string many = text_of(error(*world.embed(R"("input":["a","b","c"])"), 400).at("message"));
    CHECK(many.find("3 texts") != std::string::npos);
    CHECK(many.find("at most 2") != std::string::npos);
    CHECK(world.owner.ports.placed.empty());
}

TEST_CASE("models that make text give no vectors, and encoders no text", "[gateway][embeddings]") {
    World world;
    const json::object text = error(*world.embed(R"("model":"chat","input":"a")"), 400);
    CHECK(text.at("param") == "model");
    CHECK(text_of(text.at("message")).find("'chat' makes text") != std::string::npos);
    CHECK(text_of(text.at("message")).find("'vectors'") != std::string::npos);
    for (const auto& [path, prompt] :
         {std::pair("/v1/completions", R"("prompt":"a")"),
          std::pair("/v1/chat/completions", R"("messages":[{"role":"user","content":"a"}])")}) {
        CAPTURE(path);
        const json::object vectors =
            error(*world.post(path, std::string(R"({"model":"text-embedding-ada-002",)") + prompt + "}"), 400);
        CHECK(vectors.at("param") == "model");
        CHECK(text_of(vectors.at("message")).find("gives embeddings and no text") != std::string::npos);
        CHECK(text_of(vectors.at("message")).find("'chat'") != std::string::npos);
    }
    CHECK(world.owner.ports.placed.empty());
}

TEST_CASE("base64 holds the same floats, little-endian", "[gateway][embeddings]") {
    World world;
    const auto exchange = world.embed(R"("model":"text-embedding-ada-002","input":"a","encoding_format":"base64")");
    world.place(0);
    world.answer(0, {1.0f, -2.5f});
    const json::object answer = body(*exchange);
    CHECK(text_of(answer.at("model")) == "text-embedding-ada-002");
    // 00 00 80 3f 00 00 20 c0
    CHECK(answer.at("data").at(0).at("embedding") == "AACAPwAAIMA=");
    std::string json = gateway::embedding_json("m", {{1.0f}, {1.0f, 1.0f, 1.0f}}, true, 1);
    CHECK(json.find("\"AACAPw==\"") != std::string::npos);
    CHECK(json.find("\"AACAPwAAgD8AAIA/\"") != std::string::npos);
}

TEST_CASE("dimensions cut a vector and make it a unit again; more than there are is an error",
          "[gateway][embeddings]") {
    World world;
    const auto exchange = world.embed(R"("input":"a","dimensions":2)");
    world.place(0);
    world.answer(0, {0.3f, 0.4f, 0.8660254f});
    const Vector vector = floats_of(body(*exchange).at("data").at(0).at("embedding"));
    REQUIRE(vector.size() == 2);
    CHECK(std::abs(vector[0] - 0.6f) < 1e-6f);
    CHECK(std::abs(vector[1] - 0.8f) < 1e-6f);

    const auto whole = world.embed(R"("input":"a","dimensions":3)");
    world.place(1);
    world.answer(1, {3.0f, 0.0f, 4.0f});
    CHECK(floats_of(body(*whole).at("data").at(0).at("embedding")) == Vector{3.0f, 0.0f, 4.0f});

    const auto wide = world.embed(R"("input":["a","b"],"dimensions":4)");
    world.place(2);
    world.place(3);
    world.answer(2, {1.0f, 0.0f, 0.0f});
    const json::object told = error(*wide, 400);
    CHECK(told.at("param") == "dimensions");
    CHECK(text_of(told.at("message")).find("4") != std::string::npos);
    CHECK(text_of(told.at("message")).find("3") != std::string::npos);
    CHECK(world.owner.ports.sent_to(20).back().has_cancel());  // the other text
    CHECK(world.owner.table.open_count() == 0);
}

TEST_CASE("of many texts only some are at the workers at a time", "[gateway][embeddings]") {
    gateway::GatewayOptions options;
    options.embedding_texts_at_once = 3;
    World world(options);
    std::string input;
    for (int i = 0; i < 10; ++i) {
        input += std::string(i == 0 ? "" : ",") + "\"" + static_cast<char>('a' + i) + "\"";
    }
    const auto exchange = world.embed(R"("input":[)" + input + "]");
    std::size_t answered = 0;
    while (exchange->answers == 0) {
        REQUIRE(world.owner.table.open_count() <= 3);
        REQUIRE(world.owner.ports.placed.size() == std::min<std::size_t>(10, answered + 3));
        world.place(answered);
        world.answer(answered, {static_cast<float>(answered)});
        ++answered;
    }
    REQUIRE(answered == 10);
    const json::array data = body(*exchange).at("data").as_array();
    for (std::size_t i = 0; i < 10; ++i) {
        CHECK(floats_of(data.at(i).at("embedding")) == Vector{static_cast<float>(i)});
    }
}

TEST_CASE("a request of which nothing can be placed is refused, one that has begun waits for room",
          "[gateway][embeddings]") {
    World world;
    const auto refused = world.embed(R"("input":["a","b"])");
    world.refuse(0, base::ErrorCode::resource_exhausted, 3000);
    world.refuse(1, base::ErrorCode::resource_exhausted, 3000);
    CHECK(error(*refused, 429).at("code") == "rate_limit_exceeded");

    const auto begun = world.embed(R"("input":["a","b","c"])");
    const std::size_t first = world.owner.ports.placed.size() - 3;
    world.place(first);
    world.refuse(first + 1, base::ErrorCode::resource_exhausted);
    world.place(first + 2);
    world.answer(first + 2, {3.0f});  // room again
    REQUIRE(world.owner.ports.placed.size() == first + 4);
    world.refuse(first + 3, base::ErrorCode::resource_exhausted);
    world.answer(first, {1.0f});
    REQUIRE(world.owner.ports.placed.size() == first + 5);
    world.refuse(first + 4, base::ErrorCode::resource_exhausted);  // nothing of it is under way any more
    world.api->tick(world.owner.clock.now());
    REQUIRE(world.owner.ports.placed.size() == first + 5);
    world.owner.clock.advance(1s);
    world.api->tick(world.owner.clock.now());
    REQUIRE(world.owner.ports.placed.size() == first + 6);
    world.place(first + 5);
    world.answer(first + 5, {2.0f});
    const json::array data = body(*begun).at("data").as_array();
    CHECK(floats_of(data.at(1).at("embedding")) == Vector{2.0f});
    CHECK(floats_of(data.at(2).at("embedding")) == Vector{3.0f});
}

TEST_CASE("who waits for room longer than the request may take gets the time-out", "[gateway][embeddings]") {
    World world;
    const auto exchange = world.embed(R"("input":["a","b"])");
    world.place(0);
    world.refuse(1, base::ErrorCode::resource_exhausted);
    world.answer(0, {1.0f});
    world.refuse(2, base::ErrorCode::resource_exhausted);
    world.owner.clock.advance(world.options.request_timeout);
    world.api->tick(world.owner.clock.now());
    world.run();
    CHECK(error(*exchange, 504).at("code") == "timeout");
}

TEST_CASE("texts of a worker that is lost are placed again; what cannot be repeated fails the request once",
          "[gateway][embeddings]") {
    World world;
    const auto exchange = world.embed(R"("input":["a","b"])");
    world.place(0);
    world.place(1);
    world.owner.table.on_worker_lost(base::Incarnation{20}, {base::ErrorCode::unavailable, "gone"});
    REQUIRE(world.owner.ports.placed.size() == 4);
    CHECK(world.asked(2).encode());
    CHECK(world.asked(2).epoch() == 1);
    CHECK_FALSE(world.asked(2).begun());
    world.place(2);
    world.place(3);
    world.answer(2, {1.0f});
    proto::SequenceOutput broken = error_output(world.id(3), 1, base::ErrorCode::internal);
    world.owner.table.on_output(base::Incarnation{20}, broken);
    world.run();
    error(*exchange, 500);
    CHECK(world.owner.table.open_count() == 0);
}

TEST_CASE("a client that goes takes its texts with it, and so does a gateway that ends", "[gateway][embeddings]") {
    World world;
    const auto exchange = world.embed(R"("input":["a","b"])");
    world.place(0);
    world.place(1);
    exchange->gone("client_gone");
    world.run();
    CHECK(exchange->answers == 0);
    const auto commands = world.owner.ports.sent_to(20);
    CHECK(std::count_if(commands.begin(), commands.end(), [](const auto& one) { return one.has_cancel(); }) == 2);
    CHECK(world.owner.table.open_count() == 0);
    CHECK(world.api->in_flight() == 0);

    const auto last = world.embed(R"("input":"a")");
    world.place(2);
    world.api->drain({});
    error(*world.embed(R"("input":"b")"), 503);
    world.api->give_up_all();
    world.run();
    error(*last, 503);
    CHECK(world.api->in_flight() == 0);
}

TEST_CASE("a vector that is cut from a zero vector stays one", "[gateway][embeddings]") {
    Vector vector{0.0f, 0.0f, 1.0f};
    gateway::cut_vector(vector, 2);
    CHECK(vector == Vector{0.0f, 0.0f});
}
