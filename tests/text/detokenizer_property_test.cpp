// A stream of tokens gives the text of the whole, in pieces that are whole UTF-8, for every kind of vocabulary.
#include "text/detokenizer.h"

#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/tokenizer.h"

namespace {

namespace fs = std::filesystem;

struct Named {
    std::string name;
    std::shared_ptr<const text::Tokenizer> tokenizer;
};

std::vector<Named> tokenizers() {
    std::vector<fs::path> paths = {text_test::stories_folder(), text_test::own_data() / "vocab.json",
                                   text_test::own_data() / "vocab_uncased.txt"};
    if (const auto data = text_test::shared_data()) {
        for (const char* name : {"llama2/tokenizer.model", "llama3/tokenizer.model", "qwen2/qwen.tiktoken", "phi3"}) {
            paths.push_back(*data / "tokenizers" / name);
        }
    } else {
        text_test::skipped("no shared data: tokenizers of the repository only");
    }
    std::vector<Named> loaded;
    for (const fs::path& path : paths) {
        auto tokenizer = text::Tokenizer::load(path);
        INFO((tokenizer ? "" : tokenizer.error().message));
        REQUIRE(tokenizer);
        loaded.push_back({path.string(), *tokenizer});
    }
    return loaded;
}

/// A plain decoder of one character: its size, or 0 when the bytes do not begin with a whole one.
std::size_t character_size(std::string_view bytes) {
    const auto byte = [&](std::size_t index) {
        return static_cast<unsigned>(static_cast<unsigned char>(bytes[index]));
    };
    const std::size_t size = byte(0) < 0x80       ? 1
                             : byte(0) >> 5 == 6  ? 2
                             : byte(0) >> 4 == 14 ? 3
                             : byte(0) >> 3 == 30 ? 4
                                                  : 0;
    if (size == 0 || size > bytes.size()) { return 0; }
    unsigned code = size == 1 ? byte(0) : byte(0) & (0x7Fu >> size);
    for (std::size_t index = 1; index < size; ++index) {
        if (byte(index) >> 6 != 2) { return 0; }
        code = code << 6 | (byte(index) & 0x3F);
    }
    const unsigned least[] = {0, 0, 0x80, 0x800, 0x10000};
    return code < least[size] || code > 0x10FFFF || (code >= 0xD800 && code < 0xE000) ? 0 : size;
}

bool is_utf8(std::string_view text) {
    while (!text.empty()) {
        const std::size_t size = character_size(text);
        if (size == 0) { return false; }
        text.remove_prefix(size);
    }
    return true;
}

/// Whole characters of `text`, broken bytes left out.
std::string without_broken(std::string_view text) {
    std::string kept;
    while (!text.empty()) {
        const std::size_t size = character_size(text);
        if (size > 0 && text.substr(0, size) != "\xEF\xBF\xBD") { kept += text.substr(0, size); }
        text.remove_prefix(std::max<std::size_t>(size, 1));
    }
    return kept;
}

void check_stream(const text::Tokenizer& tokenizer, const std::vector<base::TokenId>& tokens,
                  const text::DecodeOptions& options) {
    text::StreamDetokenizer stream(tokenizer, options);
    std::string all;
    for (const base::TokenId token : tokens) {
        const std::string piece = stream.push(token);
        REQUIRE(is_utf8(piece));
        all += piece;
    }
    const std::string rest = stream.flush();
    REQUIRE(is_utf8(rest));
    REQUIRE(all + rest == tokenizer.decode(tokens, options));
}

}  // namespace

TEST_CASE("random tokens: pieces are whole UTF-8 and together the decoded text", "[text][property]") {
    std::size_t emitted = 0;
    for (const auto& [name, tokenizer] : tokenizers()) {
        for (unsigned seed = 0; seed < 60; ++seed) {
            CAPTURE(name, seed);
            std::mt19937 random{seed};
            // Half of the tokens are single bytes, where characters break; a few are no tokens at all.
            std::vector<base::TokenId> bytes;
            for (base::TokenId id = 0; id < 300; ++id) {
                bytes.push_back(id);
            }
            std::vector<base::TokenId> tokens;
            const std::size_t count = random() % 40;
            for (std::size_t index = 0; index < count; ++index) {
                const auto kind = random() % 20;
                if (kind == 0) {
                    tokens.push_back(random() % 2 == 0 ? -1 : 10'000'000);
                } else if (kind < 10) {
                    tokens.push_back(bytes[random() % bytes.size()]);
                } else {
                    tokens.push_back(static_cast<base::TokenId>(random() % tokenizer->vocabulary_size()));
                }
            }
            check_stream(*tokenizer, tokens, {.skip_special = true});
            check_stream(*tokenizer, tokens, {.skip_special = false});
            check_stream(*tokenizer, tokens, {.skip_special = true, .clean_up_spaces = true});
            emitted += tokenizer->decode(tokens).size();
        }
    }
    CHECK(emitted > 0);
}

TEST_CASE("random text: encoded and streamed it comes back", "[text][property]") {
    const std::vector<std::string> words = {" the", "Hello", " wörld", "日本",    "語", "🦙",     "🇩🇪",
                                            "\n",   "\n\n",  "  ",     "a",       "é",  " don't", "123",
                                            "\t",   ".",     "ﷺ",      " \u200b", "ñ",  "\u00a0x"};
    const auto all = tokenizers();
    for (const auto& [name, tokenizer] : all) {
        if (name.find("vocab_uncased") != std::string::npos) { continue; }  // forgets case and accents by design
        for (unsigned seed = 0; seed < 40; ++seed) {
            CAPTURE(name, seed);
            std::mt19937 random{seed};
            std::string text = "x";
            for (std::size_t index = random() % 30; index > 0; --index) {
                text += words[random() % words.size()];
            }
            const auto ids = tokenizer->encode(text);
            REQUIRE(ids);
            check_stream(*tokenizer, *ids, {});
            const std::string decoded = tokenizer->decode(*ids);
            // Qwen composes characters first; nothing here is composed by it.
            CHECK(decoded == text);
        }
    }
}

TEST_CASE("whole characters survive whatever bytes surround them", "[text][property]") {
    for (const auto& [name, tokenizer] : tokenizers()) {
        if (name.find("vocab_uncased") != std::string::npos) { continue; }  // has no byte tokens
        for (unsigned seed = 100; seed < 160; ++seed) {
            CAPTURE(name, seed);
            std::mt19937 random{seed};
            std::vector<base::TokenId> tokens;
            std::string bytes;
            for (std::size_t index = 0; index < 30; ++index) {
                const auto id = static_cast<base::TokenId>(random() % 259);
                if (tokenizer->is_special(id)) { continue; }
                tokens.push_back(id);
                bytes += tokenizer->token_bytes(id);
            }
            std::string decoded = tokenizer->decode(tokens);
            std::string expected = without_broken(bytes);
            if (decoded.size() + 1 == expected.size() && expected.front() == ' ') { expected.erase(0, 1); }
            CHECK(without_broken(decoded) == expected);
        }
    }
}
