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
        R"("prompt_tokens":7,"cached_tokens":0,"completion_tokens":2,"prepare_ms":0.000,"place_ms":0.000,"ttft_ms":1.500,"ms":1.500,"request_id":"r1"})");
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

TEST_CASE("a traced request has a span, and one for each of its stages, under the client's", "[gateway][trace]") {
    World world;
    world.trace();
    world.send("POST", "/v1/completions", R"({"prompt":"secret","max_tokens":2})",
               {{"x-request-id", "r1"}, {"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}});
    world.owner.clock.advance(1ms);
    world.place();
    world.owner.clock.advance(2ms);
    world.say("x");
    world.owner.clock.advance(3ms);
    world.say("y", kLength);
    const auto& start = world.owner.ports.sent.at(0).second.start();
    const auto& spans = world.spans.all;
    REQUIRE(spans.size() == 5u);
    const base::Span& root = spans.back();
    REQUIRE(root.name == "text_completion m");
    REQUIRE(root.parent == 0x00f067aa0ba902b7u);
    REQUIRE(root.end_unix_us - root.begin_unix_us == 6000);
    REQUIRE(start.traceparent() == base::to_traceparent(root.context));
    const std::vector<std::pair<std::string, std::int64_t>> stages = {
        {"prepare", 0}, {"place", 1000}, {"prefill", 2000}, {"decode", 3000}};
    for (std::size_t at = 0; at < stages.size(); ++at) {
        REQUIRE(spans[at].name == stages[at].first);
        REQUIRE(spans[at].parent == root.context.span);
        REQUIRE(base::trace_id_text(spans[at].context) == "4bf92f3577b34da6a3ce929d0e0e4736");
        REQUIRE(spans[at].end_unix_us - spans[at].begin_unix_us == stages[at].second);
    }
    const auto value_of = [&](std::string_view name) {
        const auto at = std::find_if(root.attributes.begin(), root.attributes.end(),
                                     [&](const auto& one) { return one.name == name; });
        REQUIRE(at != root.attributes.end());
        return at->value;
    };
    REQUIRE(std::get<std::string>(value_of("gen_ai.operation.name")) == "text_completion");
    REQUIRE(std::get<std::string>(value_of("gen_ai.request.model")) == "m");
    REQUIRE(std::get<std::int64_t>(value_of("gen_ai.usage.input_tokens")) == 7);
    REQUIRE(std::get<std::int64_t>(value_of("gen_ai.usage.output_tokens")) == 2);
    REQUIRE(std::get<std::vector<std::string>>(value_of("gen_ai.response.finish_reasons")).at(0) == "length");
    REQUIRE(world.lines().at(0).at("trace_id") == "4bf92f3577b34da6a3ce929d0e0e4736");
}

TEST_CASE("a request is traced where somebody keeps it, and else costs nothing", "[gateway][trace]") {
    World world;
    const auto ask = [&](const gateway::HttpFields& fields) {
        world.send("POST", "/v1/completions", R"({"prompt":3})", fields);
        return std::exchange(world.spans.all, {});
    };
    REQUIRE(ask({}).empty());
    REQUIRE(ask({{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}).empty());
    world.trace();
    auto own = ask({});
    REQUIRE(own.size() == 1u);  // refused: it has no stages
    REQUIRE(own[0].parent == 0u);
    REQUIRE_FALSE(own[0].error);  // the client's fault
    REQUIRE(ask({{"traceparent", "nonsense"}})[0].parent == 0u);
    REQUIRE(ask({{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00"}}).empty());
    world.trace(0);
    REQUIRE(ask({}).empty());
    REQUIRE(ask({{"traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"}}).size() == 1u);
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
