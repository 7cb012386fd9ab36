// Expected encodings of others: llama.cpp, Hugging Face, and a reference that reproduces both.
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/tokenizer.h"

namespace {

namespace fs = std::filesystem;
using text_test::ids_of;

std::shared_ptr<const text::Tokenizer> load(const fs::path& path, const std::string& pattern = {}) {
    const auto tokenizer = text::Tokenizer::load(path, {.pattern = pattern});
    INFO((tokenizer ? "" : tokenizer.error().message));
    REQUIRE(tokenizer);
    return *tokenizer;
}

/// Every row's text gives its ids; special tokens are plain text and none are added.
void check_rows(const text::Tokenizer& tokenizer, const fs::path& path, std::size_t rows_expected) {
    const auto rows = text_test::rows_of(path);
    CHECK(rows.size() == rows_expected);
    for (const auto& row : rows) {
        const std::string text(row.at("text").as_string());
        const auto ids = tokenizer.encode(text);
        CAPTURE(path.string(), text);
        REQUIRE(ids);
        CHECK(*ids == ids_of(row.at("ids")));
    }
}

struct Expectation {
    const char* tokenizer;
    const char* pattern;
    std::vector<const char*> vectors;
};

}  // namespace

TEST_CASE("GPT-2 and BERT vocabularies of the repository give the ids that others give", "[text]") {
    const fs::path data = text_test::own_data();
    const auto gpt2 = load(data / "vocab.json");
    check_rows(*gpt2, data / "llamacpp_gpt-2.jsonl", 47);
    check_rows(*gpt2, data / "ref_gpt-2.jsonl", 330);
    const auto bert = load(data / "vocab_uncased.txt");
    check_rows(*bert, data / "llamacpp_bert-bge.jsonl", 47);
    check_rows(*bert, data / "ref_bert-bge.jsonl", 330);
}

TEST_CASE("a unigram model with a normaliser gives the ids of SentencePiece", "[text]") {
    const auto tokenizer = load(text_test::own_data() / "unigram.model");
    check_rows(*tokenizer, text_test::own_data() / "unigram.jsonl", 110);
}

TEST_CASE("every tokenizer of the shared data gives the ids of its vectors", "[text]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with tokenizers"); }
    const Expectation expectation = GENERATE(values<Expectation>({
        {"gpt2/tokenizer.json", "", {"llamacpp_gpt-2.jsonl", "ref_gpt-2.jsonl.gz"}},
        {"gpt2/vocab.json", "gpt2", {"llamacpp_gpt-2.jsonl", "ref_gpt-2.jsonl.gz"}},
        {"llama3/tokenizer.model", "", {"llamacpp_llama-bpe.jsonl", "ref_llama-bpe.jsonl.gz"}},
        {"llama3/tokenizer.model", "llama3", {"llamacpp_llama-bpe.jsonl"}},
        {"qwen2/qwen.tiktoken", "", {"llamacpp_qwen2.jsonl", "ref_qwen2.jsonl.gz"}},
        {"qwen2", "qwen2", {"llamacpp_qwen2.jsonl"}},
        {"cl100k/cl100k_base.tiktoken", "cl100k", {"ref_cl100k.jsonl.gz"}},
        {"llama2/tokenizer.json", "", {"llamacpp_llama-spm.jsonl", "ref_llama-spm.jsonl.gz"}},
        {"llama2/tokenizer.model", "", {"llamacpp_llama-spm.jsonl", "ref_llama-spm.jsonl.gz"}},
        {"llama2/ggml-vocab-llama-spm.gguf", "", {"llamacpp_llama-spm.jsonl", "ref_llama-spm.jsonl.gz"}},
        {"phi3", "", {"llamacpp_phi-3.jsonl", "ref_llama-spm.jsonl.gz"}},
        {"bert/vocab_uncased.txt", "", {"llamacpp_bert-bge.jsonl", "ref_bert-bge.jsonl.gz"}},
    }));
    CAPTURE(expectation.tokenizer);
    const auto tokenizer = load(*data / "tokenizers" / expectation.tokenizer, expectation.pattern);
    for (const char* vectors : expectation.vectors) {
        const bool is_ref = std::string(vectors).find("ref_") == 0;
        check_rows(*tokenizer, *data / "tokenizers" / "vectors" / vectors, is_ref ? 330 : 47);
    }
}

TEST_CASE("BERT gives the ids of five thousand questions", "[text]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with tokenizers"); }
    const auto tokenizer = load(*data / "tokenizers" / "bert" / "vocab_uncased.txt");
    const auto rows = text_test::rows_of(*data / "tokenizers" / "vectors" / "bert_uncased_squad_questions.jsonl.gz");
    CHECK(rows.size() == 5285);
    std::size_t wrong = 0;
    for (const auto& row : rows) {
        const auto* text = row.if_contains("text") != nullptr ? row.if_contains("text") : row.if_contains("question");
        REQUIRE(text != nullptr);
        const auto expected = ids_of(row.at("ids"));
        const bool is_wrapped = !expected.empty() && expected.front() == 101;
        const auto ids = tokenizer->encode(text->as_string(), {.add_special = is_wrapped});
        wrong += !ids || *ids != expected ? 1 : 0;
    }
    CHECK(wrong == 0);
}

TEST_CASE("Hugging Face's cases agree in ids with special tokens and in decoded text", "[text]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with tokenizers"); }
    struct Model {
        const char* name;
        const char* path;
        bool cleans_up;  // clean_up_tokenization_spaces of its tokenizer_config.json
    };
    const Model model =
        GENERATE(values<Model>({{"bert-base-uncased", "bert/vocab_uncased.txt", true},
                                {"distilgpt2", "gpt2/tokenizer.json", true},
                                {"coreml-projects/Llama-2-7b-chat-coreml", "llama2", false},
                                {"coreml-projects/Llama-2-7b-chat-coreml", "llama2/tokenizer.model", false},
                                {"pcuenq/Llama-3.2-1B-Instruct-tokenizer", "llama3", true}}));
    CAPTURE(model.name, model.path);
    const auto tokenizer = load(*data / "tokenizers" / model.path);
    const auto document = text_test::document_of(*data / "tokenizers" / "vectors" / "hf_tokenizer_tests.json");
    for (const auto& row : document.as_object().at(model.name).as_array()) {
        const std::string input(row.at("input").as_string());
        CAPTURE(input);
        const auto expected = ids_of(row.at("encoded").at("input_ids"));
        const auto ids = tokenizer->encode(input, {.add_special = true, .parse_special = true});
        REQUIRE(ids);
        CHECK(*ids == expected);
        const auto decode = [&](bool skips) {
            return tokenizer->decode(expected, {.skip_special = skips, .clean_up_spaces = model.cleans_up});
        };
        CHECK(decode(false) == row.at("decoded_with_special").as_string());
        CHECK(decode(true) == row.at("decoded_without_special").as_string());
    }
}

TEST_CASE("Hugging Face's paragraph agrees in ids and in decoded text", "[text]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with tokenizers"); }
    struct Model {
        const char* file;
        const char* path;
    };
    const Model model = GENERATE(values<Model>({{"hf_bert_uncased_encoded.json", "bert/vocab_uncased.txt"},
                                                {"hf_gpt2_encoded_tokens.json", "gpt2/tokenizer.json"},
                                                {"hf_llama_encoded.json", "llama2"},
                                                {"hf_llama_3.2_encoded.json", "llama3"}}));
    CAPTURE(model.file);
    const auto tokenizer = load(*data / "tokenizers" / model.path);
    const auto document = text_test::document_of(*data / "tokenizers" / "vectors" / model.file).as_object();
    const auto expected = ids_of(document.at("token_ids"));
    bool is_special = false;
    for (const bool special : {false, true}) {
        const auto ids = tokenizer->encode(document.at("text").as_string(), {.add_special = special});
        REQUIRE(ids);
        is_special |= *ids == expected;
    }
    CHECK(is_special);
    const std::string expected_text(document.at("decoded_text").as_string());
    const auto decode = [&](bool skips, bool cleans_up) {
        return tokenizer->decode(expected, {.skip_special = skips, .clean_up_spaces = cleans_up});
    };
    const bool is_text = decode(true, false) == expected_text || decode(false, false) == expected_text ||
                         decode(true, true) == expected_text || decode(false, true) == expected_text;
    CAPTURE(expected_text, decode(false, true));
    CHECK(is_text);
}
