#include <map>
#include <set>
#include <sstream>
#include <string>

#include "tests/gateway/api_world.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;
namespace json = boost::json;

constexpr auto kLength = proto::SequenceOutput::FINISH_LENGTH;
constexpr auto kStop = proto::SequenceOutput::FINISH_STOP;

}  // namespace

TEST_CASE("a chat stream is role, text, end, usage, [DONE], byte for byte", "[gateway][api]") {
    World world;
    const auto exchange = world.chat(R"("stream":true,"stream_options":{"include_usage":true},"max_tokens":3)");
    world.place();
    REQUIRE(exchange->streamed.empty());  // nothing at admission: it would pass for the first token
    world.say("a");
    REQUIRE(exchange->content_type == "text/event-stream; charset=utf-8");
    world.say("b");
    world.say("c", kLength);
    const auto all = events(*exchange);
    REQUIRE(all.size() == 6u);
    const std::string id = all[0].at("id").as_string().c_str();
    REQUIRE(id.starts_with("chatcmpl-"));
    REQUIRE(id.size() == 9u + 24u);
    const std::string start = R"({"id":")" + id + R"(","object":"chat.completion.chunk","created":)" +
                              std::to_string(all[0].at("created").as_int64()) +
                              R"(,"model":"m","system_fingerprint":"b1-000000000000004d","choices":[)";
    const auto chunk = [&](const std::string& choice) { return "data: " + start + choice + "],\"usage\":null}\n\n"; };
    REQUIRE(
        exchange->streamed ==
        chunk(R"({"index":0,"delta":{"role":"assistant","content":""},"logprobs":null,"finish_reason":null})") +
            chunk(R"({"index":0,"delta":{"content":"a"},"logprobs":null,"finish_reason":null})") +
            chunk(R"({"index":0,"delta":{"content":"b"},"logprobs":null,"finish_reason":null})") +
            chunk(R"({"index":0,"delta":{"content":"c"},"logprobs":null,"finish_reason":null})") +
            chunk(R"({"index":0,"delta":{},"logprobs":null,"finish_reason":"length","stop_reason":null})") +
            "data: " + start +
            R"(],"usage":{"prompt_tokens":18,"completion_tokens":3,"total_tokens":21,"prompt_tokens_details":{"cached_tokens":0},)"
            R"("completion_tokens_details":{"reasoning_tokens":0}}})"
            "\n\ndata: [DONE]\n\n");
    REQUIRE(exchange->answers == 1);
    REQUIRE(world.api->in_flight() == 0u);
}

TEST_CASE("several choices begin in order and end once each", "[gateway][api]") {
    World world;
    const auto exchange = world.chat(R"("stream":true,"n":3,"max_tokens":2)");
    REQUIRE(world.owner.ports.placed.size() == 3u);
    world.place(2);
    world.say("x", proto::SequenceOutput::FINISH_NONE, 2);
    REQUIRE(exchange->streamed.empty());  // the others may still be refused
    world.place(0);
    world.place(1);
    world.say("y", kLength, 1);
    world.say("z", kStop, 0);
    world.say("x", kLength, 2);
    std::vector<std::int64_t> roles;
    std::map<std::int64_t, int> ends;
    for (const auto& event : events(*exchange)) {
        const auto& choice = event.at("choices").as_array().at(0).as_object();
        REQUIRE(event.at("choices").as_array().size() == 1u);
        if (choice.at("delta").as_object().contains("role")) { roles.push_back(choice.at("index").as_int64()); }
        if (!choice.at("finish_reason").is_null()) { ++ends[choice.at("index").as_int64()]; }
    }
    REQUIRE(roles == std::vector<std::int64_t>{0, 1, 2});
    REQUIRE(ends == std::map<std::int64_t, int>{{0, 1}, {1, 1}, {2, 1}});
}

TEST_CASE("a refusal before the stream begins is a real status, and takes the other choices with it",
          "[gateway][api]") {
    World world;
    const auto exchange = world.chat(R"("stream":true,"n":2,"max_tokens":2)");
    world.place(0);
    world.say("x");
    world.owner.table.on_place_answered(world.id(1), base::Epoch{0},
                                        refusal(base::ErrorCode::resource_exhausted, 3000, "queues full"));
    REQUIRE(exchange->answers == 1);
    REQUIRE(exchange->response->status == 429u);
    REQUIRE(field(*exchange->response, "Retry-After") == "3");
    REQUIRE(body(*exchange).at("error").at("message") == "queues full");
    REQUIRE(world.owner.table.open_count() == 0u);
    REQUIRE(world.owner.ports.sent_to(20).back().cancel().reason() == "sibling_failed");
}

TEST_CASE(
    "every request has one outcome at the door: let in when all of it has a place, refused where the scheduler says so",
    "[gateway][api]") {
    World world;
    const auto outcomes = [&world] {
        std::map<std::string, int> found;
        std::istringstream rows(world.owner.metrics.text());
        for (std::string row; std::getline(rows, row);) {
            if (!row.starts_with("sluice_gateway_admission_total{")) { continue; }
            const auto begin = row.find("outcome=\"") + 9;
            found[row.substr(begin, row.find('"', begin) - begin)] += std::stoi(row.substr(row.rfind(' ') + 1));
        }
        return found;
    };
    const auto streamed = world.chat(R"("stream":true,"n":2,"max_tokens":2)");
    world.place(0);
    CHECK(outcomes() == std::map<std::string, int>{});  // the other choice can still be refused
    world.place(1);
    CHECK(outcomes() == std::map<std::string, int>{{"admitted", 1}});
    world.say("x", kLength, 0);
    world.say("x", kLength, 1);
    const auto halved = world.chat(R"("n":2,"max_tokens":2)");
    world.place(2);
    world.owner.table.on_place_answered(world.id(3), base::Epoch{0},
                                        refusal(base::ErrorCode::resource_exhausted, 3000, "too late"));
    CHECK(halved->response->status == 429u);
    CHECK(outcomes() == std::map<std::string, int>{{"admitted", 1}, {"rejected_placement", 1}});
    const auto without_worker = world.chat(R"("max_tokens":2)");
    world.owner.table.on_place_answered(world.id(4), base::Epoch{0},
                                        refusal(base::ErrorCode::unavailable, 2000, "no worker"));
    CHECK(without_worker->response->status == 503u);
    const auto too_long = world.chat(R"("max_tokens":2)");
    world.owner.table.on_place_answered(world.id(5), base::Epoch{0},
                                        refusal(base::ErrorCode::invalid_argument, 0, "never fits"));
    const auto left = world.chat(R"("max_tokens":2)");
    left->gone("client_gone");
    CHECK(outcomes() == std::map<std::string, int>{{"admitted", 2},  // who leaves was not refused
                                                   {"rejected_placement", 1},
                                                   {"rejected_unavailable", 1},
                                                   {"rejected_invalid", 1}});
}

TEST_CASE("an error after the stream began is an event, then [DONE], then the end of the connection",
          "[gateway][api]") {
    World world;
    const auto exchange = world.chat(R"("stream":true,"max_tokens":5)");
    world.place();
    world.say("a");
    world.owner.table.on_output(base::Incarnation{20}, error_output(world.id(), 0, base::ErrorCode::internal));
    const auto all = events(*exchange);
    REQUIRE(all.back().at("error").at("type") == "server_error");
    REQUIRE(all.back().at("error").as_object().contains("param"));
    REQUIRE(exchange->closes);
    REQUIRE(exchange->answers == 1);
}

TEST_CASE("a whole chat answer", "[gateway][api]") {
    World world;
    const auto exchange = world.chat(R"("n":2,"max_tokens":2,"stop":"q")");
    world.place(0);
    world.place(1);
    world.say("ab", kLength, 1);
    world.say("aq", proto::SequenceOutput::FINISH_NONE, 0);
    REQUIRE(exchange->response->status == 200u);
    REQUIRE(exchange->response->content_type == "application/json");
    const auto answer = body(*exchange);
    const auto& choices = answer.at("choices").as_array();
    REQUIRE(choices[0].at("message").at("content") == "a");
    REQUIRE(choices[0].at("finish_reason") == "stop");
    REQUIRE(choices[0].at("stop_reason") == "q");
    REQUIRE(choices[1].at("message").at("content") == "ab");
    REQUIRE(choices[1].at("finish_reason") == "length");
    REQUIRE(answer.at("usage").at("prompt_tokens") == 18);  // once, not for each choice
    REQUIRE(answer.at("usage").at("completion_tokens") == 4);
    REQUIRE(field(*exchange->response, "x-request-id").starts_with("req-"));
}

TEST_CASE("echo gives the prompt back, with its logprobs", "[gateway][api]") {
    const bool stream = GENERATE(true, false);
    World world;
    const auto exchange = world.complete(R"("prompt":[97,98,99],"echo":true,"logprobs":1,"max_tokens":1,"stream":)" +
                                         std::string(stream ? "true" : "false"));
    world.place();
    auto first = output(world.id(), 0, "d", kLength);
    for (const char c : {'b', 'c'}) {
        first.add_prompt()->set_token(c);
        first.mutable_prompt(first.prompt_size() - 1)->set_logprob(-1.5F);
    }
    first.mutable_tokens(0)->set_logprob(-0.5F);
    world.owner.table.on_output(base::Incarnation{20}, first);
    std::string text;
    json::array tokens;
    json::array logprobs;
    json::array offsets;
    const auto gather = [&](const json::object& object) {
        for (const auto& choice : object.at("choices").as_array()) {
            text += choice.at("text").as_string().c_str();
            if (choice.at("logprobs").is_null()) { continue; }
            for (const auto& one : choice.at("logprobs").at("tokens").as_array()) {
                tokens.push_back(one);
            }
            for (const auto& one : choice.at("logprobs").at("token_logprobs").as_array()) {
                logprobs.push_back(one);
            }
            for (const auto& one : choice.at("logprobs").at("text_offset").as_array()) {
                offsets.push_back(one);
            }
        }
    };
    if (stream) {
        for (const auto& event : events(*exchange)) {
            gather(event);
        }
    } else {
        gather(body(*exchange));
    }
    REQUIRE(text == "abcd");
    REQUIRE(tokens == json::array{"a", "b", "c", "d"});
    REQUIRE(logprobs.size() == 4u);
    REQUIRE(logprobs[0].is_null());
    REQUIRE(logprobs[1].to_number<double>() == -1.5);
    REQUIRE(logprobs[3].to_number<double>() == -0.5);
    REQUIRE(offsets == json::array{0, 1, 2, 3});
}

TEST_CASE("max_tokens 0 answers with the prompt alone", "[gateway][api]") {
    World world;
    const auto exchange = world.complete(R"("prompt":"abc","echo":true,"max_tokens":0)");
    world.place();
    world.say("x", kLength);
    const auto answer = body(*exchange);
    REQUIRE(answer.at("choices").at(0).at("text") == "abc");
    REQUIRE(answer.at("choices").at(0).at("finish_reason") == "length");
    REQUIRE(answer.at("usage").at("completion_tokens") == 0);
}

TEST_CASE("routes answer with and without /v1", "[gateway][api]") {
    World world;
    for (const std::string prefix : {"", "/v1"}) {
        const auto list = world.send("GET", prefix + "/models");
        REQUIRE(body(*list).at("data").as_array().size() == 2u);
        REQUIRE(body(*list).at("data").at(0).at("max_model_len") == 4096);
        REQUIRE(body(*world.send("GET", prefix + "/models/m")).at("id") == "m");
        REQUIRE(body(*world.send("GET", prefix + "/models/org/m")).at("id") == "org/m");
        const auto missing = world.send("GET", prefix + "/models/org/x");
        REQUIRE(missing->response->status == 404u);
        REQUIRE(body(*missing).at("error").at("code") == "model_not_found");
        REQUIRE(world.send("GET", prefix + "/health")->response->status == 200u);
        REQUIRE(world.send("GET", prefix + "/live")->response->status == 200u);
        REQUIRE(world.send("GET", prefix + "/metrics")->response->content_type.starts_with("text/plain"));
        const auto wrong = world.send("GET", prefix + "/completions");
        REQUIRE(wrong->response->status == 405u);
        REQUIRE(field(*wrong->response, "Allow") == "POST, OPTIONS");
        REQUIRE(world.send("POST", prefix + "/models")->response->status == 405u);
        REQUIRE(world.send("OPTIONS", prefix + "/models")->response->status == 204u);
        REQUIRE(world.send("GET", prefix + "/nothing")->response->status == 404u);
        REQUIRE(world.send("POST", prefix + "/completions", "{")->response->status == 400u);
    }
}

TEST_CASE("health follows the scheduler, live does not", "[gateway][api]") {
    World world;
    world.owner.table.on_cluster(description(false));
    const auto health = world.send("GET", "/health");
    REQUIRE(health->response->status == 503u);
    REQUIRE(field(*health->response, "Retry-After") == "1");
    REQUIRE(world.send("GET", "/live")->response->status == 200u);
    world.owner.table.on_cluster(description(true));
    REQUIRE(world.send("GET", "/health")->response->status == 200u);
    world.api->drain({});
    REQUIRE(world.send("GET", "/health")->response->status == 503u);
    REQUIRE(world.complete(R"("prompt":"a")")->response->status == 503u);
}

TEST_CASE("request ids are echoed when they are harmless", "[gateway][api]") {
    World world;
    REQUIRE(field(*world.send("GET", "/live", "", {{"x-request-id", "a-1.2:3_4"}})->response, "x-request-id") ==
            "a-1.2:3_4");
    REQUIRE(field(*world.send("GET", "/live", "", {{"x-request-id", "<b>"}})->response, "x-request-id")
                .starts_with("req-"));
    REQUIRE(field(*world.send("POST", "/completions", "{", {{"x-request-id", "e1"}})->response, "x-request-id") ==
            "e1");
}

TEST_CASE("every answer in OpenAI's form says how long it was in work", "[gateway][api]") {
    World world;
    const std::string name = "openai-processing-ms";
    REQUIRE(field(*world.send("GET", "/v1/models")->response, name) == "0");
    REQUIRE(field(*world.send("POST", "/completions", "{")->response, name) == "0");
    REQUIRE(field(*world.send("POST", "/v1/messages", "{")->response, name).empty());
}

TEST_CASE("other encodings and types of a body are refused", "[gateway][api]") {
    World world;
    const std::string good = R"({"prompt":"a"})";
    REQUIRE(world.send("POST", "/completions", good, {{"content-encoding", "gzip"}})->response->status == 415u);
    for (const std::string type :
         {"text/plain", "", "application/x-www-form-urlencoded", "text/plain; application/json", "multipart/form-data",
          "application/jsonp", "application/+json", "text/json"}) {
        for (const std::string path : {"/completions", "/v1/chat/completions", "/tokenize", "/v1/embeddings"}) {
            CAPTURE(type, path);
            const auto refused = world.send("POST", path, good, {{"content-type", type}});
            REQUIRE(refused->response->status == 415u);
            const auto error = json::parse(refused->response->body).at("error");
            REQUIRE(error.at("type") == "invalid_request_error");
            REQUIRE(error.at("code") == "unsupported_content_type");
            REQUIRE(error.at("message").as_string().find("Content-Type: application/json") != json::string::npos);
        }
    }
    for (const std::string type : {"Application/JSON; charset=utf-8", "application/json", "application/vnd.api+json"}) {
        CAPTURE(type);
        REQUIRE(world.send("POST", "/completions", good, {{"content-type", type}})->answers == 0);
    }
    const gateway::HttpFields twice{{"content-type", "application/json"}, {"content-type", "text/plain"}};
    REQUIRE(world.send("POST", "/completions", good, twice)->response->status == 415u);
    // Nobody says a type where the field is not given, as a page's request without one.
    gateway::HttpRequest bare;
    bare.head.method = "POST";
    bare.head.path = "/v1/completions";
    bare.body = good;
    const auto answer = std::make_shared<FakeExchange>();
    world.api->handle(std::move(bare), answer);
    world.run();
    REQUIRE(answer->response->status == 415u);
}

TEST_CASE("work beyond the bounds gets 429 with Retry-After", "[gateway][api]") {
    gateway::GatewayOptions options;
    options.inflight_requests_max = 1;
    World world(options);
    const auto first = world.complete(R"("prompt":"a","max_tokens":1)");
    const auto second = world.complete(R"("prompt":"b","max_tokens":1)");
    REQUIRE(second->response->status == 429u);
    REQUIRE(field(*second->response, "Retry-After") == "1");
    world.place();
    world.say("x", kLength);
    REQUIRE(first->response->status == 200u);
    REQUIRE(world.complete(R"("prompt":"c","max_tokens":1)")->answers == 0);
}

TEST_CASE("a silent stream is kept alive by comments, unless its client does not want them", "[gateway][api]") {
    gateway::GatewayOptions options;
    options.ping_interval = 15s;
    World world(options);
    const auto with = world.chat(R"("stream":true,"max_tokens":5)");
    const auto without = world.chat(R"("stream":true,"max_tokens":5,"sse_ping_interval":-1)");
    world.place(0);
    world.place(1);
    REQUIRE(world.wakes.back() == world.owner.clock.now() + 15s);
    world.owner.clock.advance(14s);
    REQUIRE(world.api->tick(world.owner.clock.now()) == world.owner.clock.now() + 1s);
    REQUIRE(with->streamed.empty());
    world.owner.clock.advance(1s);
    REQUIRE(world.api->tick(world.owner.clock.now()) == world.owner.clock.now() + 15s);
    REQUIRE(world.api->tick(world.owner.clock.now()) == world.owner.clock.now() + 15s);
    REQUIRE(with->streamed == ": ping\n\n");
    REQUIRE(without->streamed.empty());
    world.say("a", kStop, 0);
    REQUIRE(events(*with).at(0).at("choices").at(0).at("delta").as_object().contains("role"));
}

TEST_CASE("a client that goes away cancels all of its sequences", "[gateway][api]") {
    World world;
    const auto exchange = world.chat(R"("stream":true,"n":2,"max_tokens":5)");
    world.place(0);
    exchange->gone("client_gone");
    REQUIRE(world.owner.table.open_count() == 0u);
    REQUIRE(world.owner.ports.sent_to(20).back().has_cancel());
    REQUIRE(world.api->in_flight() == 0u);
    world.owner.table.on_place_answered(world.id(1), base::Epoch{0}, local_placement(make_endpoint(2, 20)));
    REQUIRE(world.owner.ports.released.back().request_id() == base::raw(world.id(1)));
}

TEST_CASE("no client makes metric series", "[gateway][api]") {
    World world;
    world.chat(R"("model":"evil-1")");
    const auto lines = [&] {
        const std::string text = world.owner.metrics.text();
        return std::count(text.begin(), text.end(), '\n');
    };
    const auto before = lines();
    for (int number = 0; number < 50; ++number) {
        world.chat("\"model\":\"evil-" + std::to_string(number) + "\"");
    }
    REQUIRE(lines() == before);
    REQUIRE(world.owner.metrics.text().find("evil") == std::string::npos);
    REQUIRE(world.owner.metrics.text().find(R"(code="404",endpoint="chat",model="other")") != std::string::npos);
}

TEST_CASE("two models answer behind one endpoint, each from its own workers", "[gateway][api]") {
    World world({}, make_models({"a", "b"}, {"second=b"}));
    proto::DescribeReply cluster;
    for (const auto& [name, context] : {std::pair{"a", 100u}, std::pair{"b", 200u}}) {
        proto::ModelState& state = *cluster.add_models();
        state.set_model(name);
        state.set_block_tokens(4);
        state.set_context_tokens(context);
        state.set_numerics_id(context);
        state.set_ready(true);
    }
    world.owner.table.on_cluster(cluster);

    const auto list = body(*world.send("GET", "/v1/models")).at("data").as_array();
    REQUIRE(list.size() == 3u);
    REQUIRE(list[0].at("id") == "a");
    REQUIRE(list[0].at("max_model_len") == 100);
    REQUIRE(list[2].at("id") == "second");
    REQUIRE(list[2].at("max_model_len") == 200);

    world.complete(R"("prompt":"x","max_tokens":1)");
    const auto second = world.complete(R"("prompt":"x","max_tokens":1,"model":"second")");
    REQUIRE(world.owner.ports.placed[0].header().model() == "a");  // the first where none is named
    REQUIRE(world.owner.ports.placed[1].header().model() == "b");
    world.place(1);
    world.say("y", kLength, 1);
    REQUIRE(body(*second).at("model") == "second");
    REQUIRE(body(*second).at("system_fingerprint") == "b1-00000000000000c8");
    REQUIRE(world.complete(R"("prompt":"x","max_tokens":150)")->response->status == 400u);
    REQUIRE(world.complete(R"("prompt":"x","max_tokens":150,"model":"b")")->answers == 0);
    const std::string rows = world.owner.metrics.text();
    INFO(rows);
    REQUIRE(rows.find(R"(code="200",endpoint="completions",model="b",stream="false"} 1)") != std::string::npos);
    REQUIRE(rows.find(R"(code="400",endpoint="completions",model="a",stream="false"} 1)") != std::string::npos);
    REQUIRE(rows.find(R"(sluice_gateway_inflight_requests{model="a"} 1)") != std::string::npos);
    REQUIRE(rows.find(R"(sluice_gateway_inflight_requests{model="b"} 1)") != std::string::npos);
    REQUIRE(rows.find(R"(sluice_gateway_inflight_requests{model="none"} 0)") != std::string::npos);
}

TEST_CASE("a gateway of several models is ready when all are, and says which are not", "[gateway][api]") {
    World world({}, make_models({"a", "b"}));
    proto::DescribeReply cluster;
    proto::ModelState& state = *cluster.add_models();
    state.set_model("a");
    state.set_block_tokens(4);
    state.set_context_tokens(100);
    state.set_ready(true);
    world.owner.table.on_cluster(cluster);
    const auto half = world.send("GET", "/health");
    REQUIRE(half->response->status == 503u);
    REQUIRE(body(*half).at("error").at("message") == "a: ready; b: no workers for both phases");
    REQUIRE(world.complete(R"("prompt":"x","model":"a")")->answers == 0);  // served all the same
    const auto absent = world.complete(R"("prompt":"x","model":"b")");
    REQUIRE(absent->response->status == 503u);
    REQUIRE(field(*absent->response, "Retry-After") == "1");
    REQUIRE(world.owner.metrics.text().find("outcome=\"rejected_unavailable\"") != std::string::npos);

    auto& other = *cluster.add_models();
    other = cluster.models(0);
    other.set_model("b");
    world.owner.table.on_cluster(cluster);
    const auto health = world.send("GET", "/health");
    REQUIRE(health->response->body == R"({"status":"ok","models":{"a":"ready","b":"ready"}})");
}

TEST_CASE("the blocks of a prompt are hashed once, for all of its choices", "[gateway][api]") {
    World world;
    world.complete(R"("prompt":"1234567","n":3,"max_tokens":1)");
    REQUIRE(world.owner.ports.placed.size() == 3u);
    REQUIRE(world.owner.ports.placed[0].block_hashes().size() == 32u);  // with BOS two blocks of four
    REQUIRE(world.owner.ports.placed[1].block_hashes() == world.owner.ports.placed[0].block_hashes());
    REQUIRE(world.owner.ports.placed[2].block_hashes() == world.owner.ports.placed[0].block_hashes());
    world.complete(R"("prompt":"1234567","echo":true,"logprobs":1,"max_tokens":1)");
    REQUIRE(world.owner.ports.placed[3].block_hashes().empty());  // every token of it is computed
}

TEST_CASE("the names of conversations and prompt groups reach the scheduler as hashes that depend on the tenant",
          "[gateway][api]") {
    gateway::GatewayOptions options;
    options.tenant_header = "x-tenant";
    World world(options);
    const std::string body = R"({"prompt":"a","max_tokens":3,"prompt_cache_key":"docs"})";
    const auto& placed = world.owner.ports.placed;
    world.send("POST", "/completions", body,
               {{"x-tenant", "a"}, {"x-session-id", "one"}, {"x-parent-id", "two"}, {"x-session-final", "true"}});
    world.send("POST", "/completions", body, {{"x-tenant", "a"}, {"x-session-id", "two"}, {"x-session-final", "no"}});
    world.send("POST", "/completions", body, {{"x-tenant", "b"}, {"x-session-id", "one"}});
    world.send("POST", "/completions", R"({"prompt":"a","max_tokens":3})", {{"x-tenant", "a"}});
    world.send("POST", "/completions", body, {{"x-tenant", "a"}, {"x-session-id", "docs"}});
    REQUIRE(placed.size() == 5);
    REQUIRE(placed[0].session() != 0);
    REQUIRE(placed[0].session_ends());
    REQUIRE(placed[1].session() == placed[0].parent_session());
    REQUIRE_FALSE(placed[1].session_ends());
    REQUIRE(placed[1].parent_session() == 0);
    REQUIRE(placed[1].prompt_group() == placed[0].prompt_group());
    REQUIRE(placed[2].session() != placed[0].session());
    REQUIRE(placed[2].prompt_group() != placed[0].prompt_group());
    REQUIRE(placed[3].session() + placed[3].parent_session() + placed[3].prompt_group() == 0);
    REQUIRE(placed[4].session() != placed[4].prompt_group());
    // The body may name the conversation where the header does not.
    const std::string named = R"({"prompt":"a","max_tokens":3,"session_id":"one"})";
    world.send("POST", "/completions", named, {{"x-tenant", "a"}});
    world.send("POST", "/completions", named, {{"x-tenant", "a"}, {"x-session-id", "two"}});
    world.send("POST", "/responses", R"({"input":"a","max_output_tokens":3,"session_id":"one"})", {{"x-tenant", "a"}});
    world.send("POST", "/completions", R"({"prompt":"a","max_tokens":3,"session_id":7})", {{"x-tenant", "a"}});
    REQUIRE(placed.size() == 9);
    REQUIRE(placed[5].session() == placed[0].session());
    REQUIRE(placed[6].session() == placed[1].session());
    REQUIRE(placed[7].session() == placed[0].session());
    REQUIRE(placed[8].session() == 0);
    REQUIRE(placed[0].DebugString().find("one") == std::string::npos);
}

TEST_CASE("the blocks of a prompt have a name of their tenant's, unless prefixes are shared", "[gateway][api]") {
    gateway::GatewayOptions options;
    options.tenant_header = "x-tenant";
    const auto names = [](World& world, const std::string& tenant, const std::string& more = "") {
        gateway::HttpFields fields;
        if (!tenant.empty()) { fields.emplace_back("x-tenant", tenant); }
        world.send("POST", "/completions", R"({"prompt":"1234567","max_tokens":1)" + more + "}", fields);
        const std::string hashes = world.owner.ports.placed.back().block_hashes();
        REQUIRE(hashes.size() == 32u);
        return hashes;
    };
    World apart(options);
    const std::string salted = R"(,"cache_salt":"s")";
    const std::vector<std::string> all = {names(apart, "a"),         names(apart, "b"),
                                          names(apart, ""),          names(apart, "a", salted),
                                          names(apart, "b", salted), names(apart, "", salted)};
    CHECK(std::set<std::string>(all.begin(), all.end()).size() == all.size());
    CHECK(names(apart, "a") == all[0]);
    CHECK(names(apart, "default") == all[2]);
    CHECK(names(apart, "a", salted) == all[3]);
    options.tenants_share_prefixes = true;
    World together(options);
    CHECK(names(together, "a") == names(together, "b"));
    CHECK(names(together, "a") == names(together, ""));
    CHECK(names(together, "a", salted) == names(together, "b", salted));
    CHECK(names(together, "a", salted) != names(together, "a"));
}

TEST_CASE("a tenant comes from the trusted field, or the request is refused", "[gateway][api]") {
    gateway::GatewayOptions options;
    options.tenant_header = "x-tenant";
    World world(options);
    const std::string good = R"({"prompt":"a","max_tokens":1})";
    world.send("POST", "/completions", good, {{"x-tenant", "acme"}});
    world.send("POST", "/completions", good);
    REQUIRE(world.owner.ports.placed[0].tenant() == "acme");
    REQUIRE(world.owner.ports.placed[1].tenant() == "default");
    REQUIRE(world.send("POST", "/completions", good, {{"x-tenant", "a b"}})->response->status == 400u);
    REQUIRE(world.owner.ports.placed.size() == 2u);
}

namespace {

/// Puts a word before every prompt; refuses one.
class Prefix final : public gateway::FormRewriter {
public:
    gateway::ApiResult<void> rewrite(gateway::RequestForm& form, const gateway::RewriteContext&) const override {
        for (auto& prompt : form.prompts) {
            auto& text = std::get<std::string>(prompt);
            if (text == "no") { return gateway::bad_request("prompt", "not this one"); }
            text = "so " + text;
        }
        return {};
    }
};

}  // namespace

TEST_CASE("a form may be rewritten before it becomes tokens", "[gateway][api]") {
    const Prefix prefix;
    World world({}, make_models({"m"}), {&prefix, &prefix});
    const auto exchange = world.complete(R"("prompt":"abc","echo":true,"max_tokens":1)");
    world.place();
    world.say("x", kLength);
    REQUIRE(body(*exchange).at("choices").at(0).at("text") == "so so abcx");
    const auto refused = world.complete(R"("prompt":"no","max_tokens":1)");
    REQUIRE(refused->response->status == 400u);
    REQUIRE(body(*refused).at("error").at("message") == "not this one");
}
