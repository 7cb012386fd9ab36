// A chat's next turn is tokenised from where the last one ended: the same ids as without, for every kind of vocabulary.
#include "gateway/openai/token_prefixes.h"

#include <filesystem>
#include <memory>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/tokenizer.h"

namespace {

namespace fs = std::filesystem;
using gateway::TokenPrefixes;
using Tokens = std::vector<base::TokenId>;

/// A tokenizer as the gateway sees it, that counts what it is given.
class Port final : public gateway::TextPort {
public:
    explicit Port(std::shared_ptr<const text::Tokenizer> tokenizer)
        : tokenizer_(std::move(tokenizer)), specials_(special_texts_of(*tokenizer_), {}) {}
    base::Result<Tokens> encode(std::string_view text, bool add_special, bool parse_special,
                                std::span<const std::size_t> text_starts) const override {
        bytes_ += text.size();
        return tokenizer_->encode(
            text, {.add_special = add_special, .parse_special = parse_special, .text_starts = text_starts});
    }
    static std::vector<std::string> special_texts_of(const text::Tokenizer& tokenizer) {
        std::vector<std::string> texts;
        const auto size = static_cast<base::TokenId>(tokenizer.vocabulary_size());
        for (base::TokenId token = 0; token < size; ++token) {
            if (tokenizer.is_special(token)) { texts.emplace_back(tokenizer.token_bytes(token)); }
        }
        return texts;
    }
    std::size_t take_bytes() { return std::exchange(bytes_, 0); }

    std::string token_bytes(base::TokenId token) const override { return std::string(tokenizer_->token_bytes(token)); }
    std::unique_ptr<gateway::Detokenizer> detokenizer(bool) const override { return nullptr; }
    base::Result<std::string> render_chat(std::string_view, std::int64_t) const override { return std::string(); }
    const gateway::SpecialTexts& special_texts() const override { return specials_; }
    const Tokens& eos_ids() const override { return none_; }
    bool takes_tools() const override { return false; }
    std::vector<std::pair<std::string, std::string>> named_tokens() const override { return {}; }
    std::optional<base::TokenId> bos() const override { return std::nullopt; }
    std::uint32_t vocabulary() const override { return static_cast<std::uint32_t>(tokenizer_->vocabulary_size()); }
    const gateway::SamplingDefaults& sampling_defaults() const override { return defaults_; }

private:
    std::shared_ptr<const text::Tokenizer> tokenizer_;
    gateway::SpecialTexts specials_;
    Tokens none_;
    gateway::SamplingDefaults defaults_;
    mutable std::size_t bytes_ = 0;
};

std::vector<fs::path> vocabularies() {
    std::vector<fs::path> paths = {text_test::stories_folder(), text_test::own_data() / "vocab.json",
                                   text_test::own_data() / "vocab_uncased.txt"};
    if (const auto data = text_test::shared_data()) {
        for (const char* name : {"llama2/tokenizer.json", "llama2/tokenizer.model", "llama3/tokenizer.model",
                                 "qwen2/qwen.tiktoken", "gpt2/tokenizer.json", "cl100k/cl100k_base.tiktoken", "phi3"}) {
            paths.push_back(*data / "tokenizers" / name);
        }
    } else {
        text_test::skipped("no shared data: tokenizers of the repository only");
    }
    return paths;
}

std::shared_ptr<Port> port_of(const fs::path& path) {
    auto tokenizer = text::Tokenizer::load(path);
    INFO((tokenizer ? "" : tokenizer.error().message));
    REQUIRE(tokenizer);
    return std::make_shared<Port>(*tokenizer);
}

/// Texts that grow by turns, with special tokens, halves of them, and what people write that looks like one.
class Talk {
public:
    Talk(std::uint32_t seed, std::vector<std::string> specials) : random_(seed), specials_(std::move(specials)) {}

    void grow() {
        static const std::vector<std::string> kPieces = {"hello", " world", "\n",       "\n\n",      "  ",  "don't",
                                                         "ünï",   "日本語", "🙂",       "x=1;\n",    "<",   "<|",
                                                         "|>",    "</s",    "1234",     "\tif (",    " a ", "\r\n",
                                                         "<|im_", "▁",      "\xc2\xa0", "e\xcc\x81", "...", "\"}"};
        const std::size_t count = 1 + random_() % 12;
        for (std::size_t i = 0; i < count; ++i) {
            text += kPieces[random_() % kPieces.size()];
            if (!specials_.empty() && random_() % 4 == 0) {
                const std::string& special = specials_[random_() % specials_.size()];
                if (random_() % 4 == 0) { starts.push_back(text.size()); }  // somebody wrote it
                text += random_() % 8 == 0 ? special.substr(0, special.size() / 2) : special;
            }
        }
    }

    std::string text;
    std::vector<std::size_t> starts;

private:
    std::mt19937 random_;
    std::vector<std::string> specials_;
};

}  // namespace

TEST_CASE("tokens of a text that grows are the same with and without what was kept", "[text][gateway][property]") {
    for (const fs::path& path : vocabularies()) {
        CAPTURE(path.string());
        const auto port = port_of(path);
        auto specials = Port::special_texts_of(*text::Tokenizer::load(path).value());
        if (specials.size() > 12) { specials.resize(12); }
        TokenPrefixes prefixes({.tokens_max = 20'000, .text_bytes_min = 1});
        for (std::uint32_t seed = 0; seed < 25; ++seed) {
            CAPTURE(seed);
            Talk talk(seed, specials);
            const bool add_special = seed % 2 == 0;
            for (int turn = 0; turn < 12; ++turn) {
                talk.grow();
                const auto plain = port->encode(talk.text, add_special, true, talk.starts);
                REQUIRE(plain);
                CAPTURE(talk.text);
                const auto kept = prefixes.encode(*port, talk.text, add_special, talk.starts, seed % 3 == 0 ? "a" : "");
                REQUIRE(kept);
                REQUIRE(*kept == *plain);
                REQUIRE(prefixes.counts().tokens_kept <= 20'000);
            }
        }
        // A vocabulary without special tokens has no place to cut at.
        if (!specials.empty() && prefixes.counts().texts > 0) { REQUIRE(prefixes.counts().hits > 0); }
    }
}

TEST_CASE("the next turn of a long talk encodes only its end", "[text][gateway]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with a tokenizer that has special tokens"); }
    const auto port = port_of(*data / "tokenizers" / "llama3" / "tokenizer.model");
    TokenPrefixes prefixes({});
    std::string talk = "<|begin_of_text|>";
    for (int turn = 0; turn < 200; ++turn) {
        talk +=
            "<|start_header_id|>user<|end_header_id|>\n\nTell me about the " + std::to_string(turn) +
            "th day, please, in as many words as you like.<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n";
        port->take_bytes();
        const auto tokens = prefixes.encode(*port, talk, false, {}, "");
        const std::size_t bytes = port->take_bytes();
        REQUIRE(tokens);
        REQUIRE(*tokens == *port->encode(talk, false, true, {}));
        if (talk.size() > 8192 && prefixes.counts().hits > 0) { REQUIRE(bytes < 700); }
        talk += "Well, that was the " + std::to_string(turn) + "th one.<|eot_id|>";
    }
    REQUIRE(prefixes.counts().hits > 100);
}

TEST_CASE("what is kept is bounded, and what was used last stays", "[text][gateway]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with a tokenizer that has special tokens"); }
    const auto port = port_of(*data / "tokenizers" / "llama3" / "tokenizer.model");
    TokenPrefixes prefixes({.tokens_max = 1000, .text_bytes_min = 1});
    const auto text_of = [](int number) {
        std::string text = "<|begin_of_text|>" + std::to_string(number);
        for (int word = 0; word < 100; ++word) {
            text += " word";
        }
        return text + "<|eot_id|>";
    };
    for (int number = 0; number < 50; ++number) {
        REQUIRE(prefixes.encode(*port, text_of(number), false, {}, ""));
        REQUIRE(prefixes.encode(*port, text_of(0) + std::to_string(number), false, {}, ""));
        REQUIRE(prefixes.counts().tokens_kept <= 1000);
    }
    const auto before = prefixes.counts().hits;
    REQUIRE(before == 50);
    REQUIRE(prefixes.encode(*port, text_of(1), false, {}, ""));
    REQUIRE(prefixes.counts().hits == before);  // long gone
    REQUIRE(prefixes.encode(*port, text_of(0), false, {}, "other"));
    REQUIRE(prefixes.counts().hits == before);  // another scope's
    TokenPrefixes off({.tokens_max = 0, .text_bytes_min = 1});
    REQUIRE(*off.encode(*port, text_of(1), false, {}, "") == *port->encode(text_of(1), false, true, {}));
    REQUIRE(off.counts().texts == 0);
}
