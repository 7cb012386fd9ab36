#include "text/model_text.h"

#include <filesystem>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/detokenizer.h"

namespace {

namespace fs = std::filesystem;
namespace json = boost::json;

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};

text::ModelText load(const fs::path& folder) {
    auto model = text::ModelText::load(folder);
    INFO((model ? "" : model.error().message));
    REQUIRE(model);
    return std::move(*model);
}

/// A folder with the tokenizer of stories260k and nothing else of it.
void add_tokenizer(const text_test::TemporaryFolder& folder) {
    fs::copy_file(text_test::stories_folder() / "tokenizer.json", folder.path() / "tokenizer.json");
}

}  // namespace

TEST_CASE("stories260k: prompts and outputs agree with its golden text", "[text]") {
    const text::ModelText model = load(text_test::stories_folder());
    CHECK(model.tokenizer->vocabulary_size() == 512);
    const auto golden = text_test::document_of(text_test::own_data() / "stories260k_text.json");
    const json::array& cases = golden.as_object().at("cases").as_array();
    REQUIRE(cases.size() == 4);
    for (const json::value& row : cases) {
        const std::string prompt(row.at("prompt").as_string());
        CAPTURE(prompt);
        const auto ids = model.tokenizer->encode(prompt, {.add_special = true});
        REQUIRE(ids);
        CHECK(*ids == text_test::ids_of(row.at("prompt_ids")));
        std::vector<base::TokenId> whole = *ids;
        for (const base::TokenId id : text_test::ids_of(row.at("output_ids"))) {
            whole.push_back(id);
        }
        CHECK(model.tokenizer->decode(whole) == row.at("output_text").as_string());
    }
}

TEST_CASE("stories260k: tokenizer.json and the piece list it was made from give the same ids", "[text]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with stories260K"); }
    const text::ModelText model = load(text_test::stories_folder());
    const auto pieces = text::Tokenizer::load(*data / "models" / "stories260K" / "vocab.jsonl");
    REQUIRE(pieces);
    for (const auto& row : text_test::rows_of(text_test::own_data() / "ref_gpt-2.jsonl")) {
        const std::string text(row.at("text").as_string());
        CAPTURE(text);
        CHECK(*model.tokenizer->encode(text) == *(*pieces)->encode(text));
    }
}

TEST_CASE("stories260k: a chat becomes the beginning of a story", "[text]") {
    const text::ModelText model = load(text_test::stories_folder());
    CHECK(model.eos_ids == std::vector<base::TokenId>{1, 2});
    CHECK(model.bos == 1);
    REQUIRE(model.chat_template);
    const auto context = model.with_variables(
        R"({"messages": [{"role": "system", "content": "Be nice."}, {"role": "user", "content": " Tom had a red car. "}],
            "add_generation_prompt": true})");
    REQUIRE(context);
    const auto prompt = model.chat_template->render(*context, kNow);
    REQUIRE(prompt);
    CHECK(*prompt == "<s>Be nice. Tom had a red car.");  // nothing that is said is lost
    const auto ids = model.tokenizer->encode("<s>Tom had a red car.", {.parse_special = true});
    REQUIRE(ids);
    CHECK(*ids == std::vector<base::TokenId>{1, 274, 287, 381, 261, 352, 266, 280, 295, 426});
    const auto turns = model.chat_template->render(
        R"({"bos_token": "<s>", "messages": [{"role": "user", "content": [{"type": "text", "text": "One"}]},
            {"role": "assistant", "content": "day"}, {"role": "user", "content": "Tom ran."}]})",
        kNow);
    REQUIRE(turns);
    CHECK(*turns == "<s>One day Tom ran.");
}

TEST_CASE("eos ids come from generation_config.json, config.json and tokenizer_config.json", "[text]") {
    const text_test::TemporaryFolder folder;
    add_tokenizer(folder);
    CHECK(load(folder.path()).eos_ids.empty());
    folder.write("generation_config.json", R"({"eos_token_id": [300, 7], "temperature": 0.6, "top_p": 0.9, "top_k": 20,
        "do_sample": true, "repetition_penalty": 1.1, "min_p": null})");
    folder.write("config.json", R"({"eos_token_id": 9, "bos_token_id": 1})");
    folder.write("tokenizer_config.json", R"({"eos_token": {"content": "</s>"}, "pad_token": "<unk>"})");
    const text::ModelText model = load(folder.path());
    CHECK(model.eos_ids == std::vector<base::TokenId>{2, 7, 9, 300});
    CHECK(model.bos == 1);
    CHECK(model.defaults.temperature == 0.6);
    CHECK(model.defaults.top_p == 0.9);
    CHECK(model.defaults.top_k == 20);
    CHECK(model.defaults.do_sample == true);
    CHECK(model.defaults.repetition_penalty == 1.1);
    CHECK_FALSE(model.defaults.min_p);
    const std::vector<std::pair<std::string, std::string>> variables = {{"eos_token", "</s>"}, {"pad_token", "<unk>"}};
    CHECK(model.template_variables == variables);
}

TEST_CASE("the chat template is found in each of its places, and a named one serves tools", "[text]") {
    const text_test::TemporaryFolder folder;
    add_tokenizer(folder);
    const auto rendered = [&] {
        const text::ModelText model = load(folder.path());
        REQUIRE(model.chat_template);
        return *model.chat_template->render("{}", kNow);
    };
    text::ModelText none = load(folder.path());
    CHECK_FALSE(none.chat_template);
    CHECK(none.chat_template_problem.find("chat_template.jinja") != std::string::npos);

    folder.write("tokenizer_config.json", R"({"chat_template": "one"})");
    CHECK(rendered() == "one");
    folder.write("tokenizer_config.json", R"({"chat_template": [{"name": "tool_use", "template": "tools"},
                                                               {"name": "default", "template": "two"}]})");
    CHECK(rendered() == "two");
    CHECK(*load(folder.path()).tool_template->render("{}", kNow) == "tools");
    folder.write("chat_template.json", R"({"chat_template": "three"})");
    CHECK(rendered() == "three");
    folder.write("chat_template.jinja", "four");
    CHECK(rendered() == "four");
    folder.write("chat_template.jinja", "{% if %}");
    text::ModelText broken = load(folder.path());
    CHECK_FALSE(broken.chat_template);
    CHECK(broken.chat_template_problem.find("does not compile") != std::string::npos);
}

TEST_CASE("a folder that lacks or breaks a file gets an error that names it", "[text]") {
    const text_test::TemporaryFolder folder;
    auto model = text::ModelText::load(folder.path());
    REQUIRE_FALSE(model);
    CHECK(model.error().code == base::ErrorCode::not_found);
    CHECK(model.error().message.find("tokenizer.json") != std::string::npos);
    CHECK(model.error().message.find("*.tiktoken") != std::string::npos);
    CHECK(text::ModelText::load(folder.path() / "nowhere").error().code == base::ErrorCode::not_found);

    folder.write("tokenizer.json", "{\"model\": ");
    model = text::ModelText::load(folder.path());
    REQUIRE_FALSE(model);
    CHECK(model.error().code == base::ErrorCode::invalid_argument);
    CHECK(model.error().message.find("tokenizer.json") != std::string::npos);

    fs::remove(folder.path() / "tokenizer.json");
    add_tokenizer(folder);
    for (const char* name : {"tokenizer_config.json", "generation_config.json", "config.json", "chat_template.json"}) {
        folder.write(name, "[1, 2");
        model = text::ModelText::load(folder.path());
        CAPTURE(name);
        REQUIRE_FALSE(model);
        CHECK(model.error().code == base::ErrorCode::invalid_argument);
        CHECK(model.error().message.find(name) != std::string::npos);
        fs::remove(folder.path() / name);
    }
    CHECK(text::ModelText::load(folder.path()));
}

TEST_CASE("template variables are put in only where the context has none", "[text]") {
    const text::ModelText model = load(text_test::stories_folder());
    const auto context = model.with_variables(R"({"bos_token": "mine", "messages": []})");
    REQUIRE(context);
    const json::object parsed = json::parse(*context).as_object();
    CHECK(parsed.at("bos_token") == "mine");
    CHECK(parsed.at("eos_token") == "</s>");
    CHECK_FALSE(model.with_variables("[1]"));
    CHECK_FALSE(model.with_variables("{"));
}
