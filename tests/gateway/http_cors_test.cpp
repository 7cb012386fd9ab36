#include "tests/gateway/http_client.h"
#include "tests/gateway/server.h"

namespace {

using namespace gateway_test;
using Server = ServerWith<base::SystemClock>;

gateway::GatewayOptions with_origins(const std::vector<std::string>& origins) {
    gateway::GatewayOptions options;
    options.cors_origins = origins;
    options.http.limits.body_bytes_max = 2048;
    return options;
}

const std::string kFrom = "Origin: https://a.example\r\n";
const std::string kAllowed =
    "Access-Control-Allow-Origin: https://a.example\r\nAccess-Control-Allow-Credentials: true\r\n";

std::string get(const std::string& path, const std::string& fields) {
    return "GET " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + "\r\n";
}

}  // namespace

TEST_CASE("every answer to an allowed page says so: whole, streamed, refused, at the door", "[gateway][http][cors]") {
    Server server(with_origins({"https://a.example"}));
    const std::string close = "Connection: close\r\n" + kFrom;
    const std::vector<std::pair<std::string, int>> cases = {
        {post(R"({"prompt":"a","max_tokens":2})", close), 200},
        {post(R"({"prompt":"a","max_tokens":2,"stream":true})", close), 200},
        {post(R"({"prompt":"a","temperature":9})", close), 400},
        {post("{", close), 400},
        {get("/nothing", kFrom), 404},
        {get("/v1/rerank", kFrom), 400},
        {get("/v1/completions", kFrom), 405},
        {get("/health", kFrom), 200},
        // Refused before the request is whole.
        {"POST / HTTP/1.1\r\nHost: localhost\r\n" + kFrom + "Content-Length: 9999\r\n\r\n", 413},
        {"POST / HTTP/1.1\r\nHost: localhost\r\n" + kFrom + "Transfer-Encoding: chunked\r\n\r\nzz\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: localhost\r\n" + kFrom + "Expect: tea\r\n\r\n", 417},
    };
    for (const auto& [bytes, status] : cases) {
        CAPTURE(bytes);
        const std::string received = exchange(server.core->port(), bytes);
        CHECK(status_of(received) == status);
        const std::string head = received.substr(0, received.find("\r\n\r\n"));
        CHECK(count(head + "\r\n", kAllowed) == 1u);
        CHECK(count(head + "\r\n", "Vary: Origin\r\n") == 1u);
    }
    for (const std::string other : {"Origin: https://b.example\r\n", "", "Origin: null\r\n"}) {
        CAPTURE(other);
        const std::string received = exchange(server.core->port(), get("/v1/models", other));
        CHECK(received.find("Access-Control") == std::string::npos);
        CHECK(count(received, "Vary: Origin\r\n") == 1u);
    }
}

TEST_CASE("a preflight is answered for every path, and only for pages that may ask", "[gateway][http][cors]") {
    const std::string asks =
        "Access-Control-Request-Method: POST\r\nAccess-Control-Request-Headers: authorization,content-type\r\n";
    const auto options_of = [&](const std::string& path, const std::string& fields) {
        return "OPTIONS " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n" + fields + "\r\n";
    };
    Server server(with_origins({"https://a.example"}));
    for (const std::string path : {"/v1/chat/completions", "/v1/models", "/v1/responses", "/nothing"}) {
        CAPTURE(path);
        const std::string received = exchange(server.core->port(), options_of(path, kFrom + asks));
        CHECK(status_of(received) == 204);
        CHECK(count(received, kAllowed) == 1u);
        CHECK(received.find("Access-Control-Allow-Methods: ") != std::string::npos);
        CHECK(received.find("Access-Control-Allow-Headers: authorization,content-type\r\n") != std::string::npos);
        CHECK(received.find("Access-Control-Max-Age: 600\r\n") != std::string::npos);
        CHECK(received.find("Vary: Access-Control-Request-Method, Access-Control-Request-Headers\r\n") !=
              std::string::npos);
        CHECK(received.ends_with("\r\n\r\n"));
    }
    REQUIRE(exchange(server.core->port(), options_of("/v1/chat/completions", kFrom + asks))
                .find("Access-Control-Allow-Methods: POST, OPTIONS\r\n") != std::string::npos);
    const std::string stranger =
        exchange(server.core->port(), options_of("/v1/models", "Origin: https://b.example\r\n" + asks));
    REQUIRE(status_of(stranger) == 204);
    REQUIRE(stranger.find("Access-Control") == std::string::npos);
    const std::string of_server = exchange(server.core->port(), options_of("*", ""));
    REQUIRE(status_of(of_server) == 200);
    REQUIRE(of_server.find("Content-Length: 0\r\n") != std::string::npos);
    REQUIRE(of_server.find("Allow: GET, HEAD, POST, OPTIONS\r\n") != std::string::npos);
    REQUIRE(status_of(exchange(server.core->port(), options_of("/nothing", ""))) == 404);

    Server closed;
    const std::string refused = exchange(closed.core->port(), options_of("/v1/models", kFrom + asks));
    REQUIRE(refused.find("Access-Control") == std::string::npos);
    REQUIRE(refused.find("Vary") == std::string::npos);

    Server open(with_origins({"*"}));
    const std::string any = exchange(open.core->port(), options_of("/v1/models", kFrom + asks));
    REQUIRE(any.find("Access-Control-Allow-Origin: *\r\n") != std::string::npos);
    REQUIRE(any.find("Credentials") == std::string::npos);
}

TEST_CASE("an origin that no browser sends is refused at the start", "[gateway][http][cors]") {
    base::SystemClock clock;
    base::Metrics metrics;
    auto options = with_origins({"https://a.example/"});
    options.http.port = 0;
    const auto started = gateway::GatewayCore::start({.options = options,
                                                      .models = {{.name = "m", .text = std::make_shared<ByteText>()}},
                                                      .hash_key = {},
                                                      .clock = clock,
                                                      .metrics = metrics,
                                                      .make_ports = {}});
    REQUIRE_FALSE(started);
    REQUIRE(started.error().code == base::ErrorCode::invalid_argument);
}
