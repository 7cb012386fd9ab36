#include "tests/gateway/http_client.h"
#include "tests/gateway/server.h"

namespace {

using namespace std::chrono_literals;
using namespace gateway_test;
using Server = ServerWith<base::SystemClock>;

std::string generate(bool stream, int tokens = 3) {
    return R"({"prompt":"a","seed":1,"ignore_eos":true,"max_tokens":)" + std::to_string(tokens) +
           (stream ? R"(,"stream":true})" : "}");
}

}  // namespace

TEST_CASE("a client that closes its sending side gets its answer, whole and streamed", "[gateway][http][half_close]") {
    const bool stream = GENERATE(true, false);
    const bool before_the_first_token = GENERATE(true, false);
    Server server;
    server.control->steps = !before_the_first_token;
    Client client(server.core->port());
    client.send(post(generate(stream)));
    if (before_the_first_token) {
        wait_until([&] { return server.control->sequences == 1u; });
    }
    client.close_sending();
    if (before_the_first_token) { REQUIRE(client.read_until("H") == "H"); }  // the answer has begun
    server.control->steps = true;
    const std::string received = (before_the_first_token ? "H" : "") + client.read_all();
    REQUIRE(received.starts_with("HTTP/1.1 200 OK\r\n"));
    REQUIRE(count(received, "HTTP/1.1 200 OK\r\n") == 1u);
    // Where the close comes first the answer says that nothing follows; else its head may have left before it was
    // known.
    if (before_the_first_token) { REQUIRE(received.find("Connection: close\r\n") != std::string::npos); }
    if (stream) {
        REQUIRE(received.ends_with("data: [DONE]\n\n\r\n0\r\n\r\n"));
    } else {
        const auto body = received.find("\r\n\r\n");
        REQUIRE(received.find("Content-Length: " + std::to_string(received.size() - body - 4)) != std::string::npos);
        REQUIRE(received.find("\"completion_tokens\":3") != std::string::npos);
    }
    wait_until([&] { return server.control->sequences == 0u; });
    REQUIRE(server.metrics.text().find("client_gone") == std::string::npos);
}

TEST_CASE("everything that was sent before the close is answered, in order", "[gateway][http][half_close]") {
    Server server;
    Client client(server.core->port());
    client.send("GET /live HTTP/1.1\r\nHost: localhost\r\n\r\n" + post(generate(false)) + post("{") +
                post(generate(true)) + "GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\nGET /hea");
    client.close_sending();
    const std::string received = client.read_all();
    CAPTURE(received);
    REQUIRE(count(received, "HTTP/1.1 ") == 5u);
    REQUIRE(count(received, "HTTP/1.1 200 OK\r\n") == 3u);
    REQUIRE(received.find("HTTP/1.1 400 ") < received.find("data: [DONE]"));
    REQUIRE(received.find("HTTP/1.1 404 ") > received.find("data: [DONE]"));
}

TEST_CASE("a client that is closed wholly is noticed before it has got anything", "[gateway][http][half_close]") {
    const bool stream = GENERATE(true, false);
    const bool half_first = GENERATE(true, false);
    ServerWith<base::FakeClock> server;
    server.control->steps = false;
    Client client(server.core->port());
    client.send(post(generate(stream, 1000)));
    wait_until([&] { return server.control->sequences == 1u; });
    if (half_first) {
        client.close_sending();
        REQUIRE(client.read_until("H") == "H");
    }
    client.close();
    if (half_first) { server.clock.advance(1s); }  // only what is sent shows it: the next probe comes with time
    wait_until([&] { return server.control->sequences == 0u; });
    wait_until([&] { return server.metrics.text().find("cause=\"client_gone\"") != std::string::npos; });
}

TEST_CASE("a half-closed client gets refusals too, and an unfinished request ends in silence",
          "[gateway][http][half_close]") {
    Server server;
    for (const auto& [bytes, status] : std::vector<std::pair<std::string, int>>{
             {"GET /nothing HTTP/1.1\r\nHost: localhost\r\n\r\n", 404},
             {post(R"({"prompt":"a","temperature":9})"), 400},
             {"HEAD /live HTTP/1.0\r\n\r\n", 200},
             {"POST /completions HTTP/1.0\r\nContent-Type: application/json\r\nContent-Length: " +
                  std::to_string(generate(true).size()) + "\r\n\r\n" + generate(true),
              200},
             {"BROKEN\r\n\r\n", 400},
             {"GET /live HTT", 0},
             {"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\n\r\nab", 0}}) {
        CAPTURE(bytes);
        Client client(server.core->port());
        client.send(bytes);
        client.close_sending();
        CHECK(status_of(client.read_all()) == status);
    }
}
