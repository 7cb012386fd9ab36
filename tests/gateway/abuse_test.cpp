#include <condition_variable>
#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>

#include "tests/gateway/http_client.h"
#include "tests/gateway/server.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;

using Server = ServerWith<base::SystemClock>;

const std::string kStream = R"({"prompt":"a","max_tokens":500000,"ignore_eos":true,"stream":true})";
const std::string kOneWord = R"({"prompt":"a","max_tokens":1})";
const std::string kClose = "Connection: close\r\n";

/// A text port that takes its time over texts with an 'x' in them: until it is told to go on.
class SlowText final : public ByteText {
public:
    base::Result<Tokens> encode(std::string_view text, bool add_special, bool parse_special,
                                std::span<const std::size_t> text_starts) const override {
        if (text.find('x') != std::string_view::npos) {
            std::unique_lock lock(mutex_);
            ++waiting_;
            changed_.notify_all();
            changed_.wait_for(lock, 30s, [&] { return goes_on_; });
        }
        return ByteText::encode(text, add_special, parse_special, text_starts);
    }
    void wait_until_slow() const {
        std::unique_lock lock(mutex_);
        demand(changed_.wait_for(lock, 30s, [&] { return waiting_ > 0; }), "nobody encodes");
    }
    void go_on() const {
        const std::scoped_lock lock(mutex_);
        goes_on_ = true;
        changed_.notify_all();
    }
    std::size_t waiting() const {
        const std::scoped_lock lock(mutex_);
        return waiting_;
    }

private:
    mutable std::mutex mutex_;
    mutable std::condition_variable changed_;
    mutable std::size_t waiting_ = 0;  // guarded by mutex_, as goes_on_
    mutable bool goes_on_ = false;
};

/// What comes back, to the end of the connection.
std::string ask(std::uint16_t port, const std::string& bytes, std::uint32_t from = 1) {
    return gateway_test::exchange(port, bytes, from);
}

std::string prompt(std::size_t bytes, char letter) {
    return R"({"max_tokens":1,"prompt":")" + std::string(bytes, letter) + "\"}";
}

std::string get(const std::string& path, const std::string& host, const std::string& fields = "") {
    return "GET " + path + " HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n" + fields + "\r\n";
}

std::string post_to(const std::string& host, const std::string& fields) {
    return "POST /v1/completions HTTP/1.1\r\nHost: " + host + "\r\nConnection: close\r\n" + fields +
           "Content-Length: " + std::to_string(kOneWord.size()) + "\r\n\r\n" + kOneWord;
}

}  // namespace

TEST_CASE("idle connections lock nobody out, and who is being answered is not cut for another", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.connections_max = 16;
    options.http.connections_per_client_max = 8;
    Server server(options);
    const std::uint16_t port = server.core->port();
    Client busy(port);
    busy.send(post(kStream));
    busy.read_until("data: ");
    std::deque<Client> idle;
    for (int flood = 0; flood < 100; ++flood) {
        idle.emplace_back(port);
    }
    for (std::uint32_t other = 2; other < 10; ++other) {  // with theirs, the server is full
        for (int flood = 0; flood < 10; ++flood) {
            idle.emplace_back(port, 0, other);
        }
        REQUIRE(status_of(ask(port, kHealthClose, other)) == 200);
    }
    REQUIRE(status_of(ask(port, kHealthClose, 77)) == 200);
    REQUIRE(status_of(ask(port, kHealthClose)) == 200);
    REQUIRE(idle.front().read_all().empty());  // closed long ago
    busy.read_until("data: ");
    REQUIRE(busy.read_until("data: ").ends_with("data: "));
}

TEST_CASE("one client's requests in work leave room for another's", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.connections_per_client_max = 2;
    Server server(options);
    const std::uint16_t port = server.core->port();
    Client first(port);
    Client second(port);
    for (Client* const one : {&first, &second}) {
        one->send(post(kStream));
        one->read_until("data: ");
    }
    const std::string refused = Client(port).read_all();
    REQUIRE(status_of(refused) == 429);
    REQUIRE(refused.find("Retry-After: 1\r\n") != std::string::npos);
    REQUIRE(status_of(ask(port, post(kOneWord, kClose), 2)) == 200);
    first.close();
    wait_until([&] { return status_of(ask(port, kHealthClose)) == 200; });
}

TEST_CASE("behind a proxy that is trusted, its clients are counted", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.connections_per_client_max = 1;
    options.http.trusted_proxies = {"127.0.0.1"};
    Server server(options);
    const std::uint16_t port = server.core->port();
    const auto from = [](const std::string& address) { return "X-Forwarded-For: " + address + "\r\n"; };
    Client busy(port);
    busy.send(post(kStream, from("203.0.113.7")));
    busy.read_until("data: ");
    REQUIRE(status_of(ask(port, post(kOneWord, kClose + from("203.0.113.7")))) == 429);
    REQUIRE(status_of(ask(port, post(kOneWord, kClose + from("1.2.3.4, 203.0.113.7")))) == 429);
    REQUIRE(status_of(ask(port, post(kOneWord, kClose + from("203.0.113.8")))) == 200);
    REQUIRE(status_of(ask(port, post(kOneWord, kClose))) == 200);
    // Who is no proxy of ours says what it likes, and is counted as itself.
    Client stranger(port, 0, 2);
    stranger.send(post(kStream, from("203.0.113.9")));
    stranger.read_until("data: ");
    REQUIRE(status_of(Client(port, 0, 2).read_all()) == 429);
    REQUIRE(status_of(ask(port, post(kOneWord, kClose + from("203.0.113.9")))) == 200);
    busy.close();
    wait_until([&] { return status_of(ask(port, post(kOneWord, kClose + from("203.0.113.7")))) == 200; });
}

TEST_CASE("a body counts from its first byte until its sequences start, for all and for its client",
          "[gateway][http]") {
    gateway::GatewayOptions options;
    options.http.bodies_bytes_max = 2000;
    options.http.bodies_bytes_per_client_max = 1200;
    const auto text = std::make_shared<SlowText>();
    Server server(options, text);
    const std::uint16_t port = server.core->port();
    Client slow(port);
    slow.send(post(prompt(900, 'x'), kClose));
    text->wait_until_slow();  // it is whole, and not yet prepared
    const std::string refused = ask(port, post(prompt(400, 'a'), kClose));
    REQUIRE(status_of(refused) == 429);
    REQUIRE(refused.find("Retry-After: 1\r\n") != std::string::npos);
    REQUIRE(refused.find("of this client") != std::string::npos);
    REQUIRE(status_of(ask(port, post(kOneWord, kClose))) == 200);
    REQUIRE(status_of(ask(port, post(prompt(400, 'a'), kClose), 2)) == 200);
    std::optional<Client> other;
    wait_until([&] {  // the request before may count a little longer than its answer takes
        other.emplace(port, 0, 2);
        other->send(post(prompt(1000, 'x'), kClose).substr(0, 1100));  // most of it, and no more
        return status_of(ask(port, post(prompt(400, 'a'), kClose), 3)) == 503;
    });
    text->go_on();
    REQUIRE(status_of(slow.read_all()) == 200);
    wait_until([&] { return status_of(ask(port, post(prompt(900, 'a'), kClose))) == 200; });
}

TEST_CASE("one client's large prompts do not delay another's one word", "[gateway][http]") {
    const auto text = std::make_shared<SlowText>();
    Server server({}, text);  // one thread for large prompts
    const std::uint16_t port = server.core->port();
    std::deque<Client> greedy;
    for (int large = 0; large < 4; ++large) {
        greedy.emplace_back(port);
        greedy.back().send(post(prompt(100'000, 'x'), kClose));
    }
    text->wait_until_slow();
    for (int word = 0; word < 20; ++word) {
        REQUIRE(status_of(ask(port, post(kOneWord, kClose), 2)) == 200);
    }
    REQUIRE(text->waiting() == 1u);  // the other three wait for their turn, not on a thread
    text->go_on();
    for (Client& one : greedy) {
        REQUIRE(status_of(one.read_all()) == 200);
    }
}

TEST_CASE("a page that pointed its name at this machine gets nothing", "[gateway][http]") {
    Server server;
    const std::uint16_t port = server.core->port();
    const std::string json = "Content-Type: application/json\r\n";
    const std::string rebound = ask(port, post_to("evil.example:" + std::to_string(port), json));
    REQUIRE(status_of(rebound) == 403);
    REQUIRE(rebound.find("gateway.hosts") != std::string::npos);
    REQUIRE(rebound.find("permission_error") != std::string::npos);
    REQUIRE(status_of(ask(port, get("/v1/models", "evil.example"))) == 403);
    REQUIRE(status_of(ask(port, get("/metrics", "evil.example"))) == 403);
    for (const std::string host : {"localhost", "127.0.0.1:8000", "[::1]:1"}) {
        CAPTURE(host);
        REQUIRE(status_of(ask(port, post_to(host, json))) == 200);
    }
    gateway::GatewayOptions named;
    named.http.hosts = {"llm.example.org"};
    Server behind_ingress(named);
    REQUIRE(status_of(gateway_test::exchange(behind_ingress.core->port(), post_to("llm.example.org", json))) == 200);
    REQUIRE(status_of(gateway_test::exchange(behind_ingress.core->port(), post_to("evil.example", json))) == 403);
}

TEST_CASE("a page of another site makes nothing happen", "[gateway][http]") {
    gateway::GatewayOptions options;
    options.cors_origins = {"https://chat.example.org"};
    Server server(options);
    const std::uint16_t port = server.core->port();
    const std::string json = "Content-Type: application/json\r\n";
    // What a browser sends without asking first: a form, a text, a body without a type.
    for (const std::string type :
         {"Content-Type: text/plain\r\n", "Content-Type: application/x-www-form-urlencoded\r\n",
          "Content-Type: multipart/form-data; boundary=b\r\n", ""}) {
        CAPTURE(type);
        REQUIRE(status_of(ask(port, post_to("localhost", type + "Origin: https://evil.example\r\n"))) == 403);
        REQUIRE(status_of(ask(port, post_to("localhost", type))) == 415);
    }
    REQUIRE(status_of(ask(port, post_to("localhost", json + "Origin: https://evil.example\r\n"))) == 403);
    REQUIRE(status_of(ask(port, post_to("localhost", json + "Origin: null\r\n"))) == 403);
    REQUIRE(status_of(exchange(port,
                               "POST /reset_prefix_cache HTTP/1.1\r\nHost: localhost\r\nOrigin: "
                               "https://evil.example\r\nContent-Length: 0\r\n\r\n")) == 403);
    REQUIRE(status_of(ask(port, post_to("localhost", json + "Origin: https://chat.example.org\r\n"))) == 200);
    REQUIRE(status_of(ask(port, post_to("localhost:1", json + "Origin: http://localhost:1\r\n"))) == 200);
}

TEST_CASE("pages that may ask are others from one moment to the next, or the same where the new ones are none",
          "[gateway][http]") {
    gateway::GatewayOptions options;
    options.cors_origins = {"https://old.example"};
    Server server(options);
    const std::uint16_t port = server.core->port();
    const auto asked_by = [&](const std::string& page) {
        return ask(port, post_to("localhost", "Content-Type: application/json\r\nOrigin: " + page + "\r\n"));
    };
    const auto told = [&](const std::string& page) {
        return ask(port, get("/v1/models", "localhost", "Origin: " + page + "\r\n"))
            .find("Access-Control-Allow-Origin: " + page);
    };
    const auto preflight = [&](const std::string& page) {
        return ask(port, "OPTIONS /v1/completions HTTP/1.1\r\nHost: localhost\r\nOrigin: " + page +
                             "\r\nAccess-Control-Request-Method: POST\r\n" + kClose + "\r\n")
            .find("Access-Control-Allow-Methods");
    };
    const std::string before = "https://old.example";
    const std::string after = "https://new.example";
    const auto may_ask = [&](const std::string& yes, const std::string& no) {
        CHECK(status_of(asked_by(yes)) == 200);
        CHECK(status_of(asked_by(no)) == 403);
        CHECK(told(yes) != std::string::npos);
        CHECK(told(no) == std::string::npos);
        CHECK(preflight(yes) != std::string::npos);
        CHECK(preflight(no) == std::string::npos);
    };
    may_ask(before, after);
    REQUIRE(server.core->change({.slo = options.slo, .cors_origins = {after}}).has_value());
    may_ask(after, before);
    const auto refused = server.core->change({.slo = options.slo, .cors_origins = {before, "no origin"}});
    REQUIRE(refused.error().code == base::ErrorCode::invalid_argument);
    may_ask(after, before);
}
