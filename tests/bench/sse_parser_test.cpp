#include "bench/sse_parser.h"

#include <string>
#include <string_view>
#include <vector>

#include "tests/support/catch.h"

namespace {

std::vector<std::string> parse_cut_at(std::string_view stream, std::size_t cut) {
    bench::SseParser parser;
    std::vector<std::string> all;
    for (const std::string_view part : {stream.substr(0, cut), stream.substr(cut)}) {
        const auto events = parser.feed(part);
        REQUIRE(events.has_value());
        all.insert(all.end(), events->begin(), events->end());
    }
    return all;
}

}  // namespace

TEST_CASE("events are the same wherever the stream is cut", "[bench]") {
    const std::string_view stream =
        "\xEF\xBB\xBF: ping\n\ndata: {\"a\":1}\n\ndata:no space\r\n\r\nid: 7\rdata: one\rdata:  two\r\revent: "
        "x\n\ndata\n\n"
        "data: grün\n\ndata: [DONE]\n\n";
    const std::vector<std::string> expected{R"({"a":1})", "no space", "one\n two", "", "grün", "[DONE]"};
    for (std::size_t cut = 0; cut <= stream.size(); ++cut) {
        CAPTURE(cut);
        REQUIRE(parse_cut_at(stream, cut) == expected);
    }
}

TEST_CASE("events are the same when the stream comes byte by byte", "[bench]") {
    bench::SseParser parser;
    std::vector<std::string> all;
    for (const char byte : std::string_view("data: a\r\n\r\ndata: b\n\n")) {
        const auto events = parser.feed(std::string_view(&byte, 1));
        REQUIRE(events.has_value());
        all.insert(all.end(), events->begin(), events->end());
    }
    REQUIRE(all == std::vector<std::string>{"a", "b"});
    REQUIRE_FALSE(parser.is_inside_event());
}

TEST_CASE("an event without its blank line is not given out", "[bench]") {
    bench::SseParser parser;
    REQUIRE(parser.feed("data: half\n")->empty());
    REQUIRE(parser.is_inside_event());
    REQUIRE(parser.feed("\n")->size() == 1u);
}

TEST_CASE("an event beyond the bound is refused", "[bench]") {
    bench::SseParser parser(16);
    const auto events = parser.feed("data: " + std::string(64, 'x'));
    REQUIRE_FALSE(events.has_value());
    REQUIRE(events.error().code == base::ErrorCode::resource_exhausted);
}
