// A tokenizer and templates in a process of their own: the same answers, and what is too much ends that process only.
#include <csignal>
#include <memory>
#include <random>
#include <string>
#include <thread>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/chat_template.h"
#include "text/grammar.h"
#include "text/model_text.h"
#include "text/text_process.h"
#include "text/tokenizer.h"

namespace {

using namespace std::chrono_literals;

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};

text::TextProcessOptions small_bounds() {
    text::TextProcessOptions options{.program = TEXT_HOST_PROGRAM};
    options.call_memory_bytes = std::size_t{256} << 20;
    options.call_cpu = 500ms;
    return options;
}

std::shared_ptr<text::TextProcess> started(const text::TextProcessOptions& options = small_bounds()) {
    auto process = text::TextProcess::start(options);
    REQUIRE(process);
    return *process;
}

std::shared_ptr<const text::Tokenizer> stories_in(const std::shared_ptr<text::TextProcess>& process) {
    auto tokenizer = text::Tokenizer::load(text_test::stories_folder(), {.process = process});
    REQUIRE(tokenizer);
    return *tokenizer;
}

const std::string kText = "Once upon a time, 日本 <s> 123\n";

}  // namespace

TEST_CASE("a text process gives the ids and the texts that the library gives", "[text][process]") {
    const auto process = started();
    const auto isolated = stories_in(process);
    const auto own = *text::Tokenizer::load(text_test::stories_folder());
    CHECK(isolated->vocabulary_size() == own->vocabulary_size());
    CHECK(isolated->bos() == own->bos());
    CHECK(isolated->eos() == own->eos());
    CHECK(isolated->token_of("<s>") == own->token_of("<s>"));
    CHECK(isolated->token_of("no such token") == std::nullopt);
    CHECK(isolated->text_bytes_per_token() == own->text_bytes_per_token());
    const std::vector<std::size_t> starts = {kText.find("<s>")};
    for (const bool parses : {false, true}) {
        for (const bool adds : {false, true}) {
            for (const auto& places : {std::vector<std::size_t>(), starts}) {
                const text::EncodeOptions options{.add_special = adds, .parse_special = parses, .text_starts = places};
                const auto ids = isolated->encode(kText, options);
                REQUIRE(ids);
                CHECK(*ids == *own->encode(kText, options));
                CHECK(isolated->decode(*ids) == own->decode(*ids));
            }
        }
    }
    const std::string source = "{{ bos }}{% for m in messages %}{{ m }}{{ strftime_now('%Y') }}{% endfor %}";
    const auto first = text::ChatTemplate::compile("{{ 1 }}", {}, process);
    const auto second = text::ChatTemplate::compile(source, {}, process);
    REQUIRE(first);
    REQUIRE(second);
    CHECK((*first)->render("{}", kNow) == "1");
    CHECK((*second)->render(R"({"bos": "<s>", "messages": ["a", "é"]})", kNow) == "<s>a2024é2024");
    const auto raised = text::ChatTemplate::compile("{{ raise_exception('no') }}", {}, process);
    CHECK((*raised)->render("{}", kNow).error().message == "no");
    CHECK_FALSE(text::ChatTemplate::compile("{% if %}", {}, process));
    CHECK_FALSE(isolated->encode("\xff"));
    CHECK(process->processes_lost() == 0);
}

TEST_CASE("a template for one call leaves nothing in its process", "[text][process]") {
    const auto process = started();
    const auto tokenizer = stories_in(process);
    const auto kept = text::ChatTemplate::compile("kept {{ x }}", {}, process);
    REQUIRE(kept);
    for (const bool is_apart : {true, false}) {
        CAPTURE(is_apart);
        const auto render = [&](std::string_view source, text::ChatTemplateLimits limits = {}) {
            return text::ChatTemplate::render_once(source, R"({"x": "é"})", kNow, limits, is_apart ? process : nullptr);
        };
        CHECK(render("{{ x }}{{ strftime_now('%Y') }}") == "é2024");
        CHECK(render("") == "");
        const auto broken = render("{% if %}");
        REQUIRE_FALSE(broken);
        CHECK(broken.error().code == base::ErrorCode::invalid_argument);
        CHECK(broken.error().message.starts_with("the chat template does not compile: "));
        CHECK(render("{{ raise_exception('no') }}").error().message == "no");
        const auto wrong = render("{{ missing.field }}");
        REQUIRE_FALSE(wrong);
        CHECK(wrong.error().message.starts_with(text::ChatTemplate::kTemplateFailed));
        const auto endless =
            render("{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
                   {.fuel = 1000});
        REQUIRE_FALSE(endless);
        CHECK(endless.error().code == base::ErrorCode::resource_exhausted);
        const auto long_one = render("{{ x }}", {.source_bytes_max = 3});
        REQUIRE_FALSE(long_one);
        CHECK(long_one.error().code == base::ErrorCode::resource_exhausted);
    }
    CHECK((*kept)->render(R"({"x": 1})", kNow) == "kept 1");
    CHECK(process->processes_lost() == 0);
}

// The sanitizers' own runtimes do not survive a bound of address space: they wait for themselves for ever.
#ifndef SLUICE_SANITIZED
TEST_CASE("a call that is too much for its process fails, says what ran out, and the next one is served",
          "[text][process]") {
    const auto process = started();
    const auto tokenizer = stories_in(process);
    const std::string plus = "{{ 1" + [] {
        std::string chain;
        for (int at = 0; at < 200'000; ++at) {
            chain += "+1";
        }
        return chain;
    }() + " }}";
    const auto deep = text::ChatTemplate::compile(plus, {}, process);
    const auto fine = text::ChatTemplate::compile("{{ x }}", {}, process);
    REQUIRE(fine);
    if (deep) { CHECK_FALSE((*deep)->render("{}", kNow)); }
    // On a busy machine 256 MiB may take longer than half a second: here memory runs out first.
    text::TextProcessOptions patient = small_bounds();
    patient.call_cpu = 60s;
    const auto patient_process = started(patient);
    const auto doubling = text::ChatTemplate::compile(
        "{% set ns = namespace(x='ab') %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", {},
        patient_process);
    const auto served = text::ChatTemplate::compile("{{ x }}", {}, patient_process);
    REQUIRE(served);
    const auto endless = text::ChatTemplate::compile(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
        {.fuel = std::uint64_t{1} << 60}, process);
    REQUIRE(doubling);
    REQUIRE(endless);
    const auto grown = (*doubling)->render("{}", kNow);
    REQUIRE_FALSE(grown);
    CHECK(grown.error().code == base::ErrorCode::resource_exhausted);
    CHECK(grown.error().message.find("256 MiB of memory") != std::string::npos);
    CHECK((*served)->render(R"({"x": "served"})", kNow) == "served");
    CHECK(patient_process->processes_lost() == 1);
    const auto stopped = (*endless)->render("{}", kNow);
    REQUIRE_FALSE(stopped);
    CHECK(stopped.error().code == base::ErrorCode::resource_exhausted);
    CHECK(stopped.error().message.find("500 ms of CPU time") != std::string::npos);
    CHECK((*fine)->render(R"({"x": "served"})", kNow) == "served");
    const auto once = text::ChatTemplate::render_once(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}", "{}", kNow,
        {.fuel = std::uint64_t{1} << 60}, process);
    REQUIRE_FALSE(once);
    CHECK(once.error().code == base::ErrorCode::resource_exhausted);
    CHECK((*fine)->render(R"({"x": "served"})", kNow) == "served");
    CHECK(tokenizer->encode(kText));
    CHECK(process->processes_lost() >= 1);
}
#endif

TEST_CASE("a grammar that is too much ends its process only", "[text][process]") {
    const auto process = started();
    const auto tokenizer = stories_in(process);
    const text::GrammarSource good{text::GrammarKind::json_schema, R"({"type":"object"})"};
    REQUIRE(tokenizer->check_grammar(good));
    std::string chain = "start: a0\n";
    for (int i = 0; i < 40'000; ++i) {
        chain += "a" + std::to_string(i) + ": a" + std::to_string(i + 1) + "\n";
    }
    chain += "a40000: \"x\"\n";
    const auto deep = tokenizer->check_grammar({text::GrammarKind::lark, chain});
    REQUIRE(!deep);
    CHECK(deep.error().code == base::ErrorCode::resource_exhausted);
    CHECK(process->processes_lost() == 1);
    const auto unknown = tokenizer->check_grammar({text::GrammarKind::json_schema, R"({"not":{}})"});
    REQUIRE(!unknown);
    CHECK(unknown.error().code == base::ErrorCode::invalid_argument);
    CHECK(unknown.error().message.find("not") != std::string::npos);
    REQUIRE(tokenizer->check_grammar(good));
}

TEST_CASE("a call that does not end holds up nobody else", "[text][process]") {
    const auto process = started();
    const auto endless = *text::ChatTemplate::compile(
        "{% for a in range(99999) %}{% for b in range(99999) %}{% set c = a %}{% endfor %}{% endfor %}",
        {.fuel = std::uint64_t{1} << 60}, process);
    const auto fine = *text::ChatTemplate::compile("{{ x }}", {}, process);
    std::jthread slow([&] { (void)endless->render("{}", kNow); });
    for (int round = 0; round < 100; ++round) {
        const auto rendered = fine->render(R"({"x": "served"})", kNow);
        REQUIRE(rendered);
    }
}

TEST_CASE("a text process that is lost is replaced", "[text][process]") {
    const auto process = started();
    const auto tokenizer = stories_in(process);
    const auto expected = tokenizer->encode(kText);
    REQUIRE(expected);
    for (const std::size_t which : {1u, 0u, 1u, 0u}) {  // the one that answers, and the host
        const auto ids = process->process_ids();
        REQUIRE(ids.size() == 2);
        REQUIRE(::kill(ids[which], SIGKILL) == 0);
        const auto lost = process->processes_lost();
        const auto deadline = std::chrono::steady_clock::now() + 60s;  // until the system has taken it away
        while (process->processes_lost() == lost && std::chrono::steady_clock::now() < deadline) {
            const auto again = tokenizer->encode(kText);
            REQUIRE(again);
            REQUIRE(*again == *expected);
        }
    }
    CHECK(process->processes_lost() == 4);
    for (const ::pid_t id : process->process_ids()) {  // both at once: nobody is left who has the vocabulary
        ::kill(id, SIGKILL);
    }
    const auto deadline = std::chrono::steady_clock::now() + 60s;
    auto ids = tokenizer->encode(kText);
    while (ids && std::chrono::steady_clock::now() < deadline) {
        ids = tokenizer->encode(kText);
    }
    REQUIRE_FALSE(ids);
    CHECK(ids.error().code == base::ErrorCode::unavailable);
}

TEST_CASE("signals for the server are not for its text processes", "[text][process]") {
    const auto process = started();
    const auto tokenizer = stories_in(process);
    REQUIRE(tokenizer->encode(kText));
    for (const ::pid_t id : process->process_ids()) {
        for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
            REQUIRE(::kill(id, signal) == 0);
        }
    }
    CHECK(tokenizer->encode(kText));
    CHECK(process->processes_lost() == 0);
}

TEST_CASE("a text process that cannot be started is said", "[text][process]") {
    const auto missing = text::TextProcess::start({.program = "/no/such/program"});
    REQUIRE_FALSE(missing);
    CHECK(missing.error().code == base::ErrorCode::unavailable);
    CHECK(missing.error().message.find("/no/such/program") != std::string::npos);
    CHECK_FALSE(text::TextProcess::start({.program = "/bin/true"}));
}

TEST_CASE("many threads use one text process", "[text][process]") {
    auto options = small_bounds();
    options.processes_max = 2;  // fewer than threads
    const auto process = started(options);
    const auto tokenizer = stories_in(process);
    const auto expected = *tokenizer->encode(kText);
    std::vector<int> wrong(4, 0);
    {
        std::vector<std::jthread> threads;
        for (std::size_t thread = 0; thread < wrong.size(); ++thread) {
            threads.emplace_back([&, thread] {
                for (int round = 0; round < 100; ++round) {
                    const auto ids = tokenizer->encode(kText);
                    wrong[thread] += !ids || *ids != expected ? 1 : 0;
                }
            });
        }
    }
    CHECK(wrong == std::vector<int>(4, 0));
    CHECK(process->process_ids().size() <= 3);
}

TEST_CASE("a text that cannot fit is refused by its length, with both numbers", "[text]") {
    const auto tokenizer = *text::Tokenizer::load(text_test::stories_folder());
    const std::uint64_t longest = tokenizer->text_bytes_per_token();
    const std::uint64_t read = longest > 0 ? longest : text::Tokenizer::kUnprovenBytesPerToken;
    CHECK(tokenizer->check_length(512 * read, 512));
    const auto refused = tokenizer->check_length(std::size_t{16} << 20, 512);
    REQUIRE_FALSE(refused);
    CHECK(refused.error().code == base::ErrorCode::resource_exhausted);
    CHECK(refused.error().message.find("16777216 bytes") != std::string::npos);
    CHECK(refused.error().message.find("512 tokens") != std::string::npos);
    CHECK_FALSE(tokenizer->encode(std::string(std::size_t{1} << 20, 'a'), {.tokens_max = 2}));
    CHECK_FALSE(tokenizer->encode("a b c d", {.tokens_max = 2}));
    CHECK(tokenizer->encode("a b c d", {.tokens_max = 64}));
}

TEST_CASE("no token stands for more bytes of a text than is promised", "[text][property]") {
    std::vector<std::filesystem::path> paths = {text_test::stories_folder()};
    if (const auto data = text_test::shared_data()) {
        for (const char* path :
             {"gpt2/tokenizer.json", "llama2/tokenizer.json", "llama2/tokenizer.model", "llama3/tokenizer.model",
              "phi3/tokenizer.json", "qwen2/qwen.tiktoken", "cl100k/cl100k_base.tiktoken", "bert/vocab_uncased.txt"}) {
            paths.push_back(*data / "tokenizers" / path);
        }
    }
    // Runs that compose, that are long tokens, that are dropped by some normalizers.
    const std::vector<std::string> pieces = {
        " ",      "\n",     "\t", "a",  "the", "▁",      "e\u0301", "\u1fbe\u0308\u0301",
        "\u212b", "\u00a0", "字", "😀", "-",   "\u200d", "<s>",     "ᄀ\u1161\u11a8"};
    std::size_t proven = 0;
    for (const auto& path : paths) {
        CAPTURE(path.string());
        const auto tokenizer = text::Tokenizer::load(path);
        REQUIRE(tokenizer);
        const std::uint64_t longest = (*tokenizer)->text_bytes_per_token();
        if (longest == 0) { continue; }
        ++proven;
        for (unsigned seed = 0; seed < 60; ++seed) {
            std::mt19937 random{seed};
            std::string written;
            while (written.size() < 3000) {
                const std::string& piece = pieces[random() % pieces.size()];
                for (auto times = 1 + random() % (seed % 3 == 0 ? 600 : 3); times > 0; --times) {
                    written += piece;
                }
            }
            const auto ids = (*tokenizer)->encode(written, {.parse_special = seed % 2 == 0});
            REQUIRE(ids);
            CHECK(ids->size() * longest >= written.size());
        }
    }
    CHECK((proven >= 5 || paths.size() == 1));
}

#ifndef SLUICE_SANITIZED
TEST_CASE("a prompt of ten million spaces is answered or refused, and names no place in a source", "[text][process]") {
    std::vector<std::filesystem::path> paths = {text_test::stories_folder()};
    if (const auto data = text_test::shared_data()) {
        for (const char* path : {"gpt2/tokenizer.json", "qwen2/qwen.tiktoken", "llama3/tokenizer.model"}) {
            paths.push_back(*data / "tokenizers" / path);
        }
    }
    const std::string spaces(10'000'000, ' ');
    for (const auto& path : paths) {
        CAPTURE(path.string());
        text::TextProcessOptions options{.program = TEXT_HOST_PROGRAM};
        options.call_memory_bytes = std::size_t{256} << 20;
        options.call_cpu = 2s;
        const auto tokenizer = text::Tokenizer::load(path, {.process = started(options)});
        REQUIRE(tokenizer);
        CHECK_FALSE((*tokenizer)->encode(spaces, {.parse_special = true, .tokens_max = 512}));  // by its length
        const auto ids = (*tokenizer)->encode(spaces, {.parse_special = true});
        CAPTURE(ids ? std::string("encoded") : ids.error().message);
        if (!ids) {
            CHECK(ids.error().code != base::ErrorCode::internal);
            CHECK(ids.error().message.find('/') == std::string::npos);
        }
        CHECK((*tokenizer)->encode("and the next one is served"));
    }
}
#endif
