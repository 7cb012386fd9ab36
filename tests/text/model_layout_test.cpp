// The folders that models came in in the last three years (text/README.md has the table): every file that transformers
// and sentence-transformers read for tokens counts, in their order of precedence.
#include <algorithm>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/model_text.h"

namespace {

namespace fs = std::filesystem;

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};
constexpr const char* kChat = "{{ bos_token }}{% for m in messages %}{{ m.content }}{% endfor %}{{ eos_token }}";

text::ModelText load(const fs::path& folder) {
    auto model = text::ModelText::load(folder);
    INFO((model ? "" : model.error().message));
    REQUIRE(model);
    return std::move(*model);
}

std::string chat(const text::ModelText& model) {
    const auto rendered = model.render_chat(R"({"messages":[{"role":"user","content":"hi"}]})", kNow);
    INFO((rendered ? "" : rendered.error().message));
    REQUIRE(rendered);
    return *rendered;
}

/// The tokenizer of stories260k, by itself, as tokenizer.json.
void add_tokenizer(const text_test::TemporaryFolder& folder, const std::string& name = "tokenizer.json") {
    fs::create_directories((folder.path() / name).parent_path());
    fs::copy_file(text_test::stories_folder() / "tokenizer.json", folder.path() / name);
}

bool warns_of(const text::ModelText& model, const std::string& part) {
    return std::any_of(model.warnings.begin(), model.warnings.end(),
                       [&](const std::string& one) { return one.find(part) != std::string::npos; });
}

std::string quoted(const std::string& text) {
    return boost::json::serialize(boost::json::value(text));
}

}  // namespace

TEST_CASE("special tokens are found in each file that names them, in transformers' order", "[text]") {
    const text_test::TemporaryFolder folder;
    add_tokenizer(folder);
    const std::string chat_template = R"("chat_template": )" + quoted(kChat);

    SECTION("tokenizer_config.json alone, as text and as object") {
        folder.write("tokenizer_config.json", "{" + chat_template + R"(, "bos_token": "<s>", "eos_token":
            {"content": "</s>", "lstrip": false}})");
        const auto model = load(folder.path());
        CHECK(chat(model) == "<s>hi</s>");
        CHECK(model.tokenizer->bos() == 1);
        CHECK(model.warnings.empty());
    }
    SECTION("only special_tokens_map.json names them") {
        folder.write("tokenizer_config.json", "{" + chat_template + "}");
        folder.write("special_tokens_map.json", R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>"})");
        const auto model = load(folder.path());
        CHECK(chat(model) == "<s>hi</s>");
        CHECK(model.tokenizer->bos() == 1);
        CHECK(model.tokenizer->eos() == 2);
        CHECK(model.eos_ids == std::vector<base::TokenId>{2});
    }
    SECTION("both: without added_tokens_decoder the map goes first, as in folders before 2023-10") {
        folder.write("tokenizer_config.json", "{" + chat_template + R"(, "bos_token": "</s>", "eos_token": "</s>"})");
        folder.write("special_tokens_map.json", R"({"bos_token": "<s>"})");
        CHECK(chat(load(folder.path())) == "<s>hi</s>");
    }
    SECTION("both: with added_tokens_decoder the map only fills what is missing") {
        folder.write("tokenizer_config.json", "{" + chat_template + R"(, "bos_token": "<s>", "added_tokens_decoder":
            {"1": {"content": "<s>", "special": true}, "2": {"content": "</s>", "special": true}}})");
        folder.write("special_tokens_map.json", R"({"bos_token": "</s>", "eos_token": "</s>"})");
        CHECK(chat(load(folder.path())) == "<s>hi</s>");
    }
    SECTION("the class of the tokenizer has defaults") {
        folder.write("tokenizer_config.json", "{" + chat_template + R"(, "tokenizer_class": "LlamaTokenizer"})");
        CHECK(chat(load(folder.path())) == "<s>hi</s>");
        folder.write("tokenizer_config.json", "{" + chat_template + "}");
        folder.write("config.json", R"({"model_type": "llama"})");
        CHECK(chat(load(folder.path())) == "<s>hi</s>");
    }
    SECTION("a default that the vocabulary lacks is none") {
        folder.write("tokenizer_config.json", "{" + chat_template + R"(, "tokenizer_class": "GemmaTokenizer"})");
        const auto model = load(folder.path());
        CHECK(chat(model) == "hi");
        CHECK(warns_of(model, "bos_token"));
    }
    SECTION("a token that is null is none, and nobody is warned") {
        folder.write("tokenizer_config.json",
                     "{" + chat_template + R"(, "tokenizer_class": "LlamaTokenizer", "bos_token": null,
            "eos_token": "</s>"})");
        const auto model = load(folder.path());
        CHECK(chat(model) == "hi</s>");
        CHECK(model.warnings.empty());
    }
    SECTION("only ids, in generation_config.json or config.json") {
        folder.write("tokenizer_config.json", "{" + chat_template + "}");
        folder.write("config.json", R"({"bos_token_id": 1, "eos_token_id": 2, "vocab_size": 512})");
        const auto model = load(folder.path());
        CHECK(chat(model) == "<s>hi</s>");
        CHECK(warns_of(model, "bos_token is in neither tokenizer_config.json nor special_tokens_map.json"));
    }
    SECTION("nowhere: a person is told") {
        folder.write("tokenizer_config.json", "{" + chat_template + "}");
        const auto model = load(folder.path());
        CHECK(chat(model) == "hi");
        CHECK(warns_of(model, "the chat template prints bos_token"));
        CHECK(warns_of(model, "the chat template prints eos_token"));
    }
}

TEST_CASE("tokens are added by added_tokens_decoder, and by added_tokens.json where there is none", "[text]") {
    const text_test::TemporaryFolder folder;
    SECTION("to a tokenizer.json that lacks them") {
        add_tokenizer(folder);
        folder.write("tokenizer_config.json", R"({"added_tokens_decoder": {
            "512": {"content": "<|im_start|>", "special": true}, "513": {"content": "<think>", "special": false}}})");
        const auto model = load(folder.path());
        CHECK(model.tokenizer->token_of("<|im_start|>") == 512);
        CHECK(model.tokenizer->is_special(512));
        CHECK(model.tokenizer->token_of("<think>") == 513);
        CHECK_FALSE(model.tokenizer->is_special(513));
        CHECK(model.tokenizer->encode("<|im_start|>", {.parse_special = true})->front() == 512);
    }
    SECTION("but none at another id than it is said to have") {
        add_tokenizer(folder);
        folder.write("added_tokens.json", R"({"<far>": 600, "<s>": 7})");
        const auto model = load(folder.path());
        CHECK_FALSE(model.tokenizer->token_of("<far>"));
        CHECK(model.tokenizer->token_of("<s>") == 1);
    }
    SECTION("of vocab.json and merges.txt, as GPT-2, Phi-2 and Qwen2 came") {
        folder.write("vocab.json", R"({"a": 0, "b": 1, "ab": 2, "<|endoftext|>": 3})");
        folder.write("merges.txt", "#version: 0.2\na b\n");
        folder.write("added_tokens.json", R"({"<|im_end|>": 4, "<tool>": 5})");
        folder.write(
            "special_tokens_map.json",
            R"({"eos_token": "<|im_end|>", "additional_special_tokens": [{"content": "<tool>", "rstrip": true}]})");
        const auto model = load(folder.path());
        CHECK(model.tokenizer->is_special(4));
        CHECK(model.tokenizer->is_special(5));
        CHECK(model.eos_ids == std::vector<base::TokenId>{4});
        CHECK(*model.tokenizer->encode("ab<tool>  ab<|im_end|>", {.parse_special = true}) ==
              std::vector<base::TokenId>{2, 5, 2, 4});
    }
    SECTION("of a SentencePiece model, as Llama 2 and Gemma came") {
        fs::copy_file(text_test::own_data() / "unigram.model", folder.path() / "tokenizer.model");
        folder.write("added_tokens.json", R"({"<pad>": 400, "[INST]": 401})");
        folder.write("special_tokens_map.json", R"({"pad_token": "<pad>", "bos_token": "<s>"})");
        const auto model = load(folder.path());
        CHECK(model.tokenizer->token_of("<pad>") == 400);
        CHECK(model.tokenizer->is_special(400));
        CHECK_FALSE(model.tokenizer->is_special(401));
        CHECK(model.tokenizer->encode("[INST]", {.parse_special = true})->back() == 401);
    }
    SECTION("a plain entry of the vocabulary that a file calls a special token is one") {
        add_tokenizer(folder);
        const std::string_view plain = "once";
        const auto id = load(folder.path()).tokenizer->encode("once");
        REQUIRE(id);
        folder.write("special_tokens_map.json", R"({"eos_token": "<unk>"})");
        CHECK(load(folder.path()).eos_ids == std::vector<base::TokenId>{0});
        CHECK(load(folder.path()).tokenizer->is_special(0));
        CHECK_FALSE(plain.empty());
    }
}

TEST_CASE("chat templates are found where each release of transformers put them", "[text]") {
    const text_test::TemporaryFolder folder;
    add_tokenizer(folder);
    fs::create_directories(folder.path() / "additional_chat_templates");
    const std::string user = R"({"messages":[{"role":"user","content":"u"}]})";
    const std::string tools = R"({"messages":[{"role":"user","content":"u"}],"tools":[{"type":"function"}]})";
    const auto by = [&](const std::string& context) { return *load(folder.path()).render_chat(context, kNow); };
    const auto print = [](const std::string& name) { return name + "{{ messages[0].content }}"; };

    folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "default", "template": )" +
                                              quoted(print("a")) + R"(}, {"name": "tool_use", "template": )" +
                                              quoted(print("b")) + "}]}");
    CHECK(by(user) == "au");
    CHECK(by(tools) == "bu");
    folder.write("chat_template.json", R"({"chat_template": )" + quoted(print("c")) + "}");
    CHECK(by(user) == "cu");
    CHECK(by(tools) == "cu");
    folder.write("additional_chat_templates/tool_use.jinja", print("d"));
    CHECK(by(user) == "cu");
    CHECK(by(tools) == "du");
    folder.write("chat_template.jinja", print("e"));
    CHECK(by(user) == "eu");
    CHECK(by(tools) == "du");
    fs::remove(folder.path() / "chat_template.jinja");
    fs::remove(folder.path() / "chat_template.json");
    folder.write("tokenizer_config.json", "{}");
    folder.write("additional_chat_templates/default.jinja", print("f"));
    CHECK(by(user) == "fu");
}

TEST_CASE("the tokenizer of a sentence-transformers folder lies where modules.json says", "[text]") {
    const text_test::TemporaryFolder folder;
    fs::create_directories(folder.path() / "0_Transformer");
    fs::copy_file(text_test::own_data() / "vocab_uncased.txt", folder.path() / "0_Transformer" / "vocab.txt");
    folder.write("modules.json",
                 R"([{"idx": 0, "path": "0_Transformer", "type": "sentence_transformers.models.Transformer"},
                     {"idx": 1, "path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}])");
    folder.write("0_Transformer/tokenizer_config.json",
                 R"({"tokenizer_class": "BertTokenizer", "cls_token": "[CLS]"})");
    const auto model = load(folder.path());
    CHECK(model.tokenizer->vocabulary_size() == 30522);
    const auto variables = model.template_variables;
    CHECK(std::find(variables.begin(), variables.end(), std::pair<std::string, std::string>("cls_token", "[CLS]")) !=
          variables.end());
    folder.write("modules.json", R"([{"path": "../elsewhere", "type": "x.Transformer"}])");
    CHECK(text::ModelText::load(folder.path()).error().code == base::ErrorCode::invalid_argument);
    folder.write("modules.json", "{");
    CHECK(text::ModelText::load(folder.path()).error().message.find("modules.json") != std::string::npos);
}

TEST_CASE("a folder with Mistral's own tokenizer only is told so", "[text]") {
    const text_test::TemporaryFolder folder;
    folder.write("tekken.json", "{}");
    const auto model = text::ModelText::load(folder.path());
    REQUIRE_FALSE(model);
    CHECK(model.error().message.find("tekken.json") != std::string::npos);
}

TEST_CASE("ids beyond the vocabulary are left out with a warning that names file and field", "[text]") {
    const text_test::TemporaryFolder folder;
    add_tokenizer(folder);
    folder.write("config.json", R"({"vocab_size": 512, "eos_token_id": 2, "bos_token_id": 9000})");
    folder.write("generation_config.json", R"({"eos_token_id": [2, 512, 100257, -5, "x", 3.0], "bos_token_id": null})");
    const auto model = load(folder.path());
    CHECK(model.vocabulary == 512);
    CHECK(model.eos_ids == std::vector<base::TokenId>{2, 3});
    CHECK_FALSE(model.bos);
    CHECK(warns_of(model, "generation_config.json: eos_token_id has 512, no token id below 512"));
    CHECK(warns_of(model, "generation_config.json: eos_token_id has 100257"));
    CHECK(warns_of(model, "generation_config.json: eos_token_id has \"x\""));
    CHECK(warns_of(model, "config.json: bos_token_id has 9000"));
    CHECK(model.warnings.size() == 5);
}

TEST_CASE("the vocabulary is the model's, where the tokenizer has fewer ids and where it has more", "[text]") {
    const text_test::TemporaryFolder folder;
    add_tokenizer(folder);
    CHECK(load(folder.path()).vocabulary == 0);  // nothing says it
    folder.write("config.json", R"({"vocab_size": 600, "eos_token_id": 599})");
    auto model = load(folder.path());
    CHECK(model.vocabulary == 600);
    CHECK(model.eos_ids == std::vector<base::TokenId>{599});
    CHECK(model.warnings.empty());
    folder.write("config.json", R"({"text_config": {"vocab_size": 500, "eos_token_id": 501}})");
    model = load(folder.path());
    CHECK(model.vocabulary == 500);
    CHECK(model.eos_ids.empty());
    CHECK(warns_of(model, "config.json: text_config: eos_token_id has 501"));
    CHECK(warns_of(model, "the tokenizer has ids up to 511"));
}

TEST_CASE("recommended values that no request may have are left out with a warning", "[text]") {
    const text_test::TemporaryFolder folder;
    add_tokenizer(folder);
    folder.write("generation_config.json", R"({"temperature": 3.5, "top_p": 0, "min_p": -0.1, "top_k": "many",
        "repetition_penalty": 0, "max_new_tokens": 2.5})");
    const auto model = load(folder.path());
    CHECK_FALSE(model.defaults.temperature);
    CHECK(model.defaults.top_p == 0.0);  // the likeliest token
    CHECK_FALSE(model.defaults.min_p);
    CHECK_FALSE(model.defaults.top_k);
    CHECK_FALSE(model.defaults.repetition_penalty);
    CHECK_FALSE(model.defaults.max_new_tokens);
    CHECK(model.warnings.size() == 5);
    for (const char* part : {"temperature is 3.5", "min_p is -0.1", "top_k is \"many\"", "repetition_penalty is 0",
                             "max_new_tokens is 2.5"}) {
        CAPTURE(part);
        CHECK(warns_of(model, std::string("generation_config.json: ") + part));
    }
}
