// 264 renders of 14 templates by Jinja2 itself, set up as Hugging Face's apply_chat_template does it.
#include <filesystem>
#include <map>
#include <string>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/chat_template.h"

namespace {

namespace fs = std::filesystem;

// The instant at which the expected renders were made.
constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};

void check_renders(const fs::path& folder, const fs::path& renders, std::size_t rows_expected) {
    std::map<std::string, std::shared_ptr<const text::ChatTemplate>> templates;
    const auto rows = text_test::rows_of(renders);
    CHECK(rows.size() == rows_expected);
    for (const auto& row : rows) {
        const std::string name(row.at("template").as_string());
        const std::string label(row.at("case").as_string());
        CAPTURE(name, label);
        auto& chat_template = templates[name];
        if (!chat_template) {
            const auto compiled = text::ChatTemplate::compile(text_test::bytes_of(folder / (name + ".jinja")));
            INFO((compiled ? "" : compiled.error().message));
            REQUIRE(compiled);
            chat_template = *compiled;
        }
        const auto rendered = chat_template->render(boost::json::serialize(row.at("context")), kNow);
        if (const auto* expected = row.if_contains("rendered")) {
            INFO((rendered ? "" : rendered.error().message));
            REQUIRE(rendered);
            CHECK(*rendered == expected->as_string());
            continue;
        }
        // What the template refuses comes with its words; what only Python trips over ends in some clean refusal.
        const std::string expected(row.at("error").as_string());
        CAPTURE(expected, (rendered ? *rendered : ""));
        REQUIRE_FALSE(rendered);
        CHECK(rendered.error().code == base::ErrorCode::invalid_argument);
        if (expected.find("TemplateError: ") == 0) {
            CHECK("TemplateError: " + rendered.error().message == expected);
        } else {
            CHECK(rendered.error().message.find(text::ChatTemplate::kTemplateFailed) == 0);
        }
    }
}

}  // namespace

TEST_CASE("the templates of the repository render as Hugging Face renders them", "[text]") {
    const fs::path folder = text_test::own_data() / "chat_templates";
    check_renders(folder, folder / "renders.jsonl", 180);
}

TEST_CASE("all templates of the shared data render as Hugging Face renders them", "[text]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data with chat templates"); }
    check_renders(*data / "chat_templates", *data / "chat_templates" / "renders.jsonl.gz", 264);
}
