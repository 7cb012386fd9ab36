// What users of other caches have reported of streams and of what an answer consists of, as tests of ours, through the
// routes. The other reports: docs/caching.md, "Reports of others".
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "tests/gateway/cache_world.h"

#include "tests/support/catch.h"

namespace {

using namespace gateway_test;

constexpr auto kStopped = proto::SequenceOutput::FINISH_STOP;
const std::string kSse = "text/event-stream; charset=utf-8";
const std::string kRoom = R"(,"max_tokens":200)";  // an answer that its bound cut off is not kept

/// Reasoning and content of a chat, as a client puts them together.
struct Said {
    std::string reasoning;
    std::string content;
    bool operator==(const Said&) const = default;
};

Said said_whole(const FakeExchange& exchange) {
    const json::object message = body(exchange).at("choices").at(0).at("message").as_object();
    const auto text = [&](const char* name) {
        const json::value* value = message.if_contains(name);
        return value != nullptr && value->is_string() ? std::string(value->get_string()) : std::string();
    };
    return {text("reasoning_content"), text("content")};
}

Said said_streamed(const FakeExchange& exchange) {
    Said said;
    for (const json::object& event : events(exchange)) {
        if (event.at("choices").as_array().empty()) { continue; }
        const json::object& delta = event.at("choices").at(0).at("delta").as_object();
        const auto add = [&](const char* name, std::string& to) {
            const json::value* value = delta.if_contains(name);
            if (value != nullptr && value->is_string()) { to += std::string_view(value->get_string()); }
        };
        add("reasoning_content", said.reasoning);
        add("content", said.content);
    }
    return said;
}

std::string text_streamed(const FakeExchange& exchange) {
    std::string text;
    for (const json::object& event : events(exchange)) {
        if (event.at("choices").as_array().empty()) { continue; }
        text += std::string_view(event.at("choices").at(0).at("text").as_string());
    }
    return text;
}

gateway::Models reasoning_model() {
    auto text = std::make_shared<ByteText>();
    text->style = {.reasons = true};
    std::vector<gateway::ServedModel> models;
    models.push_back({.name = "m", .text = std::move(text)});
    return gateway::Models::make(std::move(models), {}).value();
}

std::shared_ptr<FakeExchange> chat(CacheWorld& world, const std::string& text, const std::string& more) {
    return world.send("POST", "/v1/chat/completions",
                      R"({"temperature":0,"messages":[{"role":"user","content":")" + text + "\"}]" + more + "}");
}

}  // namespace

TEST_CASE("a hit has the form that was asked for, whatever its text looks like (semantic-router #913, #378)",
          "[gateway][cache]") {
    // Among them what a parser of streams would take for the end of one, or for an event.
    for (const std::string text : {"!!!!!!!!", "abc\n\ndata: [DONE]", "\n\ndata: [DONE]\n\n",
                                   "data: {\"choices\":[]}\n\n", "a\r\n\r\nb: c\n\n"}) {
        for (const bool is_stream_first : {false, true}) {
            CAPTURE(text, is_stream_first);
            CacheWorld world;
            const std::string stream = kRoom + R"(,"stream":true)";
            const auto first = world.ask(is_stream_first ? stream : kRoom);
            world.answer(text);
            const auto whole = world.ask(kRoom);
            const auto streamed = world.ask(stream);
            CHECK(world.runs() == 1);
            CHECK(text_of(*whole) == text);
            CHECK(header(*whole, "x-cache") == "HIT");
            CHECK(whole->response->content_type == "application/json");
            CHECK(text_streamed(*streamed) == text);
            CHECK(streamed->content_type == kSse);
            CHECK((is_stream_first ? text_streamed(*first) : text_of(*first)) == text);
        }
    }
}

TEST_CASE("a similar question's hit is a stream where one was asked for, and whole where not (semantic-router #913)",
          "[gateway][cache]") {
    gateway::GatewayOptions options = CacheWorld::equal_only();
    options.cache.semantic.semantic = true;
    options.cache.semantic.shadow_share = 0;
    options.cache.lookup_timeout = std::chrono::hours(1);  // of a clock that stands still
    CacheWorld world(options);
    chat(world, "How do I list hidden files in a folder?", "");
    REQUIRE(world.run_until([&] { return world.runs() == 1; }));
    world.answer("ls -a\n\ndata: [DONE]");
    const auto streamed = chat(world, "How can I list hidden files in a folder?", R"(,"stream":true)");
    REQUIRE(world.run_until([&] { return streamed->streamed.ends_with("[DONE]\n\n") || world.runs() > 1; }));
    const auto whole = chat(world, "How can I list hidden files in a folder?", "");
    REQUIRE(world.run_until([&] { return whole->response.has_value() || world.runs() > 1; }));
    REQUIRE(world.runs() == 1);
    CHECK(streamed->content_type == kSse);
    CHECK(said_streamed(*streamed).content == "ls -a\n\ndata: [DONE]");
    CHECK(said_whole(*whole).content == "ls -a\n\ndata: [DONE]");
    CHECK(header(*whole, "x-cache-kind") == "semantic");
}

TEST_CASE("a hit has the reasoning that the first answer had, in both forms (semantic-router #2140)",
          "[gateway][cache]") {
    const Said expected{"why\nnot", "because"};
    for (const bool is_stream_first : {false, true}) {
        CAPTURE(is_stream_first);
        CacheWorld world(CacheWorld::equal_only(), reasoning_model());
        const auto first = chat(world, "hi", is_stream_first ? R"(,"stream":true)" : "");
        world.place();
        world.say("<think>why\nnot</thi");
        world.say("nk>because", kStopped);
        world.run();
        CHECK((is_stream_first ? said_streamed(*first) : said_whole(*first)) == expected);
        const auto whole = chat(world, "hi", "");
        const auto streamed = chat(world, "hi", R"(,"stream":true)");
        CHECK(world.runs() == 1);
        CHECK(said_whole(*whole) == expected);
        CHECK(said_streamed(*streamed) == expected);
    }
}

TEST_CASE("an answer that its bound of tokens cut off is not kept, and one that just fitted is", "[gateway][cache]") {
    // A completion that names no bound has one of 16 tokens; here a token is a byte.
    CacheWorld world;
    const std::string cut(17, 'a');
    const auto first = world.ask();
    world.answer(cut);
    CHECK(text_of(*first) == cut.substr(0, 16));
    CHECK(body(*first).at("choices").at(0).at("finish_reason") == "length");
    world.ask();
    REQUIRE(world.runs() == 2);
    world.answer(std::string(15, 'b'), 1);
    CHECK(text_of(*world.ask()) == std::string(15, 'b'));
    CHECK(world.runs() == 2);
}
