#include "bench/vllm_form.h"

#include <algorithm>
#include <boost/json.hpp>
#include <string>
#include <vector>

#include "bench/length_source.h"

#include "tests/support/catch.h"

namespace {

using bench::RequestRecord;
using bench::Seconds;

RequestRecord make_record(double due, double ttft, double gap, std::uint32_t tokens) {
    RequestRecord record;
    record.due = record.sent = Seconds(due);
    for (std::uint32_t i = 0; i < tokens; ++i) {
        record.token_times.push_back(Seconds(due + ttft + gap * i));
    }
    record.end = record.token_times.back();
    record.prompt_tokens = 10;
    record.output_tokens = tokens;
    return record;
}

std::vector<std::string> lines_of(const std::string& text) {
    std::vector<std::string> lines;
    std::size_t begin = 0;
    for (std::size_t end = 0; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1) {
        lines.push_back(text.substr(begin, end - begin));
    }
    return lines;
}

}  // namespace

TEST_CASE("targets are read in vLLM's form", "[bench]") {
    const auto targets = bench::parse_goodput(std::vector<std::string>{"ttft:200", "e2el:5000.5"});
    REQUIRE(targets);
    REQUIRE(targets->ttft == Seconds(0.2));
    REQUIRE_FALSE(targets->tpot);
    REQUIRE(targets->end_to_end->count() == Approx(5.0005));
    REQUIRE_FALSE(bench::parse_goodput({})->is_any());
    for (const char* bad : {"ttft", "ttft:", "ttft:x", "ttft:-1", "ttft:0", "itl:5", "ttft:5 ", ":5", "ttft:nan"}) {
        CAPTURE(bad);
        const auto refused = bench::parse_goodput(std::vector<std::string>{bad});
        REQUIRE_FALSE(refused);
        REQUIRE(refused.error().code == base::ErrorCode::invalid_argument);
        REQUIRE(refused.error().message.find(bad) != std::string::npos);
    }
    REQUIRE_FALSE(bench::parse_goodput(std::vector<std::string>{"ttft:1", "ttft:2"}));
}

TEST_CASE("a request that ends too late misses the third target", "[bench]") {
    const RequestRecord record = make_record(1, 0.1, 0.01, 11);  // ends 0.2 s after it was due
    REQUIRE(meets({.end_to_end = Seconds(0.21)}, record));
    REQUIRE_FALSE(meets({.ttft = Seconds(1), .end_to_end = Seconds(0.19)}, record));
}

TEST_CASE("figures have vLLM's names, and its block of results", "[bench]") {
    const bench::SloTargets targets{.ttft = Seconds(0.15)};
    const std::vector<RequestRecord> records{make_record(0, 0.1, 0.01, 11), make_record(1, 0.3, 0.02, 11)};
    const bench::Report report = bench::make_report(records, targets);
    const bench::VllmRun run{.model = "m", .request_rate = 4.0, .concurrency_max = {}, .targets = targets};
    const auto fields = bench::vllm_json(report, run);
    REQUIRE(fields.at("completed").as_uint64() == 2u);
    REQUIRE(fields.at("failed").as_uint64() == 0u);
    REQUIRE(fields.at("total_input_tokens").as_uint64() == 20u);
    REQUIRE(fields.at("total_output_tokens").as_uint64() == 22u);
    REQUIRE(fields.at("duration").as_double() == Approx(1.5));
    REQUIRE(fields.at("request_goodput").as_double() == Approx(1 / 1.5));
    REQUIRE(fields.at("mean_ttft_ms").as_double() == Approx(200));
    REQUIRE(fields.at("std_ttft_ms").as_double() == Approx(100));
    REQUIRE(fields.at("median_tpot_ms").as_double() == Approx(15));
    REQUIRE(fields.at("p99_e2el_ms").as_double() == Approx(497).epsilon(0.01));
    REQUIRE(fields.at("max_concurrency").is_null());

    const auto lines = lines_of(bench::vllm_text(report, run));
    REQUIRE(lines.front() == "============ Serving Benchmark Result ============");
    REQUIRE(lines.back() == std::string(50, '='));
    const auto has = [&](const std::string& line) {
        return std::find(lines.begin(), lines.end(), line) != lines.end();
    };
    REQUIRE(has("Successful requests:                     2         "));
    REQUIRE(has("Request rate configured (RPS):           4.00      "));
    REQUIRE(has("---------------Time to First Token----------------"));
    REQUIRE(has("-----Time per Output Token (excl. 1st token)------"));
    REQUIRE(has("Mean TTFT (ms):                          200.00    "));
}

TEST_CASE("the steady part begins with the first answer and ends with the last request", "[bench]") {
    std::vector<RequestRecord> records;
    for (int i = 0; i < 11; ++i) {
        records.push_back(make_record(i, 2.0, 0.1, 11));  // each ends three seconds after it was due
    }
    const auto window = bench::steady_window(records);
    REQUIRE(window);
    REQUIRE(window->begin == Seconds(3));
    REQUIRE(window->end == Seconds(10));
    const bench::Report steady = bench::make_steady_report(records, {.ttft = Seconds(2.5)}, *window);
    REQUIRE(steady.requests == 7u);                // due at 3 .. 9
    REQUIRE(steady.completed_per_s == Approx(1));  // ended at 3 .. 9
    REQUIRE(steady.goodput_per_s == Approx(1));
    REQUIRE(steady.output_tokens_per_s == Approx(11).epsilon(0.02));
    REQUIRE(bench::make_report(records, {}).completed_per_s == Approx(11 / 13.0));
    REQUIRE(bench::make_report(records, {}).in_flight_max == 3u);
    REQUIRE_FALSE(bench::steady_window({}));
    REQUIRE_FALSE(bench::steady_window(std::vector{make_record(0, 1, 0.1, 5)}));
}

TEST_CASE("lengths are drawn from ShareGPT's form, with its texts", "[bench]") {
    const auto samples = bench::parse_lengths(R"([
        {"id":"1","conversations":[{"from":"human","value":"one two three"},{"from":"gpt","value":"a b c d e"}]},
        {"id":"2","conversations":[{"from":"gpt","value":"no person first"},{"from":"gpt","value":"x"}]},
        {"id":"3","conversations":[{"from":"human","value":"alone"}]},
        {"id":"4","conversations":[{"from":"user","value":"w w w w w w w w w w"},{"from":"assistant","value":"y"}]}])");
    REQUIRE(samples);
    REQUIRE(samples->size() == 2u);
    std::vector<bench::PlannedRequest> plan(20);
    const bench::WordLength twice{.tokens_fixed = 1, .tokens_per_word = 2};
    const auto texts = bench::draw_lengths(plan, *samples, {.word_length = twice, .seed = 5});
    REQUIRE(texts);
    REQUIRE(texts->size() == 20u);
    bool has_both[2] = {};
    for (std::size_t i = 0; i < plan.size(); ++i) {
        const bool is_first = (*texts)[i] == "one two three";
        has_both[is_first ? 0 : 1] = true;
        REQUIRE(plan[i].prompt_tokens == (is_first ? 7u : 21u));
        REQUIRE(plan[i].output_tokens == (is_first ? 10u : 2u));
    }
    REQUIRE((has_both[0] && has_both[1]));
    const auto short_ones = bench::draw_lengths(plan, *samples, {.word_length = twice, .prompt_tokens_max = 10});
    REQUIRE(
        std::all_of(short_ones->begin(), short_ones->end(), [](const auto& one) { return one == "one two three"; }));
    REQUIRE_FALSE(bench::draw_lengths(plan, *samples, {.word_length = twice, .prompt_tokens_max = 3}));
}

TEST_CASE("lengths are drawn from CSV and divided", "[bench]") {
    const auto samples = bench::parse_lengths("arrival_s,input_tokens,output_tokens\r\n0.5,800,80\r\n1.5,1600,7\r\n");
    REQUIRE(samples);
    std::vector<bench::PlannedRequest> plan(30);
    const auto texts = bench::draw_lengths(plan, *samples, {.word_length = {}, .divisor = 8, .output_tokens_max = 9});
    REQUIRE(texts);
    REQUIRE(texts->empty());
    for (const bench::PlannedRequest& request : plan) {
        REQUIRE((request.prompt_tokens == 100u || request.prompt_tokens == 200u));
        REQUIRE(request.output_tokens == (request.prompt_tokens == 100 ? 9u : 1u));
    }
    for (const char* bad : {"", "a,b\n1,2\n", "input_tokens,output_tokens\n1,x\n", "input_tokens,output_tokens\n",
                            "[1]", "[{\"conversations\":[]}]", "[{\"conversations\":"}) {
        CAPTURE(bad);
        REQUIRE_FALSE(bench::parse_lengths(bad));
    }
}
