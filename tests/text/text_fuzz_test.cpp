// Files and templates with some bytes changed load or are refused; nothing else happens.
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "tests/fuzz/grammar_target.h"
#include "tests/fuzz/text_targets.h"
#include "tests/support/catch.h"
#include "tests/support/gguf_writer.h"
#include "tests/support/seeds.h"
#include "tests/text/text_data.h"
#include "text/chat_template.h"
#include "text/tokenizer.h"

namespace {

namespace fs = std::filesystem;

/// Changes, drops, doubles or swaps some pieces of `content`.
std::string mutated(std::string content, std::mt19937& random) {
    const std::vector<std::string> pieces = {"\"",      "{",        "}",          "[",     "]",    ",",
                                             "null",    "-1",       "4294967296", "1e999", "\xff", std::string(1, '\0'),
                                             "\\u0000", "\"type\"", "true",       " ",     "{%",   "%}",
                                             "{{"};
    for (auto changes = 1 + random() % 4; changes > 0 && !content.empty(); --changes) {
        const std::size_t at = random() % content.size();
        const std::size_t size = std::min<std::size_t>(1 + random() % 40, content.size() - at);
        switch (random() % 5) {
            case 0:
                content[at] = static_cast<char>(random());
                break;
            case 1:
                content.erase(at, size);
                break;
            case 2:
                content.insert(at, content.substr(at, size));
                break;
            case 3:
                content.insert(at, pieces[random() % pieces.size()]);
                break;
            default:
                content.resize(at);
                break;
        }
    }
    return content;
}

struct Seed {
    fs::path file;
    std::string name;  // in the temporary folder
    unsigned rounds;
};

}  // namespace

TEST_CASE("damaged tokenizer files load or are refused", "[text][fuzz]") {
    const text_test::TemporaryFolder own;
    test_gguf::Writer()
        .text("tokenizer.ggml.model", "gpt2")
        .text("tokenizer.ggml.pre", "smollm")
        .texts("tokenizer.ggml.tokens", {"o", "n", "c", "e", "on", "ce", "<s>", "</s>", "1", "2", ","})
        .texts("tokenizer.ggml.merges", {"o n", "c e"})
        .i32s("tokenizer.ggml.token_type", {1, 1, 1, 1, 1, 1, 3, 4, 1, 1, 1})
        .u32("tokenizer.ggml.bos_token_id", 6)
        .boolean("tokenizer.ggml.add_bos_token", true)
        .write(own.path() / "own.gguf");
    std::vector<Seed> seeds = {{text_test::stories_folder() / "tokenizer.json", "tokenizer.json", 400},
                               {own.path() / "own.gguf", "own.gguf", 1500}};
    if (const auto data = text_test::shared_data()) {
        seeds.push_back({*data / "models" / "stories260K" / "vocab.jsonl", "vocab.jsonl", 200});
        seeds.push_back({*data / "tokenizers" / "llama2" / "tokenizer.model", "tokenizer.model", 60});
        seeds.push_back({*data / "tokenizers" / "llama2" / "ggml-vocab-llama-spm.gguf", "vocab.gguf", 60});
        seeds.push_back({*data / "tokenizers" / "qwen2" / "qwen.tiktoken", "qwen.tiktoken", 15});
    } else {
        text_test::skipped("no shared data: only tokenizer.json is fuzzed");
    }
    std::size_t loaded = 0;
    for (const Seed& seed : seeds) {
        const text_test::TemporaryFolder folder;
        const std::string content = text_test::bytes_of(seed.file);
        REQUIRE_FALSE(content.empty());
        for (unsigned round = 0; round < test_support::seeds_of(seed.rounds); ++round) {
            CAPTURE(seed.name, round);
            std::mt19937 random{round};
            // Half of the rounds damage only the beginning, where the fields that decide most are.
            const std::size_t head = round % 2 == 0 ? content.size() : std::min<std::size_t>(content.size(), 600);
            std::string damaged = mutated(content.substr(0, head), random) + content.substr(head);
            const auto tokenizer = text::Tokenizer::load(folder.write(seed.name, damaged), {.pattern = "qwen2"});
            if (!tokenizer) {
                CHECK(tokenizer.error().message.find(seed.name) != std::string::npos);
                continue;
            }
            ++loaded;
            const auto ids =
                (*tokenizer)->encode("Once upon a time, 日本 <s> 123\n", {.add_special = true, .parse_special = true});
            if (ids) { (void)(*tokenizer)->decode(*ids, {.skip_special = false}); }
            std::vector<base::TokenId> some;
            for (int index = 0; index < 50; ++index) {
                some.push_back(static_cast<base::TokenId>(random() % 600));
            }
            (void)(*tokenizer)->decode(some);
        }
    }
    CHECK(loaded > 0);
}

TEST_CASE("damaged chat templates render, refuse or fail cleanly", "[text][fuzz]") {
    const auto rows = text_test::rows_of(text_test::own_data() / "chat_templates" / "renders.jsonl");
    REQUIRE_FALSE(rows.empty());
    std::size_t rendered = 0;
    for (unsigned round = 0; round < test_support::seeds_of(600); ++round) {
        CAPTURE(round);
        std::mt19937 random{round};
        const auto& row = rows[random() % rows.size()];
        const std::string name(row.at("template").as_string());
        const std::string source = text_test::bytes_of(text_test::own_data() / "chat_templates" / (name + ".jinja"));
        const std::string context = boost::json::serialize(row.at("context"));
        const auto chat_template = text::ChatTemplate::compile(mutated(source, random), {.fuel = 200'000});
        if (!chat_template) { continue; }
        const text::CivilTime now{.year = 2024, .month = 7, .day = 26};
        const auto result = (*chat_template)->render(random() % 4 == 0 ? mutated(context, random) : context, now);
        rendered += result ? 1 : 0;
    }
    CHECK(rendered > 0);
}

TEST_CASE("the corpora of the fuzzers are dealt with", "[text][fuzz]") {
    const fs::path corpora = fs::path(SLUICE_SOURCE_DIR) / "tests" / "fuzz";
    std::size_t inputs = 0;
    for (const auto& [folder, run] : {std::pair("template", &fuzz::chat_template),
                                      std::pair("tokenizer", &fuzz::tokenizer), std::pair("grammar", &fuzz::grammar)}) {
        for (const auto& entry : fs::directory_iterator(corpora / folder)) {
            CAPTURE(entry.path().string());
            run(text_test::bytes_of(entry.path()));
            ++inputs;
        }
    }
    CHECK(inputs >= 24);
}
