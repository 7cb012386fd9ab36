#include <cstdlib>
#include <filesystem>
#include <string>
#include <vector>

#include "cli/model_make.h"
#include "tests/support/catch.h"
#include "text/model_text.h"

TEST_CASE("the tokenizer of a made model covers its vocabulary and any text", "[cli][model_make]") {
    std::string dir = (std::filesystem::temp_directory_path() / "sluice-made-XXXXXX").string();
    REQUIRE(::mkdtemp(dir.data()) != nullptr);
    cli::ModelMakeOptions make{.shape = "stories15m", .out_dir = dir, .dtype = "bf16"};
    make.layers = 1;
    REQUIRE(cli::make_model(make));
    const auto text = text::ModelText::load(dir);
    std::filesystem::remove_all(dir);
    REQUIRE(text);
    const text::Tokenizer& tokenizer = *text->tokenizer;
    REQUIRE(tokenizer.vocabulary_size() == 32000);
    REQUIRE(text->eos_ids == std::vector<base::TokenId>{2});
    REQUIRE(text->bos == 1);
    REQUIRE(text->chat_template != nullptr);
    for (const std::string sample : {"Hello, world!\n", "  Zwölf 日本 🙂\t", ""}) {
        const auto tokens = tokenizer.encode(sample);
        REQUIRE(tokens);
        REQUIRE(tokens->size() == sample.size());  // one a byte
        REQUIRE(tokenizer.decode(*tokens) == sample);
    }
    REQUIRE(tokenizer.encode("a", {.add_special = true})->front() == 1);
    for (const base::TokenId token : {259, 300, 5000, 31999}) {
        REQUIRE(tokenizer.decode(std::vector<base::TokenId>{token}).size() >= 3);
    }
}
