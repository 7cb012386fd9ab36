// What the boundary of a text process costs a request: `text_process_tests "[cost]"` prints it; no test on ordinary
// days.
#include <sys/resource.h>
#include <time.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/catch.h"
#include "tests/text/text_data.h"
#include "text/chat_template.h"
#include "text/text_process.h"
#include "text/tokenizer.h"

namespace {

constexpr text::CivilTime kNow{.year = 2024, .month = 7, .day = 26, .hour = 13, .minute = 5, .second = 9};

double cpu_us(clockid_t clock) {
    timespec time{};
    if (clock_gettime(clock, &time) != 0) { return 0.0; }
    return static_cast<double>(time.tv_sec) * 1e6 + static_cast<double>(time.tv_nsec) * 1e-3;
}

/// CPU time of this process and of those that work for it.
double cpu_us(const text::TextProcess& process) {
    double sum = cpu_us(CLOCK_PROCESS_CPUTIME_ID);
    for (const ::pid_t id : process.process_ids()) {
        clockid_t clock{};
        if (clock_getcpuclockid(id, &clock) == 0) { sum += cpu_us(clock); }
    }
    return sum;
}

}  // namespace

TEST_CASE("what a text process costs a request", "[.][cost]") {
    const auto data = text_test::shared_data();
    if (!data) { return text_test::skipped("no shared data"); }
    std::vector<std::string> contexts;
    for (const auto& row : text_test::rows_of(*data / "prompts" / "mt_bench_questions.jsonl")) {
        const boost::json::object message{{"role", "user"}, {"content", row.at("turns").as_array()[0]}};
        contexts.push_back(boost::json::serialize(boost::json::object{
            {"messages", boost::json::array{message}}, {"add_generation_prompt", true}, {"bos_token", "<s>"}}));
    }
    REQUIRE_FALSE(contexts.empty());
    const auto process = *text::TextProcess::start({.program = TEXT_HOST_PROGRAM});
    const auto path = *data / "tokenizers" / "gpt2" / "tokenizer.json";
    const std::string source =
        text_test::bytes_of(text_test::own_data() / "chat_templates" / "qwen2.5-7b-instruct.jinja");
    REQUIRE_FALSE(source.empty());
    const std::shared_ptr<const text::Tokenizer> tokenizers[] = {*text::Tokenizer::load(path),
                                                                 *text::Tokenizer::load(path, {.process = process})};
    const std::shared_ptr<const text::ChatTemplate> templates[] = {*text::ChatTemplate::compile(source),
                                                                   *text::ChatTemplate::compile(source, {}, process)};
    for (const std::size_t repeat : {1u, 40u}) {  // a question, and one of forty times its length
        std::size_t bytes = 0;
        std::vector<double> walls[2], cpus[2];
        for (int round = 0; round < 6; ++round) {
            for (const std::size_t which : {0u, 1u}) {
                const double cpu = cpu_us(*process);
                const auto begin = std::chrono::steady_clock::now();
                bytes = 0;
                for (const std::string& context : contexts) {
                    const auto prompt = templates[which]->render(context, kNow);
                    REQUIRE(prompt);
                    std::string text;
                    for (std::size_t at = 0; at < repeat; ++at) {
                        text += *prompt;
                    }
                    bytes += text.size();
                    REQUIRE(tokenizers[which]->encode(text, {.parse_special = true}));
                }
                if (round == 0) { continue; }  // warms caches
                const std::chrono::duration<double, std::micro> wall = std::chrono::steady_clock::now() - begin;
                walls[which].push_back(wall.count() / static_cast<double>(contexts.size()));
                cpus[which].push_back((cpu_us(*process) - cpu) / static_cast<double>(contexts.size()));
            }
        }
        for (const std::size_t which : {0u, 1u}) {
            std::sort(walls[which].begin(), walls[which].end());
            std::sort(cpus[which].begin(), cpus[which].end());
            std::printf("%zu bytes, %s: CPU %.0f us (%.0f to %.0f), wall %.0f us a request\n", bytes / contexts.size(),
                        which == 0 ? "in the process " : "behind the wall", cpus[which][2], cpus[which][0],
                        cpus[which][4], walls[which][2]);
        }
    }
}
