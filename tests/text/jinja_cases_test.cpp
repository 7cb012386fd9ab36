// A thousand small templates, rendered by Jinja2 3.1.6 itself as Hugging Face sets it up (sandbox, trimmed blocks, loop
// controls): what it prints is printed, what it refuses is refused.
#include <set>
#include <string>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/chat_template.h"

namespace {

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 6, .hour = 13, .minute = 5, .second = 9};

}  // namespace

TEST_CASE("small templates render as in Jinja2", "[text]") {
    const auto rows = text_test::rows_of(text_test::own_data() / "jinja_cases.jsonl");
    REQUIRE(rows.size() > 1000);
    const std::string context = boost::json::serialize(rows.front().at("context"));
    std::size_t differing = 0;
    for (std::size_t i = 1; i < rows.size(); ++i) {
        const std::string source(rows[i].at("source").as_string());
        CAPTURE(source);
        const auto chat_template = text::ChatTemplate::compile(source);
        const auto rendered = chat_template ? (*chat_template)->render(context, kNow) : base::pass_on(chat_template);
        INFO((rendered ? "" : rendered.error().message));
        if (rows[i].contains("differs")) {  // listed in text/README.md; the row says how
            ++differing;
            const auto& differs = rows[i].at("differs");
            if (differs.is_string()) {
                CHECK(rendered.value_or("(refused)") == std::string(differs.as_string()));
            } else {
                CHECK_FALSE(rendered);
            }
        } else if (rows[i].contains("error")) {
            CHECK_FALSE(rendered);
        } else {
            CHECK(rendered.value_or("(refused)") == std::string(rows[i].at("expected").as_string()));
        }
    }
    CHECK(differing < 100);
}
