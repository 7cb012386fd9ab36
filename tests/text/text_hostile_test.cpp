// Model folders made to hurt: each ends in time and memory, with an error that names the file or with something that
// works, and who is served beside them is served. Every fourth on ordinary days and with small bounds; all of them,
// with the bounds that a server has, at night.
#include <sys/resource.h>

#include <memory>
#include <string>

#include "tests/support/catch.h"
#include "tests/support/seeds.h"
#include "tests/text/hostile.h"
#include "tests/text/text_data.h"
#include "text/model_text.h"
#include "text/text_process.h"

namespace {

using namespace std::chrono_literals;

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};
const std::string kContext = R"({"messages": [{"role": "user", "content": "hello"}]})";

bool is_night() {
    return test_support::seeds_times() > 1;
}

/// What a process has before it is given anything: itself, and the tokenizer or template that its call is about.
constexpr long kStartMebibytes = 160;

std::shared_ptr<text::TextProcess> started() {
    text::TextProcessOptions options{.program = TEXT_HOST_PROGRAM};
    if (!is_night()) {
        options.load_memory_bytes = options.call_memory_bytes = std::size_t{256} << 20;
        options.load_cpu = 2s;
        options.call_cpu = 200ms;
    }
    auto process = text::TextProcess::start(options);
    REQUIRE(process);
    return *process;
}

/// The most memory that a text process has had: its bound and what it starts with.
void check_memory() {
    rusage usage{};
    REQUIRE(getrusage(RUSAGE_CHILDREN, &usage) == 0);
    CHECK(usage.ru_maxrss <
          ((1024 + kStartMebibytes) << 10));  // KiB; 1 GiB is the largest bound, with sanitizers there is none
}

std::size_t step() {
    return is_night() ? 1 : 4;
}

}  // namespace

TEST_CASE("hostile chat templates end in time and memory, and the next one is served", "[text][fuzz]") {
    const auto cases = text_test::hostile_templates();
    REQUIRE(cases.size() >= 100);
    auto process = started();
    std::size_t failed = 0;
    for (std::size_t at = 0; at < cases.size(); at += step()) {
        CAPTURE(cases[at].name);
        const auto compiled = text::ChatTemplate::compile(cases[at].content, {}, process);
        if (!compiled) {
            ++failed;
            CHECK(compiled.error().message.find("the chat template") != std::string::npos);
            CHECK(compiled.error().code != base::ErrorCode::internal);
        } else if (const auto rendered = (*compiled)->render(kContext, kNow); !rendered) {
            ++failed;
            CHECK(rendered.error().message.find("the chat template") != std::string::npos);
            CHECK(rendered.error().message.find(".rs:") == std::string::npos);  // no place in a source
        }
        const auto fine = text::ChatTemplate::compile("{{ messages[0].content }}", {}, process);
        REQUIRE(fine);
        CHECK((*fine)->render(kContext, kNow) == "hello");
    }
    CHECK(failed > cases.size() / step() / 2);
    process.reset();
    check_memory();
}

TEST_CASE("hostile tokenizers end in time and memory", "[text][fuzz]") {
    const auto cases = text_test::hostile_tokenizers();
    REQUIRE(cases.size() >= 90);
    std::size_t refused = 0;
    for (std::size_t at = 0; at < cases.size(); at += step()) {
        CAPTURE(cases[at].name);
        const text_test::TemporaryFolder folder;
        folder.write("tokenizer.json", cases[at].content);
        const auto tokenizer = text::Tokenizer::load(folder.path(), {.process = started()});
        if (!tokenizer) {
            ++refused;
            CHECK(tokenizer.error().message.find("tokenizer.json") != std::string::npos);
            CHECK(tokenizer.error().message.find(".rs:") == std::string::npos);
            continue;
        }
        for (const std::string& written : {std::string(30, 'a') + "!", std::string(5000, 'a'), std::string(5000, ' '),
                                           std::string("Once upon a time, 日本 <s> 123\n")}) {
            const auto ids = (*tokenizer)->encode(written, {.add_special = true, .parse_special = true});
            if (ids) {
                (void)(*tokenizer)->decode(*ids);
            } else {
                CHECK_FALSE(ids.error().message.empty());
                CHECK(ids.error().message.find(".rs:") == std::string::npos);
                CHECK(ids.error().code != base::ErrorCode::internal);
            }
        }
    }
    CHECK(refused > 0);
    check_memory();
}

TEST_CASE("a model folder with a hostile template says which file it is, and is served without chats", "[text][fuzz]") {
    const text_test::TemporaryFolder folder;
    for (const char* name : {"tokenizer.json", "tokenizer_config.json", "config.json"}) {
        const std::string content = text_test::bytes_of(text_test::stories_folder() / name);
        if (!content.empty()) { folder.write(name, content); }
    }
    std::string deep = "{{ 1";
    for (int at = 0; at < 100'000; ++at) {
        deep += "|string";
    }
    folder.write("chat_template.jinja", deep + " }}");
    const auto model = text::ModelText::load(folder.path(), {.process = started()});
    CAPTURE(model ? std::string() : model.error().message);
    REQUIRE(model);
    CHECK(model->tokenizer->encode("Once upon a time"));
    if (!model->chat_template) {
        CHECK(model->chat_template_problem.find("chat_template.jinja") != std::string::npos);
    } else {
        CHECK_FALSE(model->render_chat(kContext, kNow));
    }
}
