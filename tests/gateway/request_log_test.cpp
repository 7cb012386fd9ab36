#include "gateway/request_log.h"

#include <future>

#include "tests/gateway/api_world.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;

constexpr auto kLength = proto::SequenceOutput::FINISH_LENGTH;

}  // namespace

TEST_CASE("each request has one line of the access log when it is over, and no text in it", "[gateway][log]") {
    World world;
    world.send("POST", "/v1/completions", R"({"prompt":"secret","max_tokens":2,"stream":true})",
               {{"x-request-id", "r1"}});
    world.place();
    world.owner.clock.advance(1500us);
    world.say("xy", kLength);
    world.send("POST", "/v1/chat/completions", R"({"messages":"secret","stream":true})", {{"x-request-id", "r2"}});
    world.send("GET", "/v1/secret\"\n", "", {{"x-request-id", "r3"}});
    world.send("POST", "/v1/embeddings-secret", "", {{"x-request-id", "r4"}});
    world.send("GET", "/health", "", {{"x-request-id", "r5"}});
    const auto gone = world.send("POST", "/completions", R"({"prompt":"secret"})", {{"x-request-id", "r6"}});
    gone->gone("client_gone");
    const auto lines = world.lines();
    REQUIRE(lines.size() == 6u);
    REQUIRE(
        world.written[0] ==
        R"({"method":"POST","path":"/v1/completions","endpoint":"completions","model":"m","status":200,"stream":true,)"
        R"("prompt_tokens":7,"cached_tokens":0,"completion_tokens":2,"ms":1.500,"request_id":"r1"})");
    REQUIRE(lines[1].at("status") == 400);
    REQUIRE(lines[1].at("stream") == true);
    REQUIRE(lines[1].at("request_id") == "r2");
    REQUIRE(lines[2].at("status") == 404);
    REQUIRE(lines[2].at("path") == "/v1/secret\"\n");  // the client's own words, escaped
    REQUIRE(world.written[2].find('\n') == std::string::npos);
    REQUIRE(lines[3].at("request_id") == "r4");
    REQUIRE(lines[4].at("endpoint") == "health");
    REQUIRE(lines[5].at("status") == 499);
    for (const std::size_t at : {0u, 1u, 4u, 5u}) {
        REQUIRE(world.written[at].find("secret") == std::string::npos);
    }
}

TEST_CASE("the access log can leave out what probes ask, or everything", "[gateway][log]") {
    gateway::GatewayOptions options;
    const bool off = GENERATE(true, false);
    options.access_log = off ? gateway::AccessLogKind::off : gateway::AccessLogKind::api;
    World world(options);
    for (const std::string path : {"/health", "/ready", "/live", "/metrics", "/v1/models", "/nothing"}) {
        world.send("GET", path);
    }
    const auto lines = world.lines();
    REQUIRE(lines.size() == (off ? 0u : 2u));
    if (!off) { REQUIRE(lines[0].at("path") == "/v1/models"); }
}

TEST_CASE("a log that is read too slowly costs lines and not time", "[gateway][log]") {
    base::Metrics metrics;
    gateway::GatewayMetrics rows(metrics, {"m"});
    base::FakeClock clock;
    std::promise<void> taken;
    std::promise<void> go_on;
    std::vector<std::string> written;
    {
        gateway::RequestLog log({.metrics = rows,
                                 .clock = clock,
                                 .sink =
                                     [&](const std::string& line) {
                                         if (written.empty()) {
                                             taken.set_value();
                                             go_on.get_future().wait();
                                         }
                                         written.push_back(line);
                                     },
                                 .lines_max = 3});
        const auto end_one = [&](const std::string& id) {
            log.ended({.method = "GET", .path = "/", .id = id, .received_at = clock.now()},
                      {.endpoint = "other", .model = gateway::GatewayMetrics::kNoModel});
        };
        end_one("first");
        taken.get_future().wait();  // the writer stands
        for (int number = 0; number < 5; ++number) {
            end_one(std::to_string(number));
        }
        go_on.set_value();
    }
    REQUIRE(written.size() == 4u);
    REQUIRE(written.back().find("\"request_id\":\"2\"") != std::string::npos);
    REQUIRE(metrics.text().find("sluice_gateway_access_lines_dropped_total 2") != std::string::npos);
    REQUIRE(metrics.text().find("stream=\"false\"} 6") != std::string::npos);  // all are counted
}

TEST_CASE("a path of any length is cut in the log", "[gateway][log]") {
    World world;
    world.send("GET", "/" + std::string(8000, 'a'));
    REQUIRE(world.lines().size() == 1u);
    REQUIRE(world.written[0].size() < 500u);
}
