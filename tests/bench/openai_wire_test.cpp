#include "bench/openai_wire.h"

#include <boost/json.hpp>
#include <string>
#include <vector>

#include "tests/support/catch.h"

using bench::Endpoint;

TEST_CASE("a request asks for a stream with usage and the exact length", "[bench]") {
    const auto chat = boost::json::parse(
        bench::request_body({.endpoint = Endpoint::chat, .model = "m"}, std::string("hi \"you\""), 7));
    REQUIRE(chat.at("model").as_string() == "m");
    REQUIRE(chat.at("messages").at(0).at("content").as_string() == "hi \"you\"");
    REQUIRE(chat.at("max_completion_tokens").as_int64() == 7);
    REQUIRE(chat.at("stream").as_bool());
    REQUIRE(chat.at("stream_options").at("include_usage").as_bool());
    REQUIRE(chat.at("ignore_eos").as_bool());
    const auto ids =
        boost::json::parse(bench::request_body({.endpoint = Endpoint::completions, .model = "m", .ignore_eos = false},
                                               std::vector<std::int32_t>{1, 22, 3}, 5));
    REQUIRE(ids.at("prompt").as_array().size() == 3u);
    REQUIRE(ids.at("prompt").at(1).as_int64() == 22);
    REQUIRE(ids.at("max_tokens").as_int64() == 5);
    REQUIRE_FALSE(ids.as_object().contains("ignore_eos"));
}

TEST_CASE("events of a stream are told apart", "[bench]") {
    REQUIRE(bench::parse_stream_event("[DONE]")->is_done);
    const auto role =
        bench::parse_stream_event(R"({"choices":[{"index":0,"delta":{"role":"assistant","content":""}}]})");
    REQUIRE_FALSE(role->has_text);
    REQUIRE(bench::parse_stream_event(R"({"choices":[{"index":0,"delta":{"content":"a"}}]})")->has_text);
    REQUIRE(bench::parse_stream_event(R"({"choices":[{"index":0,"delta":{"reasoning_content":"a"}}]})")->has_text);
    REQUIRE(bench::parse_stream_event(R"({"choices":[{"index":0,"text":"a","finish_reason":null}]})")->has_text);
    REQUIRE(bench::parse_stream_event(R"({"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]})")->is_finish);
    const auto usage = bench::parse_stream_event(
        R"({"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,"prompt_tokens_details":{"cached_tokens":3}},"error":null})");
    REQUIRE(usage->usage->prompt_tokens == 9u);
    REQUIRE(usage->usage->output_tokens == 4u);
    REQUIRE(usage->usage->cached_tokens == 3u);
    REQUIRE_FALSE(usage->error.has_value());
    REQUIRE(bench::parse_stream_event(R"({"error":{"message":"worker lost","type":"server_error"}})")->error ==
            "worker lost");
}

TEST_CASE("an event that is not an object is an error", "[bench]") {
    for (const char* data : {"", "{", "7", "[]", "hello"}) {
        CAPTURE(data);
        REQUIRE(bench::parse_stream_event(data).error().code == base::ErrorCode::data_loss);
    }
}

TEST_CASE("messages of error bodies are found in the forms of several servers", "[bench]") {
    REQUIRE(bench::error_message_of(R"({"error":{"message":"too long","code":null}})") == "too long");
    REQUIRE(bench::error_message_of(R"({"error":"plain"})") == "plain");
    REQUIRE(bench::error_message_of(R"({"object":"error","message":"flat"})") == "flat");
    REQUIRE(bench::error_message_of("<html>gone</html>") == "<html>gone</html>");
    REQUIRE(bench::error_message_of(std::string(5000, 'x')).size() == 200u);
}

TEST_CASE("the first model of a list is taken", "[bench]") {
    REQUIRE(*bench::first_model_of(R"({"object":"list","data":[{"id":"a/b"},{"id":"c"}]})") == "a/b");
    REQUIRE(bench::first_model_of(R"({"data":[]})").error().code == base::ErrorCode::not_found);
    REQUIRE(bench::first_model_of("nonsense").error().code == base::ErrorCode::data_loss);
    REQUIRE(bench::first_model_of(R"({"data":[{"name":"x"}]})").error().code == base::ErrorCode::data_loss);
}
