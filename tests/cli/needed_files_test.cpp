#include "cli/model/needed_files.h"

#include "tests/support/catch.h"

using namespace cli::model;
using Paths = std::vector<std::string>;

TEST_CASE("of a repository only what a model folder needs is taken, never pickles or code", "[cli][model]") {
    const Paths needed = needed_files({"README.md", "config.json", "generation_config.json", "merges.txt",
                                       "model.safetensors", "pytorch_model.bin", "modeling_x.py", "tokenizer.json",
                                       "onnx/model.onnx", "1_Pooling/config.json", "LICENSE", "training_args.bin"},
                                      "")
                             .value();
    CHECK(needed == Paths{"1_Pooling/config.json", "LICENSE", "config.json", "generation_config.json", "merges.txt",
                          "model.safetensors", "tokenizer.json"});
}

TEST_CASE("whatever a tokenizer or a chat template is made of comes along", "[cli][model]") {
    const Paths all = {"added_tokens.json",
                       "additional_chat_templates/default.jinja",
                       "additional_chat_templates/tool_use.jinja",
                       "chat_template.jinja",
                       "config.json",
                       "model.safetensors",
                       "sentencepiece.bpe.model",
                       "special_tokens_map.json",
                       "spiece.model",
                       "tokenizer_config.json"};
    CHECK(needed_files(all, "").value() == all);
}

TEST_CASE("sharded safetensors come with their index, and all of them", "[cli][model]") {
    const Paths all = {"config.json", "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                       "model.safetensors.index.json", "consolidated.safetensors"};
    CHECK(needed_files(all, "").value() == Paths{"config.json", "model-00001-of-00002.safetensors",
                                                 "model-00002-of-00002.safetensors", "model.safetensors.index.json"});
    CHECK_FALSE(needed_files({"config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"}, ""));
}

TEST_CASE("one GGUF file is taken, several are to choose from", "[cli][model]") {
    CHECK(needed_files({"README.md", "m.Q4_0.gguf"}, "").value() == Paths{"m.Q4_0.gguf"});
    const auto several = needed_files({"m.Q4_0.gguf", "m.Q8_0.gguf"}, "");
    REQUIRE_FALSE(several);
    CHECK(several.error().code == base::ErrorCode::not_found);
    CHECK(several.error().message.find("m.Q8_0.gguf") != std::string::npos);
    CHECK(needed_files({"m.Q4_0.gguf", "m.Q8_0.gguf"}, "m.Q8_0.gguf").value() == Paths{"m.Q8_0.gguf"});
    const auto missing = needed_files({"m.Q4_0.gguf"}, "m.Q2_K.gguf");
    REQUIRE_FALSE(missing);
    CHECK(missing.error().message.find("m.Q4_0.gguf") != std::string::npos);
}

TEST_CASE("a split GGUF file comes whole", "[cli][model]") {
    const Paths split = {"m-00001-of-00002.gguf", "m-00002-of-00002.gguf"};
    CHECK(needed_files({split[0], split[1], "other.gguf"}, split[0]).value() == split);
    CHECK(needed_files(split, "").value() == split);
    CHECK_FALSE(needed_files({split[0]}, split[0]));
    CHECK(entry_of(split).value() == split[0]);
}

TEST_CASE("weights that run code when they are read are refused, and said why", "[cli][model]") {
    const auto refused = needed_files({"config.json", "tokenizer.json", "pytorch_model.bin"}, "");
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == base::ErrorCode::failed_precondition);
    CHECK(refused.error().message.find("pytorch_model.bin") != std::string::npos);
    CHECK(needed_files({"README.md"}, "").error().code == base::ErrorCode::not_found);
    CHECK(needed_files({"pytorch_model.bin"}, "pytorch_model.bin").error().code == base::ErrorCode::invalid_argument);
}

TEST_CASE("what is opened of a model is its GGUF file or its folder", "[cli][model]") {
    CHECK(entry_of({"config.json", "model.safetensors"}).value().empty());
    CHECK(entry_of({"m.gguf"}).value() == "m.gguf");
    CHECK_FALSE(entry_of({"model.safetensors"}));
    CHECK_FALSE(entry_of({"a.gguf", "b.gguf"}));
}
