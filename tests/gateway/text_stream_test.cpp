#include "gateway/request/text_stream.h"

#include "tests/gateway/support.h"

#include "tests/support/catch.h"

namespace {

using gateway::TextStream;
using gateway_test::ByteText;

TextStream make_stream(TextStream::Options options) {
    return TextStream(ByteText().detokenizer(true), std::move(options));
}

struct Seen {
    std::string text;
    std::string tokens;
    void add(const gateway::Piece& piece) {
        text += piece.text;
        for (const auto& record : piece.tokens) {
            tokens += static_cast<char>(record.token);
        }
    }
};

Seen run(TextStream& stream, std::string_view bytes) {
    Seen seen;
    for (const char byte : bytes) {
        seen.add(stream.push({.token = static_cast<unsigned char>(byte)}));
        if (stream.stopped()) { return seen; }
    }
    seen.add(stream.finish());
    return seen;
}

}  // namespace

TEST_CASE("text ends before the stop string, and so do its tokens", "[gateway]") {
    auto stream = make_stream({.stop_strings = {"two"}});
    const Seen seen = run(stream, "one two three");
    REQUIRE(seen.text == "one ");
    REQUIRE(seen.tokens == "one ");
    REQUIRE(stream.stopped() == "two");
}

TEST_CASE("the stop string stays when it is asked for", "[gateway]") {
    auto stream = make_stream({.stop_strings = {"two"}, .include_stop_string = true});
    const Seen seen = run(stream, "one two three");
    REQUIRE(seen.text == "one two");
    REQUIRE(seen.tokens == "one two");
}

TEST_CASE("held text comes out at the end", "[gateway]") {
    auto stream = make_stream({.stop_strings = {"two!"}});
    const Seen seen = run(stream, "one two");
    REQUIRE(seen.text == "one two");
    REQUIRE(seen.tokens == "one two");
    REQUIRE_FALSE(stream.stopped());
}

TEST_CASE("no stop string is found in the first tokens when a minimum is asked for", "[gateway]") {
    auto stream = make_stream({.stop_strings = {"ab"}, .tokens_min = 3});
    const Seen seen = run(stream, "ababab");
    REQUIRE(seen.text == "ab");  // the first is complete in the minimum and does not count; the second ends behind it
    REQUIRE(stream.stopped() == "ab");
}

TEST_CASE("a stop string that straddles the minimum is found, and none of it was let out", "[gateway]") {
    auto stream = make_stream({.stop_strings = {"stop"}, .tokens_min = 3});
    std::string text;
    for (const char byte : std::string_view("ast")) {
        text += stream.push({.token = static_cast<unsigned char>(byte)}).text;
    }
    REQUIRE(text == "a");
    text += stream.push({.token = 'o'}).text;
    text += stream.push({.token = 'p'}).text;
    REQUIRE(text == "a");
    REQUIRE(stream.stopped() == "stop");
    // What only begins like one comes out after all.
    auto other = make_stream({.stop_strings = {"stop"}, .tokens_min = 3});
    REQUIRE(run(other, "astray").text == "astray");
}

TEST_CASE("each token says how much text was there before it", "[gateway]") {
    /// A space at the start of the text is no text, as SentencePiece models have it.
    class Stripping final : public gateway::Detokenizer {
    public:
        std::string push(base::TokenId token) override {
            if (std::exchange(is_first_, false) && token == ' ') { return {}; }
            return inner_->push(token);
        }
        std::string flush() override { return inner_->flush(); }

    private:
        std::unique_ptr<gateway::Detokenizer> inner_ = ByteText().detokenizer(true);
        bool is_first_ = true;
    };
    TextStream stream(std::make_unique<Stripping>(), {.stop_strings = {"xyz"}});
    std::vector<std::size_t> offsets;
    std::string text;
    const auto add = [&](const gateway::Piece& piece) {
        text += piece.text;
        for (const auto& record : piece.tokens) {
            offsets.push_back(record.text_offset);
        }
    };
    for (const base::TokenId token : {int{' '}, 0xc3, 0xa9, int{gateway_test::kBos}, int{'x'}, int{'y'}, 0xc3}) {
        add(stream.push({.token = token}));
    }
    add(stream.finish());
    REQUIRE(text == "\xc3\xa9xy\xef\xbf\xbd");
    REQUIRE(offsets == std::vector<std::size_t>{0, 0, 0, 1, 1, 2, 3});
}

TEST_CASE("a character that takes two tokens comes out whole", "[gateway]") {
    auto stream = make_stream({});
    REQUIRE(stream.push({.token = 0xc3}).text.empty());
    const auto piece = stream.push({.token = 0xa9});
    REQUIRE(piece.text == "\xc3\xa9");
    REQUIRE(stream.push({.token = 0xc3}).text.empty());
    REQUIRE(stream.finish().text == "\xef\xbf\xbd");
}
