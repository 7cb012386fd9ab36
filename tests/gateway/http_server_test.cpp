#include <atomic>
#include <chrono>
#include <thread>

#include "tests/gateway/http_client.h"
#include "tests/gateway/server.h"

#include "tests/support/catch.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;

using Server = ServerWith<base::SystemClock>;

const std::string kLive = "GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n";
const std::string kLiveClose = "GET /live HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n";
const std::string kLongStream = R"({"prompt":"a","max_tokens":500000,"ignore_eos":true,"stream":true})";
constexpr int kSmallBufferBytes = 32 * 1024;

/// A request whose answer is larger than what sockets of kSmallBufferBytes hold.
std::string large_echo() {
    return R"({"max_tokens":1,"echo":true,"prompt":")" + std::string(600'000, 'a') + "\"}";
}
/// A completion was answered, though not all of it may have been taken.
bool is_answered(const Server& server) {
    return server.metrics.text().find("code=\"200\",endpoint=\"completions\"") != std::string::npos;
}
/// The body is as long as the head says.
bool is_whole(const std::string& answer) {
    constexpr std::string_view kField = "Content-Length: ";
    const auto field = answer.find(kField);
    const auto body = answer.find("\r\n\r\n");
    return field < body && body != std::string::npos && answer.size() > 600'000 &&
           answer.size() - body - 4 == std::stoul(answer.substr(field + kField.size()));
}

}  // namespace

TEST_CASE("requests on one connection are answered in order, also when they come at once", "[gateway][http]") {
    Server server;
    const std::string generate = post(R"({"prompt":"a","max_tokens":3,"seed":1})");
    const std::string received = exchange(server.core->port(), kLive + generate + "\r\n" + generate + kLiveClose);
    REQUIRE(count(received, "HTTP/1.1 200 OK\r\n") == 4u);
    REQUIRE(count(received, "text_completion") == 2u);
    REQUIRE(received.rfind("\"status\":\"ok\"") > received.rfind("text_completion"));
}

TEST_CASE("timers have their turn when somebody asks for it, not with every request", "[gateway][http]") {
    Server server;
    for (int request = 0; request < 100; ++request) {
        REQUIRE(status_of(exchange(server.core->port(), kLiveClose)) == 200);
    }
    REQUIRE(server.control->ticks <= 1);  // the one at the start
    REQUIRE(status_of(exchange(server.core->port(),
                               post(R"({"prompt":"a","max_tokens":3})", "Connection: close\r\n"))) == 200);
    REQUIRE(server.control->ticks > 1);
}

TEST_CASE("a request may come byte by byte", "[gateway][http]") {
    Server server;
    Client client(server.core->port());
    for (const char byte : post(R"({"prompt":"a","max_tokens":2})", "Connection: close\r\n")) {
        REQUIRE(client.send(std::string_view(&byte, 1)));
    }
    REQUIRE(status_of(client.read_all()) == 200);
}

TEST_CASE("what could smuggle a request is refused and the connection closed", "[gateway][http]") {
    Server server;
    const std::vector<std::pair<std::string, int>> cases = {
        {"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: xchunked\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400},
        {"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2, 2\r\n\r\n{}", 400},
        {"POST / HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n5\nhello\r\n0\r\n\r\n", 400},
        {"GET /live HTTP/1.1\r\n\r\n", 400},
        {"GET /live HTTP/1.1\nHost: h\n\n", 400},
        {"GET /live HTTP/1.1\r\nHost: a\r\nX: 1\r\n folded\r\n\r\n", 400},
        {"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", 405},
        {"GET /live HTTP/2.0\r\nHost: a\r\n\r\n", 505},
        {"\x16\x03\x01\x02", 400},
        {"GET /" + std::string(100'000, 'a') + " HTTP/1.1\r\nHost: localhost\r\n\r\n", 414},
        {"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + std::string(100'000, 'a') + "\r\n\r\n", 431},
        {"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 104857600\r\n\r\n", 413},
    };
    for (const auto& [bytes, status] : cases) {
        CAPTURE(bytes.substr(0, 80));
        const std::string received = exchange(server.core->port(), bytes + kLive);
        CHECK(status_of(received) == status);
        CHECK(count(received, "HTTP/1.1 ") == 1u);
        CHECK(received.find("Connection: close\r\n") != std::string::npos);
        CHECK(received.find("{\"error\":{\"message\":") != std::string::npos);
    }
    REQUIRE(status_of(exchange(server.core->port(), kLiveClose)) == 200);
}

TEST_CASE("a body that is announced with Expect is asked for", "[gateway][http]") {
    Server server;
    Client client(server.core->port());
    const std::string body = R"({"prompt":"a","max_tokens":2})";
    client.send(post(body, "Expect: 100-continue\r\nConnection: close\r\n")
                    .substr(0, post(body, "Expect: 100-continue\r\nConnection: close\r\n").size() - body.size()));
    REQUIRE(client.read_until("\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n");
    client.send(body);
    REQUIRE(status_of(client.read_all()) == 200);
    // Too large: the answer comes instead of the invitation.
    REQUIRE(status_of(exchange(
                server.core->port(),
                "POST / HTTP/1.1\r\nHost: localhost\r\nExpect: 100-continue\r\nContent-Length: 99999999\r\n\r\n")) ==
            413);
}

TEST_CASE("a chunked body is taken", "[gateway][http]") {
    Server server;
    const std::string received =
        exchange(server.core->port(),
                 "POST /completions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: "
                 "application/json\r\nTransfer-Encoding: chunked\r\n\r\n"
                 "a\r\n{\"prompt\":\r\n13\r\n\"a\",\"max_tokens\":2}\r\n0\r\n\r\n");
    REQUIRE(status_of(received) == 200);
}

TEST_CASE("a stream is chunked for HTTP/1.1 and ends with the connection for HTTP/1.0", "[gateway][http]") {
    Server server;
    const std::string body = R"({"prompt":"a","max_tokens":3,"stream":true})";
    Client client(server.core->port());
    client.send(post(body));
    const std::string head = client.read_until("\r\n\r\n");
    REQUIRE(head.find("Content-Type: text/event-stream; charset=utf-8\r\n") != std::string::npos);
    REQUIRE(head.find("Transfer-Encoding: chunked\r\n") != std::string::npos);
    REQUIRE(client.read_until("0\r\n\r\n").find("data: [DONE]\n\n\r\n0\r\n\r\n") != std::string::npos);
    client.send(kLiveClose);  // the connection goes on
    REQUIRE(status_of(client.read_all()) == 200);

    const std::string old = exchange(
        server.core->port(), "POST /completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
                                 std::to_string(body.size()) + "\r\n\r\n" + body);
    REQUIRE(old.find("Transfer-Encoding") == std::string::npos);
    REQUIRE(old.ends_with("data: [DONE]\n\n"));
}

TEST_CASE("a client that goes away in the middle is noticed", "[gateway][http]") {
    const int way = GENERATE(range(0, 2));
    Server server;
    Client client(server.core->port());
    client.send(post(kLongStream));
    client.read_until("data: ");
    wait_until([&] { return server.control->sequences == 1u; });
    if (way == 0) { client.close(); }
    if (way == 1) { client.reset(); }
    wait_until([&] { return server.control->sequences == 0u; });
    wait_until([&] { return server.metrics.text().find("cause=\"client_gone\"") != std::string::npos; });
}

TEST_CASE("a client that does not read is cut, and others do not notice", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.send_buffer_bytes_max = 64 * 1024;
    options.http.socket_send_bytes = 16 * 1024;
    options.http.write_timeout = 200ms;
    Server server(options);
    server.control->tokens_a_tick = 200;
    Client slow(server.core->port(), 4096);
    slow.send(post(kLongStream));
    wait_until([&] { return server.control->sequences == 1u; });
    REQUIRE(status_of(exchange(server.core->port(),
                               post(R"({"prompt":"a","max_tokens":3})", "Connection: close\r\n"))) == 200);
    wait_until([&] { return server.metrics.text().find("cause=\"slow_client\"") != std::string::npos; });
    wait_until([&] { return server.control->sequences == 0u; });
}

TEST_CASE("a request that does not arrive in time gets 408, an idle connection is closed", "[gateway][http]") {
    gateway::GatewayOptions options;
    // Longer than a busy machine lets a client stand still between connecting and sending.
    options.http.header_timeout = 500ms;
    options.http.body_timeout = 500ms;
    options.http.idle_timeout = 500ms;
    Server server(options);
    REQUIRE(status_of(exchange(server.core->port(), "GET /live HTT")) == 408);
    REQUIRE(status_of(exchange(server.core->port(),
                               "POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab")) == 408);
    REQUIRE(status_of(exchange(server.core->port(), kLive)) == 200);
    REQUIRE(exchange(server.core->port(), "").empty());
}

TEST_CASE("connections beyond the bound are turned away", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.connections_max = 2;
    Server server(options);
    Client first(server.core->port());
    Client second(server.core->port());
    first.send(post(kLongStream));
    second.send(post(kLongStream));
    first.read_until("data: ");
    second.read_until("data: ");
    const std::string refused = Client(server.core->port()).read_all();
    REQUIRE(status_of(refused) == 503);
    REQUIRE(refused.find("Retry-After: 1\r\n") != std::string::npos);
    first.close();
    wait_until([&] { return status_of(exchange(server.core->port(), kLiveClose)) == 200; });
}

TEST_CASE("bodies in reception are bounded together", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.bodies_bytes_max = 1000;
    Server server(options);
    Client first(server.core->port());
    first.send(post(std::string(950, ' ')).substr(0, post(std::string(950, ' ')).size() - 50));
    const auto status = [&](std::size_t size) {
        return status_of(exchange(server.core->port(), post(std::string(size, ' '), "Connection: close\r\n")));
    };
    wait_until([&] { return status(200) == 503; });  // once the 900 bytes of the other have come
    REQUIRE(status(50) == 400);
    first.close();
    wait_until([&] { return status(200) == 400; });
}

TEST_CASE("bodies that are only declared keep nobody out", "[gateway][http]") {
    Server server;
    std::vector<std::unique_ptr<Client>> idle;
    for (int number = 0; number < 20; ++number) {
        idle.push_back(std::make_unique<Client>(server.core->port()));
        idle.back()->send(
            "POST /completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nExpect: "
            "100-continue\r\nContent-Length: " +
            std::to_string(gateway::HttpLimits{}.body_bytes_max) + "\r\n\r\n");
        REQUIRE(idle.back()->read_until("\r\n\r\n") == "HTTP/1.1 100 Continue\r\n\r\n");
    }
    REQUIRE(status_of(exchange(server.core->port(),
                               post(R"({"prompt":"a","max_tokens":3})", "Connection: close\r\n"))) == 200);
}

TEST_CASE("a client that reads its last answer slowly gets the whole of it", "[gateway][http]") {
    const bool is_kept = GENERATE(false, true);
    gateway::GatewayOptions options;
    options.http.socket_send_bytes = kSmallBufferBytes;
    options.http.linger_timeout = 20ms;
    options.http.idle_timeout = 400ms;
    options.http.header_timeout = 600ms;
    Server server(options);
    Client slow(server.core->port(), kSmallBufferBytes);
    slow.send(post(large_echo(), is_kept ? "" : "Connection: close\r\n"));
    wait_until([&] { return is_answered(server); });
    // The whole header timeout passes here, longer than the linger and the idle timeout.
    REQUIRE(status_of(exchange(server.core->port(), "GET /live HTT")) == 408);
    REQUIRE(is_whole(slow.read_all()));
}

TEST_CASE("draining ends a connection whose last answer is still being read", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.socket_send_bytes = kSmallBufferBytes;
    options.http.idle_timeout = 10min;
    options.drain_timeout = 10min;
    Server server(options);
    Client idle(server.core->port());
    idle.send(kLive);
    idle.read_until("\"ok\"}");
    Client slow(server.core->port(), kSmallBufferBytes);
    slow.send(post(large_echo()));
    wait_until([&] { return is_answered(server); });
    std::thread stopping([&] { server.core->drain_and_stop(); });
    REQUIRE(idle.read_all().empty());  // draining has begun
    const std::string answer = slow.read_all();
    stopping.join();
    REQUIRE(is_whole(answer));
}

TEST_CASE("draining finishes what is in work, says so to probes and refuses what is new", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.drain_timeout = 10min;
    Server server(options);
    Client idle(server.core->port());
    idle.send(kLive);
    idle.read_until("\"ok\"}");
    Client busy(server.core->port());
    busy.send(post(R"({"prompt":"a","max_tokens":30,"ignore_eos":true,"stream":true})"));
    busy.read_until("data: ");
    server.control->steps = false;
    std::thread stopping([&] { server.core->drain_and_stop(); });
    REQUIRE(idle.read_all().empty());
    REQUIRE(status_of(exchange(server.core->port(), "GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")) ==
            503);  // closed after the answer
    REQUIRE(status_of(exchange(server.core->port(), kLive)) == 200);
    const std::string refused = exchange(server.core->port(), post(R"({"prompt":"a","max_tokens":1})"));
    REQUIRE(status_of(refused) == 503);
    REQUIRE(refused.find("Retry-After: ") != std::string::npos);
    const Client silent(server.core->port());  // a connection without a request holds nothing up
    server.control->steps = true;
    const std::string rest = busy.read_all();
    stopping.join();
    REQUIRE(rest.find("\"finish_reason\":\"length\"") != std::string::npos);
    REQUIRE(rest.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"));
}

TEST_CASE("what is not done when the drain timeout is over ends with an error", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.drain_timeout = 50ms;
    Server server(options);
    Client busy(server.core->port());
    busy.send(post(kLongStream));
    busy.read_until("data: ");
    Client waiting(server.core->port());
    server.control->steps = false;
    waiting.send(post(R"({"prompt":"a","max_tokens":30})"));
    wait_until([&] {
        return server.metrics.text().find("sluice_gateway_inflight_requests{model=\"m\"} 2") != std::string::npos;
    });
    std::thread stopping([&] { server.core->drain_and_stop(); });
    const std::string rest = busy.read_all();
    const std::string whole = waiting.read_all();
    stopping.join();
    REQUIRE(rest.find("data: {\"error\":{\"message\":\"the gateway is shutting down\"") != std::string::npos);
    REQUIRE(rest.find("data: [DONE]\n\n") != std::string::npos);
    REQUIRE(status_of(whole) == 503);
}

TEST_CASE("beyond loopback nothing listens without the flag, and a taken port is a clear error", "[gateway][http]") {
    base::SystemClock clock;
    base::Metrics metrics;
    const auto start = [&](const std::string& host, std::uint16_t port) {
        gateway::GatewayOptions options;
        options.http.host = host;
        options.http.port = port;
        return gateway::GatewayCore::start(
            {.options = options,
             .models = {{.name = "m", .text = std::make_shared<ByteText>()}},
             .hash_key = {},
             .clock = clock,
             .metrics = metrics,
             .make_ports = [](const gateway::Models&, gateway::Post post, gateway::Wake wake) {
                 return std::make_unique<FakePorts>(std::move(post), std::move(wake),
                                                    std::make_shared<FakePorts::Control>());
             }});
    };
    for (const char* host : {"0.0.0.0", "::"}) {
        const auto refused = start(host, 0);
        REQUIRE_FALSE(refused);
        REQUIRE(refused.error().code == base::ErrorCode::permission_denied);
        REQUIRE(refused.error().message.find(host) != std::string::npos);
    }
    REQUIRE(start("example", 0).error().code == base::ErrorCode::invalid_argument);
    Server server;
    const auto taken = start("127.0.0.1", server.core->port());
    REQUIRE(taken.error().code == base::ErrorCode::unavailable);
    REQUIRE(taken.error().message.find(std::to_string(server.core->port())) != std::string::npos);
}

TEST_CASE("many clients at once are all answered", "[gateway][http]") {
    Server server;
    std::vector<std::unique_ptr<Client>> clients;
    for (int number = 0; number < 100; ++number) {
        clients.push_back(std::make_unique<Client>(server.core->port()));
        clients.back()->send(post(R"({"prompt":"p","max_tokens":20,"seed":3,"stream":true})", "Connection: close\r\n"));
    }
    for (const auto& client : clients) {
        const std::string received = client->read_all();
        REQUIRE(status_of(received) == 200);
        REQUIRE(count(received, "data: [DONE]") == 1u);
        REQUIRE(count(received, "\"finish_reason\":\"length\"") + count(received, "\"finish_reason\":\"stop\"") == 1u);
    }
}

TEST_CASE("the deadlines of connections follow the clock of the server", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.header_timeout = 1h;
    ServerWith<base::FakeClock> server(options);
    Client client(server.core->port());
    client.send("GET /li");
    Client other(server.core->port());  // answered, so the first one's bytes have been read
    other.send(kLive);
    other.read_until("{\"status\":\"ok\"}");
    server.clock.advance(2h);
    REQUIRE(status_of(client.read_all()) == 408);
}

TEST_CASE("what is posted to a gateway that has stopped goes away with it, whoever can still post", "[gateway][http]") {
    gateway::Post post;
    std::weak_ptr<int> posted;
    {
        const base::SystemClock clock;
        base::Metrics metrics;
        gateway::GatewayOptions options;
        options.http.port = 0;
        const auto core = gateway::GatewayCore::start(
            {.options = options,
             .models = {{.name = "m", .text = std::make_shared<ByteText>()}},
             .hash_key = {},
             .clock = clock,
             .metrics = metrics,
             .make_ports = [&](const gateway::Models&, gateway::Post given, gateway::Wake wake) {
                 post = given;
                 return std::make_unique<FakePorts>(std::move(given), std::move(wake),
                                                    std::make_shared<FakePorts::Control>());
             }});
        REQUIRE(core);
        (*core)->drain_and_stop();
        const auto owned = std::make_shared<int>();
        posted = owned;
        post([owned, post] {});  // as a stream does, which posts its end, itself with it, and can post more
    }
    REQUIRE(posted.expired());
    post([] {});  // nobody is there any more
}
