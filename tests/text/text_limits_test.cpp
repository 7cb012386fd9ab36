// Inputs that are wrong, huge or made to hurt end in one clear error; the process lives.
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/chat_template.h"
#include "text/shim_call.h"
#include "text/tokenizer.h"

namespace {

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};

base::Result<std::string> render(const std::string& source, const std::string& context = "{}",
                                 const text::ChatTemplateLimits& limits = {}) {
    const auto chat_template = text::ChatTemplate::compile(source, limits);
    if (!chat_template) { return base::pass_on(chat_template); }
    return (*chat_template)->render(context, kNow);
}

base::ErrorCode code_of(const base::Result<std::string>& result) {
    REQUIRE_FALSE(result);
    return result.error().code;
}

}  // namespace

TEST_CASE("a panic stays inside the library and is reported", "[text]") {
    for (int round = 0; round < 3; ++round) {
        text::ShimBuffer out;
        CHECK(sluice_text_panic_for_test(out.out()) == SLUICE_PANICKED);
        CHECK(out.view().find("a panic on purpose") != std::string_view::npos);
        CHECK(text::shim_error(SLUICE_PANICKED, out.view()).code == base::ErrorCode::internal);
    }
}

TEST_CASE("text that is not UTF-8 or too long is refused", "[text]") {
    const auto tokenizer = text::Tokenizer::load(text_test::stories_folder(), {.text_bytes_max = 100});
    REQUIRE(tokenizer);
    for (const char* bad : {"\xff", "a\xc3", "\xed\xa0\x80", "\xf5\x80\x80\x80", "ok \xe2\x82"}) {
        const auto ids = (*tokenizer)->encode(bad);
        REQUIRE_FALSE(ids);
        CHECK(ids.error().code == base::ErrorCode::invalid_argument);
    }
    CHECK((*tokenizer)->encode(std::string(100, 'a')));
    const auto ids = (*tokenizer)->encode(std::string(101, 'a'));
    REQUIRE_FALSE(ids);
    CHECK(ids.error().code == base::ErrorCode::resource_exhausted);
    CHECK((*tokenizer)->encode(std::string_view("a\0b", 3)));
    CHECK((*tokenizer)->encode("")->empty());
}

TEST_CASE("a file above its bound is not read", "[text]") {
    const auto tokenizer = text::Tokenizer::load(text_test::stories_folder(), {.file_bytes_max = 1000});
    REQUIRE_FALSE(tokenizer);
    CHECK(tokenizer.error().code == base::ErrorCode::resource_exhausted);
}

TEST_CASE("long runs of one character are encoded", "[text]") {
    std::vector<std::filesystem::path> paths = {text_test::stories_folder(), text_test::own_data() / "vocab.json"};
    if (const auto data = text_test::shared_data()) {
        paths.push_back(*data / "tokenizers" / "llama3" / "tokenizer.model");
        paths.push_back(*data / "tokenizers" / "llama2" / "tokenizer.model");
    }
    for (const auto& path : paths) {
        const auto tokenizer = text::Tokenizer::load(path);
        REQUIRE(tokenizer);
        for (const char* unit : {"a", " ", "\n", "1", "!", "é"}) {
            std::string text;
            while (text.size() < 200'000) {
                text += unit;
            }
            CAPTURE(path.string(), unit);
            const auto ids = (*tokenizer)->encode(text);
            REQUIRE(ids);
            CHECK((*tokenizer)->decode(*ids) == text);
        }
    }
}

TEST_CASE("one tokenizer and one template serve many threads", "[text]") {
    const auto tokenizer = *text::Tokenizer::load(text_test::stories_folder());
    const auto chat_template = *text::ChatTemplate::compile("{{ x }}{{ strftime_now('%Y') }}");
    const auto expected = *tokenizer->encode("One day, a cat and a dog went to the sea.");
    std::vector<int> wrong(4, 0);
    {
        std::vector<std::jthread> threads;
        for (std::size_t thread = 0; thread < wrong.size(); ++thread) {
            threads.emplace_back([&, thread] {
                const std::string context = "{\"x\": " + std::to_string(thread) + "}";
                for (int round = 0; round < 200; ++round) {
                    const bool parses = round % 2 == 0;
                    const auto ids =
                        tokenizer->encode("One day, a cat and a dog went to the sea.", {.parse_special = parses});
                    wrong[thread] += !ids || *ids != expected ? 1 : 0;
                    const auto rendered = chat_template->render(context, kNow);
                    wrong[thread] += !rendered || *rendered != std::to_string(thread) + "2024" ? 1 : 0;
                }
            });
        }
    }
    CHECK(wrong == std::vector<int>(4, 0));
}

TEST_CASE("a template without an end is stopped by its fuel", "[text]") {
    const char* loop = "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}";
    CHECK(code_of(render(loop)) == base::ErrorCode::resource_exhausted);
    CHECK(code_of(render("{{ range(999999999) | list }}")) == base::ErrorCode::invalid_argument);
}

TEST_CASE("a template that prints without an end is stopped by the size of its output", "[text]") {
    const text::ChatTemplateLimits limits{.output_bytes_max = 1000};
    CHECK(render("{{ 'x' * 1000 }}", "{}", limits));
    CHECK(code_of(render("{{ 'x' * 1001 }}", "{}", limits)) == base::ErrorCode::resource_exhausted);
    CHECK(code_of(render("{% for a in range(1001) %}x{% endfor %}", "{}", limits)) ==
          base::ErrorCode::resource_exhausted);
    CHECK(code_of(render("{% set y %}{% for a in range(1001) %}{{ 'x' }}{% endfor %}{% endset %}", "{}", limits)) ==
          base::ErrorCode::resource_exhausted);
    CHECK(code_of(render("{{ (range(1000) | list) | tojson }}", "{}", limits)) == base::ErrorCode::resource_exhausted);
    CHECK_FALSE(render("{{ 'x' * 1000000000 }}"));
}

TEST_CASE("a template that calls itself without an end is stopped", "[text]") {
    const auto rendered = render("{% macro f(n) %}{{ f(n + 1) }}{% endmacro %}{{ f(0) }}");
    REQUIRE_FALSE(rendered);
    CHECK(render("{% macro f(n) %}{{ n }}{% if n %}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(3) }}") == "3210");
    CHECK_FALSE(render("{% include 'chat_template' %}"));
    CHECK_FALSE(render("{{ " + std::string(5000, '(') + "1" + std::string(5000, ')') + " }}"));
    CHECK_FALSE(render("{{ " + std::string(5000, '[') + std::string(5000, ']') + " }}"));
    std::string blocks;
    for (int depth = 0; depth < 3000; ++depth) {
        blocks += "{% if true %}";
    }
    CHECK_FALSE(render(blocks));
}

TEST_CASE("sources and contexts above their bounds, or of the wrong form, are refused", "[text]") {
    CHECK(code_of(render(std::string(2000, 'x'), "{}", {.source_bytes_max = 1000})) ==
          base::ErrorCode::resource_exhausted);
    CHECK(code_of(render("x", "{\"a\": \"" + std::string(1000, 'x') + "\"}", {.context_bytes_max = 100})) ==
          base::ErrorCode::resource_exhausted);
    for (const char* bad : {"", "[]", "1", "{", "{\"a\": }", "{\"a\": 1} x", "{\"a\": \"\\ud800\"}", "{\"a\": 01}",
                            "{a: 1}", "{\"a\": \"\n\"}", "nul", "{\"a\": 1,}"}) {
        CAPTURE(bad);
        CHECK(code_of(render("x", bad)) == base::ErrorCode::invalid_argument);
    }
    CHECK(code_of(render("x", "{\"a\": \"\xff\"}")) == base::ErrorCode::invalid_argument);
    std::string deep = "{\"a\": ";
    CHECK(code_of(render("x", deep + std::string(100'000, '[') + std::string(100'000, ']') + "}")) ==
          base::ErrorCode::invalid_argument);
    CHECK(code_of(render("x\xff")) == base::ErrorCode::invalid_argument);
}

TEST_CASE("what is wrong in a template is said with its line", "[text]") {
    for (const char* cut : {"{%}", "{%}{% endif %}", "x{%-}", "{%", "{%%}", "{{}}", "{{}"}) {  // no tag, or half of one
        CAPTURE(cut);
        const auto broken = text::ChatTemplate::compile(cut);
        if (!broken) { CHECK(broken.error().code == base::ErrorCode::invalid_argument); }
    }
    const auto compiled = text::ChatTemplate::compile("a\nb {% if %}");
    REQUIRE_FALSE(compiled);
    CHECK(compiled.error().code == base::ErrorCode::invalid_argument);
    CHECK(compiled.error().message.find("line 2") != std::string::npos);
    const auto rendered = render("\n\n{{ missing.field }}");
    CHECK(code_of(rendered) == base::ErrorCode::invalid_argument);
    CHECK(rendered.error().message.find("line 3") != std::string::npos);
    CHECK(rendered.error().message.find(text::ChatTemplate::kTemplateFailed) == 0);
    const auto raised = render("{{ raise_exception('roles must alternate: ' ~ 1) }}");
    CHECK(code_of(raised) == base::ErrorCode::invalid_argument);
    CHECK(raised.error().message == "roles must alternate: 1");
    CHECK_FALSE(text::ChatTemplate::compile("x")->get()->render("{}", {.year = 0}));
    CHECK_FALSE(text::ChatTemplate::compile("x")->get()->render("{}", {.year = 2024, .month = 13}));
}
