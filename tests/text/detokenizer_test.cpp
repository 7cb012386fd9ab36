#include "text/detokenizer.h"

#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/tokenizer.h"

namespace {

std::shared_ptr<const text::Tokenizer> stories() {
    return *text::Tokenizer::load(text_test::stories_folder());
}

constexpr base::TokenId byte_token(unsigned byte) {
    return static_cast<base::TokenId>(byte + 3);
}

}  // namespace

TEST_CASE("a character of several byte tokens comes when its last byte does", "[text]") {
    text::StreamDetokenizer stream(stories());
    std::vector<std::string> pieces;
    for (const unsigned byte : {0xF0u, 0x9Fu, 0xA6u, 0x99u, 0x41u}) {
        pieces.push_back(stream.push(byte_token(byte)));
    }
    CHECK(pieces == std::vector<std::string>{"", "", "", "🦙", "A"});
    CHECK(stream.flush().empty());
}

TEST_CASE("a character that never becomes whole is replaced: at its end, or at the end of the stream", "[text]") {
    text::StreamDetokenizer stream(stories());
    CHECK(stream.push(byte_token(0xE2)).empty());
    CHECK(stream.push(byte_token(0x82)).empty());
    CHECK(stream.push(byte_token('x')) == "\uFFFD\uFFFDx");
    CHECK(stream.push(byte_token(0x80)) == "\uFFFD");
    CHECK(stream.push(byte_token(0xC3)).empty());
    CHECK(stream.flush() == "\uFFFD");
}

TEST_CASE("only the first leading space of a text goes", "[text]") {
    const auto tokenizer = stories();
    const auto ids = tokenizer->encode("Once upon a time");
    text::StreamDetokenizer stream(tokenizer);
    std::string text = stream.push(1);  // BOS is skipped and does not count as the beginning
    for (const base::TokenId id : *ids) {
        text += stream.push(id);
    }
    CHECK(text == "Once upon a time");
    CHECK(tokenizer->decode(*tokenizer->encode("  two")) == "  two");
    CHECK(tokenizer->decode({}).empty());
}

TEST_CASE("special tokens are shown or left out", "[text]") {
    const auto tokenizer = stories();
    const std::vector<base::TokenId> ids = {1, 403, 2};
    CHECK(tokenizer->decode(ids, {.skip_special = false}) == "<s> Once</s>");
    CHECK(tokenizer->decode(ids) == "Once");
    CHECK(tokenizer->is_special(1));
    CHECK_FALSE(tokenizer->is_special(403));
    CHECK_FALSE(tokenizer->is_special(-1));
    CHECK_FALSE(tokenizer->is_special(512));
    CHECK(tokenizer->token_bytes(403) == " Once");
    CHECK(tokenizer->token_bytes(512).empty());
    CHECK(tokenizer->token_bytes(-5).empty());
}

TEST_CASE("the text of special tokens is theirs only where it is asked for", "[text]") {
    const auto tokenizer = stories();
    CHECK(tokenizer->encode("<s>", {.parse_special = true}) == std::vector<base::TokenId>{1});
    const auto plain = tokenizer->encode("<s>");
    REQUIRE(plain);
    CHECK(plain->size() > 1);
    CHECK(tokenizer->decode(*plain) == "<s>");
    CHECK(tokenizer->token_of("</s>") == 2);
    CHECK_FALSE(tokenizer->token_of("no such token"));
}

TEST_CASE("WordPiece joins continuations and sets spaces between words", "[text]") {
    const auto bert = text::Tokenizer::load(text_test::own_data() / "vocab_uncased.txt");
    REQUIRE(bert);
    const auto ids = (*bert)->encode("Unaffable, embeddings!", {.add_special = true});
    REQUIRE(ids);
    CHECK((*bert)->decode(*ids) == "unaffable, embeddings!");
    CHECK((*bert)->decode(*ids, {.skip_special = false}) == "[CLS] unaffable, embeddings! [SEP]");
    const auto piece = (*bert)->token_of("##able");
    REQUIRE(piece);
    CHECK((*bert)->decode(std::vector<base::TokenId>{*piece, *piece}) == "##ableable");
    CHECK((*bert)->encode("[MASK]", {.parse_special = true})->size() == 1);
    CHECK((*bert)->encode("[MASK]")->size() > 1);
}

TEST_CASE("a replacer in a stream does what one pass over the whole does", "[text]") {
    for (std::size_t cut = 0; cut <= 12; ++cut) {
        const std::string whole = "a '  ' b ' c";
        text::StreamReplacer replacer(" ' ", "'");
        std::string out;
        replacer.push(std::string_view(whole).substr(0, cut), out);
        replacer.push(std::string_view(whole).substr(cut), out);
        replacer.flush(out);
        CHECK(out == "a''b'c");
    }
}
