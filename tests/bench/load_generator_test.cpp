#include "bench/load_generator.h"

#include <atomic>
#include <csignal>
#include <string>
#include <vector>

#include "tests/bench/scripted_server.h"
#include "tests/support/catch.h"

namespace {

using bench::LoadRequest;
using bench::RequestRecord;
using bench::Seconds;

/// All due at once, four tokens each.
std::vector<LoadRequest> make_load(std::size_t count) {
    std::vector<LoadRequest> load;
    for (std::size_t i = 0; i < count; ++i) {
        load.push_back({.plan = {.due = {}, .prompt_tokens = 8, .output_tokens = 4},
                        .body = bench::request_body({.model = "m"}, "prompt " + std::to_string(i), 4)});
    }
    return load;
}

std::vector<RequestRecord> load_server(const ScriptedServer& server, std::size_t count,
                                       const bench::LoadOptions& options = {}) {
    const auto target = bench::parse_url(server.url());
    REQUIRE(target.has_value());
    const auto load = make_load(count);
    auto records = bench::run_load(*target, load, options);
    REQUIRE(records.has_value());
    return std::move(*records);
}

RequestRecord load_one(ScriptedServer::Reply reply, const bench::LoadOptions& options = {}) {
    ScriptedServer server([&](const ScriptedServer::Request&) { return reply; });
    const auto records = load_server(server, 1, options);
    REQUIRE(records.size() == 1u);
    return records.front();
}

}  // namespace

TEST_CASE("every request is answered and has its own record", "[bench]") {
    ScriptedServer server([](const ScriptedServer::Request& request) {
        if (request.method != "POST" || request.target != "/v1/chat/completions") {
            return ScriptedServer::json(404, "{}");
        }
        return ScriptedServer::events(ScriptedServer::chat_stream(8, 4));
    });
    const auto records = load_server(server, 20);
    REQUIRE(records.size() == 20u);
    for (std::size_t i = 0; i < records.size(); ++i) {
        const RequestRecord& record = records[i];
        CAPTURE(i, record.error_kind, record.error_message);
        REQUIRE(record.is_ok());
        REQUIRE(record.index == i);
        REQUIRE(record.http_status == 200);
        REQUIRE(record.prompt_tokens == 8u);
        REQUIRE(record.cached_tokens == 1u);
        REQUIRE(record.output_tokens == 4u);
        REQUIRE(record.token_times.size() == 4u);
        REQUIRE(record.due <= record.sent);
        REQUIRE(record.sent <= record.token_times.front());
        REQUIRE(record.token_times.back() <= record.end);
    }
}

TEST_CASE("an error status is counted by its number and keeps the server's message", "[bench]") {
    const RequestRecord record = load_one(ScriptedServer::json(429, R"({"error":{"message":"queue full"}})"));
    REQUIRE(record.error_kind == "http_429");
    REQUIRE(record.error_message == "queue full");
    REQUIRE(record.http_status == 429);
}

TEST_CASE("what goes wrong inside a stream is told apart", "[bench]") {
    auto data = ScriptedServer::chat_stream(8, 4);
    SECTION("an error event") {
        data.insert(data.begin() + 3, R"({"error":{"message":"worker lost"}})");
        const RequestRecord record = load_one(ScriptedServer::events(data));
        REQUIRE(record.error_kind == "stream_error");
        REQUIRE(record.error_message == "worker lost");
    }
    SECTION("no [DONE]") {
        data.pop_back();
        REQUIRE(load_one(ScriptedServer::events(data)).error_kind == "truncated_stream");
    }
    SECTION("no finish_reason") {
        data.erase(data.end() - 3);
        REQUIRE(load_one(ScriptedServer::events(data)).error_kind == "truncated_stream");
    }
    SECTION("an event that is not JSON") {
        data[2] = "{oops";
        REQUIRE(load_one(ScriptedServer::events(data)).error_kind == "bad_stream");
    }
    SECTION("other tokens than asked") {
        REQUIRE(load_one(ScriptedServer::events(ScriptedServer::chat_stream(8, 3))).error_kind == "wrong_length");
        bench::LoadOptions options;
        options.check_length = false;
        REQUIRE(load_one(ScriptedServer::events(ScriptedServer::chat_stream(8, 3)), options).is_ok());
    }
    SECTION("the connection ends in the middle") {
        auto reply = ScriptedServer::events(data);
        reply.pieces.resize(4);
        reply.close = true;
        const RequestRecord record = load_one(reply);
        REQUIRE(record.error_kind == "read");
        REQUIRE(record.token_times.size() == 2u);
    }
    SECTION("the connection ends without an answer") {
        REQUIRE(load_one({.pieces = {}, .close = true}).error_kind == "read");
    }
    SECTION("not HTTP") {
        REQUIRE(load_one({.pieces = {"SSH-2.0\r\n\r\n"}, .close = true}).error_kind == "read");
    }
}

TEST_CASE("a server without usage is counted by its chunks", "[bench]") {
    auto data = ScriptedServer::chat_stream(8, 6);
    data.erase(data.end() - 2);
    const RequestRecord record = load_one(ScriptedServer::events(data));
    REQUIRE(record.is_ok());
    REQUIRE(record.output_tokens == 6u);
}

TEST_CASE("a server that never answers is given up", "[bench]") {
    bench::LoadOptions options;
    options.timeout = Seconds(0.05);
    REQUIRE(load_one({.pieces = {}, .hang = true}, options).error_kind == "timeout");
}

TEST_CASE("a kept connection that the server has closed costs no error", "[bench]") {
    std::atomic<int> kept{0};
    ScriptedServer server([&](const ScriptedServer::Request& request) {
        if (request.number_on_connection > 0) {
            ++kept;
            return ScriptedServer::Reply{.pieces = {}, .close = true};
        }
        return ScriptedServer::events(ScriptedServer::chat_stream(8, 4));
    });
    bench::LoadOptions options;
    options.in_flight_max = 1;
    const auto records = load_server(server, 4, options);
    for (const RequestRecord& record : records) {
        REQUIRE(record.is_ok());
    }
    REQUIRE(kept > 0);
}

TEST_CASE("a bound on the requests in flight holds", "[bench]") {
    ScriptedServer server(
        [](const ScriptedServer::Request&) { return ScriptedServer::events(ScriptedServer::chat_stream(8, 4)); });
    bench::LoadOptions options;
    options.in_flight_max = 2;
    const auto records = load_server(server, 30, options);
    REQUIRE(records.size() == 30u);
    REQUIRE(server.answering_max() <= 2);
}

TEST_CASE("nobody listening is an error of each request", "[bench]") {
    std::string url;
    {
        const ScriptedServer server([](const ScriptedServer::Request&) { return ScriptedServer::Reply{}; });
        url = server.url();
    }
    const auto target = bench::parse_url(url);
    const auto load = make_load(3);
    const auto records = bench::run_load(*target, load, {});
    REQUIRE(records.has_value());
    for (const RequestRecord& record : *records) {
        REQUIRE(record.error_kind == "connect");
    }
    REQUIRE(bench::http_get(*target, "/models", Seconds(5)).error().code == base::ErrorCode::unavailable);
}

TEST_CASE("an interrupted run keeps what it has measured", "[bench]") {
    std::atomic<int> received{0};
    ScriptedServer server([&](const ScriptedServer::Request&) {
        if (++received == 3) {
            std::raise(SIGINT);
            return ScriptedServer::Reply{.pieces = {}, .hang = true};
        }
        return ScriptedServer::events(ScriptedServer::chat_stream(8, 4));
    });
    bench::LoadOptions options;
    options.in_flight_max = 1;
    const auto records = load_server(server, 10, options);
    REQUIRE(records.size() == 3u);
    REQUIRE(records[0].is_ok());
    REQUIRE(records[1].is_ok());
    REQUIRE(records[2].error_kind == "interrupted");
}

TEST_CASE("progress ends with everything answered", "[bench]") {
    ScriptedServer server(
        [](const ScriptedServer::Request&) { return ScriptedServer::events(ScriptedServer::chat_stream(8, 4)); });
    bench::LoadOptions options;
    bench::LoadProgress last;
    options.progress = [&](const bench::LoadProgress& progress) { last = progress; };
    load_server(server, 5, options);
    REQUIRE(last.total == 5u);
    REQUIRE(last.ended == 5u);
    REQUIRE(last.failed == 0u);
}

TEST_CASE("URLs are taken apart", "[bench]") {
    const auto plain = bench::parse_url("http://localhost");
    REQUIRE(plain->host == "localhost");
    REQUIRE(plain->port == "80");
    REQUIRE(plain->base_path == "/v1");
    const auto full = bench::parse_url("http://[::1]:8000/openai/v1/");
    REQUIRE(full->host == "::1");
    REQUIRE(full->port == "8000");
    REQUIRE(full->base_path == "/openai/v1");
    for (const char* url : {"https://host", "host:80", "http://", "http://host:", "http://host:80x", "http://[::1",
                            "http://host:123456"}) {
        CAPTURE(url);
        REQUIRE(bench::parse_url(url).error().code == base::ErrorCode::invalid_argument);
    }
}
