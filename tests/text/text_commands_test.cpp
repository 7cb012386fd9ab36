// `sluice tokenize` and `sluice render` as their streams see them.
#include <filesystem>
#include <sstream>
#include <string>

#include "cli/render.h"
#include "cli/tokenize.h"
#include "tests/support/catch.h"
#include "tests/text/text_data.h"

namespace {

namespace fs = std::filesystem;

std::string tokenize(const cli::TokenizeOptions& options, const std::string& input) {
    std::istringstream in(input);
    std::ostringstream out;
    REQUIRE(cli::tokenize_lines(options, in, out) == 0);
    return out.str();
}

std::string render(const cli::RenderOptions& options, const std::string& input) {
    std::istringstream in(input);
    std::ostringstream out;
    REQUIRE(cli::render_lines(options, in, out) == 0);
    return out.str();
}

}  // namespace

TEST_CASE("tokenize answers each line, wrong ones with an error", "[cli]") {
    const fs::path model = text_test::stories_folder();
    CHECK(tokenize({.path = model}, "{\"text\": \"Once upon\"}\n\n{\"ids\": [1, 403, 407]}\n") ==
          "{\"ids\":[403,407]}\n{\"text\":\"Once upon\"}\n");
    CHECK(tokenize({.path = model, .special = true}, "{\"text\": \"Once</s>\"}\n{\"ids\": [1, 403]}") ==
          "{\"ids\":[1,403,2]}\n{\"text\":\"<s> Once\"}\n");
    const std::string answers =
        tokenize({.path = model},
                 "nonsense\n[]\n{}\n{\"text\": 1}\n{\"ids\": 1}\n{\"ids\": [-1]}\n{\"ids\": [1.5]}\n"
                 "{\"text\": \"\xff\"}\n{\"text\": \"\\ud800\"}\n{\"text\": \"\"}\n");
    std::istringstream lines(answers);
    std::string line;
    for (int count = 0; count < 9; ++count) {
        REQUIRE(std::getline(lines, line));
        CAPTURE(count, line);
        CHECK(line.find("{\"error\":") == 0);
    }
    REQUIRE(std::getline(lines, line));
    CHECK(line == "{\"ids\":[]}");
}

TEST_CASE("tokenize says what is wrong with its path or pattern", "[cli]") {
    std::istringstream in;
    std::ostringstream out;
    CHECK(cli::tokenize_lines({.path = "/nowhere"}, in, out) == 1);
    const text_test::TemporaryFolder folder;
    CHECK(cli::tokenize_lines({.path = folder.path()}, in, out) == 1);
    const fs::path ranks = folder.write("two.tiktoken", "YQ== 0\nYg== 1\nYWI= 2\n");
    CHECK(cli::tokenize_lines({.path = ranks}, in, out) == 1);
    CHECK(cli::tokenize_lines({.path = ranks, .pattern = "unheard"}, in, out) == 1);
    CHECK(tokenize({.path = ranks, .pattern = "gpt2"}, "{\"text\": \"abab\"}\n{\"text\": \"c\"}\n")
              .find("{\"ids\":[2,2]}\n{\"error\":") == 0);
    CHECK(out.str().empty());
}

TEST_CASE("render answers each line with the text, the template's refusal or an error", "[cli]") {
    const text_test::TemporaryFolder folder;
    const fs::path file =
        folder.write("t.jinja",
                     "{% if not messages %}{{ raise_exception('no messages') }}{% endif %}"
                     "{{ messages[0].content }} {{ strftime_now('%d %b %Y') }} {{ messages[0].x.y }}");
    const cli::RenderOptions options{.path = file, .now = "2024-07-26T13:05:09"};
    const std::string answers =
        render(options,
               "{\"messages\": [{\"content\": \"Hi\", \"x\": {\"y\": 1.5}}]}\n"
               "{\"context\": {\"messages\": [{\"content\": \"é\", \"x\": {\"y\": null}}]}, \"case\": \"c\"}\n"
               "{}\n{\"messages\": [{\"content\": \"a\"}]}\nnonsense\n");
    std::istringstream lines(answers);
    std::string line;
    std::getline(lines, line);
    CHECK(line == "{\"rendered\":\"Hi 26 Jul 2024 1.5\"}");
    std::getline(lines, line);
    CHECK(line == "{\"rendered\":\"é 26 Jul 2024 None\"}");
    std::getline(lines, line);
    CHECK(line == "{\"error\":\"TemplateError: no messages\"}");
    std::getline(lines, line);
    CHECK(line.find("{\"error\":\"the chat template failed: ") == 0);
    std::getline(lines, line);
    CHECK(line.find("{\"error\":\"not JSON") == 0);
}

TEST_CASE("render takes a model's folder with its own tokens", "[cli]") {
    CHECK(render({.path = text_test::stories_folder()},
                 "{\"messages\": [{\"role\": \"user\", \"content\": \"Tom\"}]}\n") == "{\"rendered\":\"<s>Tom\"}\n");
    std::istringstream in;
    std::ostringstream out;
    CHECK(cli::render_lines({.path = "/nowhere.jinja"}, in, out) == 1);
    CHECK(cli::render_lines({.path = text_test::stories_folder(), .now = "soon"}, in, out) == 1);
}
