// Text is text: where a client wrote the text of a special token, the model reads what it would read if that text had
// no meaning, also around it.
#include <algorithm>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/tokenizer.h"

namespace {

using Tokens = std::vector<base::TokenId>;

std::shared_ptr<const text::Tokenizer> load(const std::filesystem::path& path) {
    auto tokenizer = text::Tokenizer::load(path);
    INFO((tokenizer ? "" : tokenizer.error().message));
    REQUIRE(tokenizer);
    return *tokenizer;
}

Tokens encode(const text::Tokenizer& tokenizer, const std::string& text, bool parse,
              const std::vector<std::size_t>& starts = {}) {
    const auto ids = tokenizer.encode(text, {.parse_special = parse, .text_starts = starts});
    INFO((ids ? "" : ids.error().message));
    REQUIRE(ids);
    return *ids;
}

/// Every place at which a special text stands.
std::vector<std::size_t> places_of(const std::string& text, const std::vector<std::string>& specials) {
    std::vector<std::size_t> places;
    for (std::size_t at = 0; at < text.size(); ++at) {
        for (const std::string& special : specials) {
            if (text.compare(at, special.size(), special) == 0) {
                places.push_back(at);
                break;
            }
        }
    }
    return places;
}

/// A text with tokens that are text and tokens that are meant, against the same pieces one by one.
void check(const text::Tokenizer& tokenizer, const std::string& special, base::TokenId id,
           const std::vector<std::string>& specials) {
    const std::string user = special + "old" + special + "new " + special;
    CAPTURE(special, user);
    // All of it is text: as without any meaning.
    CHECK(encode(tokenizer, user, true, places_of(user, specials)) == encode(tokenizer, user, false));
    // Between two that are meant.
    const std::string whole = special + user + special;
    std::vector<std::size_t> starts;
    for (const std::size_t at : places_of(user, specials)) {
        starts.push_back(at + special.size());
    }
    const Tokens ids = encode(tokenizer, whole, true, starts);
    CHECK(ids.front() == id);
    CHECK(ids.back() == id);
    CHECK(std::count(ids.begin(), ids.end(), id) == 2);
    CHECK(std::string(tokenizer.decode(ids, {.skip_special = false})).find(user) != std::string::npos);
}

}  // namespace

TEST_CASE("SentencePiece: special text in a text changes nothing around it", "[text]") {
    const auto stories = load(text_test::stories_folder());
    const std::vector<std::string> specials = {"<unk>", "<s>", "</s>"};
    check(*stories, "<s>", 1, specials);
    check(*stories, "</s>", 2, specials);
    const std::string old = "<s>old</s>new";
    CHECK(stories->decode(encode(*stories, old, true, {0, 6})) == old);
    const auto unigram = load(text_test::own_data() / "unigram.model");
    const std::string text = "<s>old</s>new";
    CHECK(encode(*unigram, text, true, {0, 6}) == encode(*unigram, text, false));
    if (const auto data = text_test::shared_data()) {
        check(*load(*data / "tokenizers" / "llama2" / "tokenizer.model"), "<s>", 1, specials);
        for (const char* file : {"tokenizer.model", "tokenizer.json"}) {
            CAPTURE(file);
            const auto llama = load(*data / "tokenizers" / "llama2" / file);
            CHECK(encode(*llama, old, true, {0, 6}) == encode(*llama, old, false));
            CHECK(llama->decode(encode(*llama, old, true, {0, 6})) == old);
        }
    }
}

TEST_CASE("byte-level BPE and word lists: the same", "[text]") {
    const text_test::TemporaryFolder folder;
    for (const char* name : {"vocab.json", "merges.txt"}) {
        std::filesystem::copy_file(text_test::own_data() / name, folder.path() / name);
    }
    check(*load(folder.path()), "<|endoftext|>", 50256, {"<|endoftext|>"});
    const auto words = load(text_test::own_data() / "vocab_uncased.txt");
    CHECK(encode(*words, "a [SEP] b", true) != encode(*words, "a [SEP] b", false));
    CHECK(encode(*words, "a [SEP] b", true, {2}) == encode(*words, "a [SEP] b", false));
}

TEST_CASE("no place of text: as before; only the places that are named are text", "[text]") {
    const auto stories = load(text_test::stories_folder());
    const Tokens both = encode(*stories, "<s>a<s>b", true, {4});
    CHECK(std::count(both.begin(), both.end(), 1) == 1);
    CHECK(both.front() == 1);
    CHECK(encode(*stories, "<s>a<s>b", true, {}) == encode(*stories, "<s>a<s>b", true));
    // A longer token may begin inside of what is text.
    const Tokens inner = encode(*stories, "<<s>", true, {0});
    CHECK(inner.back() == 1);
}

TEST_CASE("any mixture of text and tokens decodes to itself", "[text][property]") {
    const auto stories = load(text_test::stories_folder());
    std::mt19937 random{7};
    const std::vector<std::string> specials = {"<s>", "</s>", "<unk>"};
    for (int round = 0; round < 200; ++round) {
        std::string text;
        std::vector<std::size_t> starts;
        std::size_t meant = 0;
        for (int piece = 0; piece < 8; ++piece) {
            switch (random() % 4) {
                case 0:
                    text += specials[random() % 2];
                    ++meant;
                    break;
                case 1:
                    starts.push_back(text.size());
                    text += specials[random() % 3];
                    break;
                default:
                    text += std::string(1 + random() % 3, static_cast<char>('a' + random() % 26));
            }
        }
        CAPTURE(round, text);
        const Tokens ids = encode(*stories, text, true, starts);
        const auto is_meant = [](base::TokenId id) { return id == 1 || id == 2; };
        CHECK(static_cast<std::size_t>(std::count_if(ids.begin(), ids.end(), is_meant)) == meant);
    }
}
