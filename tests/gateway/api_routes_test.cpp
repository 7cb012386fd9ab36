#include "tests/gateway/api_world.h"

namespace {

using namespace gateway_test;

constexpr auto kLength = proto::SequenceOutput::FINISH_LENGTH;

std::string message_of(const FakeExchange& exchange) {
    return body(exchange).at("error").at("message").as_string().c_str();
}

}  // namespace

TEST_CASE("more slashes than needed lead to the same route", "[gateway][api]") {
    World world;
    for (const std::string path : {"//v1/models", "/v1//models", "/v1/models/", "///models//", "/v1/models///"}) {
        CAPTURE(path);
        CHECK(world.send("GET", path)->response->status == 200u);
    }
    for (const std::string path : {"//v1/completions", "/v1/completions/", "/completions//", "//v1//completions//"}) {
        CAPTURE(path);
        CHECK(world.send("POST", path, R"({"prompt":"a","max_tokens":1})")->answers == 0);  // taken
    }
    REQUIRE(body(*world.send("GET", "//v1//models/org/m/")).at("id") == "org/m");
    REQUIRE(world.send("GET", "/health/")->response->status == 200u);
}

TEST_CASE("a model may have a name that begins with a slash", "[gateway][api]") {
    World world({}, make_models({"/models/tiny"}));
    REQUIRE(body(*world.send("GET", "/v1/models//models/tiny")).at("id") == "/models/tiny");
    REQUIRE(world.send("GET", "/v1/models/models/tiny")->response->status == 404u);
}

TEST_CASE("an error about a path shows it as it was sent", "[gateway][api]") {
    World world;
    for (const std::string path : {"/v1/nothing", "/nothing", "//v1/nothing/", "/V1/completions", "/"}) {
        const auto exchange = world.send("GET", path);
        REQUIRE(exchange->response->status == 404u);
        REQUIRE(message_of(*exchange) == "no such route: " + path);
        REQUIRE(body(*exchange).at("error").at("code") == "not_found");
    }
    REQUIRE(message_of(*world.send("GET", "/v1/v1/chat/completions")).find("base URL") != std::string::npos);
    const auto wrong = world.send("GET", "//v1/completions");
    REQUIRE(wrong->response->status == 405u);
    REQUIRE(message_of(*wrong) == "method GET is not allowed at //v1/completions");
    REQUIRE(message_of(*world.send("GET", "/" + std::string(5000, 'a'))).size() < 300u);
}

TEST_CASE("routes that are not built yet are no 404, whatever the method and what follows", "[gateway][api]") {
    World world;
    for (const std::string path : {"/v1/responses/compact",
                                   "/v1/rerank",
                                   "/rerank",
                                   "/v2/rerank",
                                   "/v1/score",
                                   "/v1/images/generations",
                                   "/v1/audio/speech",
                                   "/v1/audio/transcriptions",
                                   "/v1/moderations",
                                   "/v1/fine_tuning/jobs",
                                   "/v1/assistants",
                                   "/v1/threads/t/runs",
                                   "/v1/vector_stores",
                                   "/v1/uploads",
                                   "/v1/realtime/sessions",
                                   "/v1/evals",
                                   "/v1/containers",
                                   "/v1/conversations",
                                   "/v1/videos",
                                   "/v1/edits",
                                   "/v1/chat/completions/chatcmpl-1/messages",
                                   "//v1/moderations/"}) {
        for (const std::string method : {"POST", "GET", "DELETE"}) {
            CAPTURE(method, path);
            const auto exchange = world.send(method, path, "{}");
            REQUIRE(exchange->response->status == 400u);
            CHECK(message_of(*exchange) == path + " is not supported by this server yet");
            CHECK(body(*exchange).at("error").at("type") == "invalid_request_error");
            CHECK(body(*exchange).at("error").at("code") == "not_supported");
            CHECK(field(*exchange->response, "x-request-id").starts_with("req-"));
        }
    }
    for (const std::string path : {"/v1/batches", "/v1/batches/b/cancel", "/v1/files/f/content"}) {
        CAPTURE(path);
        CHECK(world.send("DELETE", path)->response->status == 400u);
        CHECK(message_of(*world.send("GET", path)).find("batch.file") != std::string::npos);
    }
    const auto batches = world.send("POST", "/v1/messages/batches", "{}");
    CHECK(batches->response->status == 400u);  // in the form of the route's clients
    CHECK(body(*batches).at("type") == "error");
    for (const std::string path : {"/v1/responses/resp_1", "/responses/resp_1/cancel"}) {
        CAPTURE(path);
        const auto exchange = world.send("GET", path);
        CHECK(exchange->response->status == 404u);
        CHECK(body(*exchange).at("error").at("code") == "response_not_found");
    }
    for (const std::string path : {"/v1/responsesx", "/v1/file", "/v2/models", "/v1/xfiles"}) {
        CAPTURE(path);
        CHECK(world.send("POST", path, "{}")->response->status == 404u);
    }
    REQUIRE(world.owner.metrics.text().find(R"(code="400",endpoint="unbuilt",model="none",stream="false")") !=
            std::string::npos);
}

TEST_CASE("a name may stand for every model, and the answer bears the name that was asked for", "[gateway][api]") {
    World world({}, make_models({"a", "b"}, {"*=b"}));
    proto::DescribeReply cluster;
    for (const std::string name : {"a", "b"}) {
        proto::ModelState& state = *cluster.add_models();
        state.set_model(name);
        state.set_block_tokens(4);
        state.set_context_tokens(100);
        state.set_ready(true);
    }
    world.owner.table.on_cluster(cluster);
    const auto exchange = world.complete(R"("prompt":"x","max_tokens":1,"model":"gpt-4o-mini")");
    REQUIRE(world.owner.ports.placed.at(0).header().model() == "b");
    world.place();
    world.say("y", kLength);
    REQUIRE(body(*exchange).at("model") == "gpt-4o-mini");
    REQUIRE(body(*world.send("GET", "/v1/models/gpt-4o-mini")).at("id") == "gpt-4o-mini");
    REQUIRE(body(*world.send("GET", "/v1/models")).at("data").as_array().size() == 2u);
    REQUIRE(world.owner.metrics.text().find("gpt-4o-mini") == std::string::npos);
}

TEST_CASE("prefix caches are reset where a setting allows it, and the answer waits for the workers", "[gateway][api]") {
    World closed;
    const auto forbidden = closed.send("POST", "/reset_prefix_cache");
    REQUIRE(forbidden->response->status == 403u);
    REQUIRE(message_of(*forbidden).find("gateway.reset_prefix_cache") != std::string::npos);
    REQUIRE(closed.owner.ports.drops.empty());

    gateway::GatewayOptions options;
    options.allow_reset_prefix_cache = true;
    World world(options);
    REQUIRE(world.send("GET", "/reset_prefix_cache")->response->status == 405u);
    const auto reset = world.send("POST", "/reset_prefix_cache");
    REQUIRE(reset->answers == 0);
    REQUIRE(world.send("POST", "/flush_cache")->response->status == 429u);
    world.owner.ports.drops.at(0)({.workers = 2, .answered = 2, .blocks = 7});
    REQUIRE(reset->response->body == R"({"status":"ok","workers":2,"blocks":7})");
    const auto late = world.send("POST", "/v1/flush_cache");
    world.owner.ports.drops.at(1)({.workers = 2, .answered = 1, .blocks = 7});
    REQUIRE(late->response->status == 504u);
    REQUIRE(message_of(*late).find("1 of 2") != std::string::npos);
}

TEST_CASE("a setting adds usage to every stream", "[gateway][api]") {
    const bool always = GENERATE(true, false);
    gateway::GatewayOptions options;
    options.usage_in_streams = always;
    World world(options);
    const auto exchange = world.chat(R"("stream":true,"max_tokens":1)");
    world.place();
    world.say("a", kLength);
    const auto all = events(*exchange);
    REQUIRE(all.back().at("choices").as_array().empty() == always);
    REQUIRE(all.front().contains("usage") == always);
    if (always) { REQUIRE(all.back().at("usage").at("completion_tokens") == 1); }
    const auto whole = world.chat(R"("max_tokens":1)");
    world.place(1);
    world.say("a", kLength, 1);
    REQUIRE(body(*whole).contains("usage"));
}

TEST_CASE("a refused request counts as the stream that it asked for", "[gateway][api]") {
    gateway::GatewayOptions options;
    options.inflight_requests_max = 1;
    World world(options);
    const auto refused = [&](const std::string& code) {
        const std::string rows = world.owner.metrics.text();
        const std::string start = "sluice_gateway_requests_total{code=\"" + code + "\"";
        for (auto at = rows.find(start); at != std::string::npos; at = rows.find(start, at + 1)) {
            if (rows.substr(at, rows.find('}', at) - at).find("stream=\"true\"") != std::string::npos) { return true; }
        }
        return false;
    };
    world.chat(R"("stream":true,"temperature":-1)");  // a bad field
    REQUIRE(refused("400"));
    world.chat(R"("stream":true,"model":"gpt-9")");  // no such model
    REQUIRE(refused("404"));
    const auto busy = world.complete(R"("prompt":"x")");
    REQUIRE(world.chat(R"("stream":true)")->response->status == 429u);  // at the door, its body unread
    REQUIRE(refused("429"));
    world.api->drain({});
    REQUIRE(world.chat(R"("stream":true)")->response->status == 503u);
    REQUIRE(refused("503"));
}

TEST_CASE("an error of a worker or on the way to one is told without saying where", "[gateway][api]") {
    using base::ErrorCode;
    const std::string secret = "10.1.2.3:7001 /models/x decode-0 said no";
    for (const auto& [code, status] : std::vector<std::pair<ErrorCode, unsigned>>{{ErrorCode::internal, 500},
                                                                                  {ErrorCode::unavailable, 503},
                                                                                  {ErrorCode::data_loss, 500},
                                                                                  {ErrorCode::deadline_exceeded, 504},
                                                                                  {ErrorCode::failed_precondition, 503},
                                                                                  {ErrorCode::aborted, 503},
                                                                                  {ErrorCode::unauthenticated, 401},
                                                                                  {ErrorCode::not_found, 404}}) {
        CAPTURE(static_cast<int>(code));
        World world;
        const auto exchange = world.complete(R"("prompt":"a","max_tokens":3)");
        std::uint32_t epoch = 0;
        while (exchange->answers == 0) {  // every placement that it may have
            world.owner.table.on_place_answered(world.id(), base::Epoch{epoch}, local_placement(make_endpoint(2, 20)));
            auto output = error_output(world.id(), epoch++, code);
            output.mutable_error()->set_message(secret);
            world.owner.table.on_output(base::Incarnation{20}, output);
        }
        CHECK(exchange->response->status == status);
        for (const std::string part : {"10.1.2.3", "7001", "models", "decode-0", "said no"}) {
            CHECK(exchange->response->body.find(part) == std::string::npos);
        }
    }
    World lost;
    const auto exchange = lost.complete(R"("prompt":"a","max_tokens":3)");
    lost.owner.table.on_place_answered(lost.id(), base::Epoch{0},
                                       base::fail(ErrorCode::internal, "connecting to ipv4:10.1.2.3:7000 failed"));
    REQUIRE(exchange->response->status == 500u);
    REQUIRE(exchange->response->body.find("10.1.2.3") == std::string::npos);
}

TEST_CASE("the page is there where it is wanted, to be read and nothing else", "[gateway][api]") {
    World without;
    REQUIRE(without.send("GET", "/")->response->status == 404u);
    gateway::GatewayOptions options;
    options.has_page = true;
    World world(options);
    for (const std::string path : {"/", "//", "/page/main.mjs", "/page/style.css", "/page/icon.svg"}) {
        CAPTURE(path);
        const auto exchange = world.send("GET", path);
        REQUIRE(exchange->response->status == 200u);
        REQUIRE_FALSE(exchange->response->body.empty());
    }
    CHECK(world.send("GET", "/page/page.cpp")->response->status == 404u);
    CHECK(world.send("GET", "/page")->response->status == 404u);
    CHECK(world.send("DELETE", "/")->response->status == 405u);
    CHECK(world.send("GET", "/v1/models")->response->status == 200u);
}
