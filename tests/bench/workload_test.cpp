#include "bench/workload.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "bench/trace_row.h"

#include "tests/support/catch.h"

using bench::PlannedRequest;
using bench::PromptMaker;

TEST_CASE("Poisson arrivals have the asked mean rate and the spread of an exponential", "[bench]") {
    const auto plan = bench::plan_synthetic({.rate = 5, .requests = 20000, .seed = 42});
    double sum = 0;
    double sum_squares = 0;
    bench::Seconds last{};
    for (const PlannedRequest& request : plan) {
        const double gap = (request.due - last).count();
        REQUIRE(gap >= 0);
        sum += gap;
        sum_squares += gap * gap;
        last = request.due;
    }
    const double mean = sum / 20000;
    REQUIRE(mean == Approx(0.2).epsilon(0.03));
    REQUIRE(std::sqrt(sum_squares / 20000 - mean * mean) / mean == Approx(1).epsilon(0.05));
}

TEST_CASE("a plan repeats with its seed and differs with another", "[bench]") {
    const bench::SyntheticWorkload workload{.requests = 50, .seed = 7, .length_spread = 0.5};
    const auto a = bench::plan_synthetic(workload);
    const auto b = bench::plan_synthetic(workload);
    bench::SyntheticWorkload other = workload;
    other.seed = 8;
    const auto c = bench::plan_synthetic(other);
    for (std::size_t i = 0; i < a.size(); ++i) {
        REQUIRE(a[i].due == b[i].due);
        REQUIRE(a[i].prompt_tokens == b[i].prompt_tokens);
        REQUIRE(a[i].prompt_tokens >= 64u);
        REQUIRE(a[i].prompt_tokens <= 192u);
    }
    REQUIRE(a.front().due != c.front().due);
}

TEST_CASE("constant arrivals are evenly spaced", "[bench]") {
    const auto plan = bench::plan_synthetic({.arrival = bench::Arrival::constant, .rate = 4, .requests = 3});
    REQUIRE(plan[0].due.count() == Approx(0.25));
    REQUIRE(plan[2].due.count() == Approx(0.75));
}

TEST_CASE("both forms of a trace are read, put in order and moved to zero", "[bench]") {
    const std::string json =
        "{\"timestamp\": 3000, \"input_length\": 100, \"output_length\": 5, \"hash_ids\": [1]}\n"
        "{\"timestamp\": 1000, \"input_length\": 7000, \"output_length\": 0}\n\n";
    const std::string csv = "row,arrival_s,input_tokens,output_tokens\r\n0,3.0,100,5\r\n1,1.0,7000,0\r\n";
    for (const std::string& text : {json, csv}) {
        CAPTURE(text);
        const auto plan = bench::parse_trace(text, {.time_scale = 0.5, .prompt_tokens_max = 500});
        REQUIRE(plan.has_value());
        REQUIRE(plan->size() == 2u);
        REQUIRE((*plan)[0].due.count() == 0);
        REQUIRE((*plan)[0].prompt_tokens == 500u);
        REQUIRE((*plan)[0].output_tokens == 1u);
        REQUIRE((*plan)[1].due.count() == Approx(1));
    }
    REQUIRE(bench::parse_trace(json, {.requests = 1})->size() == 1u);
}

TEST_CASE("a trace that cannot be read names the line", "[bench]") {
    const auto bad_json =
        bench::parse_trace("{\"timestamp\":1,\"input_length\":1,\"output_length\":1}\n{\"timestamp\":2}\n", {});
    REQUIRE_FALSE(bad_json.has_value());
    REQUIRE(bad_json.error().message.find("line 2") != std::string::npos);
    const auto bad_csv = bench::parse_trace("arrival_s,input_tokens,output_tokens\n1,2,x\n", {});
    REQUIRE(bad_csv.error().message.find("line 2") != std::string::npos);
    for (const char* text : {"", "\n\n", "a,b,c\n1,2,3\n", "arrival_s,input_tokens,output_tokens\n",
                             "{\"timestamp\":1,\"input_length\":-4,\"output_length\":1}"}) {
        CAPTURE(text);
        REQUIRE(bench::parse_trace(text, {}).error().code == base::ErrorCode::invalid_argument);
    }
}

TEST_CASE("token id prompts are exactly as long as asked and within their range", "[bench]") {
    PromptMaker maker(
        {.seed = 1, .token_ids = true, .token_id_first = 5, .token_id_last = 9, .shared_prefix_tokens = 20});
    const auto a = std::get<std::vector<std::int32_t>>(maker.make(64));
    const auto b = std::get<std::vector<std::int32_t>>(maker.make(64));
    REQUIRE(a.size() == 64u);
    REQUIRE(std::all_of(a.begin(), a.end(), [](std::int32_t id) { return id >= 5 && id <= 9; }));
    REQUIRE(std::equal(a.begin(), a.begin() + 20, b.begin()));
    REQUIRE(a != b);
}

TEST_CASE("text prompts have as many words as the tokenizer's measure says", "[bench]") {
    const bench::WordLength length = bench::fit_word_length(16, 42, 64, 138);  // 2 tokens a word, 10 for the template
    REQUIRE(length.tokens_per_word == Approx(2));
    REQUIRE(length.tokens_fixed == Approx(10));
    PromptMaker maker({.seed = 3, .word_length = length, .shared_prefix_tokens = 30});
    const auto a = std::get<std::string>(maker.make(50));
    const auto b = std::get<std::string>(maker.make(50));
    REQUIRE(std::count(a.begin(), a.end(), ' ') == 19);
    REQUIRE(a != b);
    std::size_t same = 0;
    while (same < std::min(a.size(), b.size()) && a[same] == b[same]) {
        ++same;
    }
    REQUIRE(std::count(a.begin(), a.begin() + static_cast<std::ptrdiff_t>(same), ' ') >= 10);
}

TEST_CASE("probes that tell nothing leave the default length of a word", "[bench]") {
    REQUIRE(bench::fit_word_length(16, 0, 64, 0).tokens_per_word == Approx(1.3));
    REQUIRE(bench::fit_word_length(16, 50, 64, 40).tokens_per_word == Approx(1.3));
}

TEST_CASE("prompts of a file are lines or JSON lines and are taken in turn", "[bench]") {
    const auto prompts = bench::parse_prompts("plain text\n\n{\"prompt\": \"from JSON\"}\n");
    REQUIRE(prompts.has_value());
    PromptMaker maker({.texts = *prompts});
    REQUIRE(std::get<std::string>(maker.make(1)) == "plain text");
    REQUIRE(std::get<std::string>(maker.make(1)) == "from JSON");
    REQUIRE(std::get<std::string>(maker.make(1)) == "plain text");
    REQUIRE_FALSE(bench::parse_prompts("{\"text\": 1}").has_value());
    REQUIRE_FALSE(bench::parse_prompts("{broken").has_value());
    REQUIRE_FALSE(bench::parse_prompts("\n").has_value());
}

TEST_CASE("names of blocks come from the trace where they are asked for", "[bench][workload]") {
    const std::string text =
        R"({"timestamp": 0, "input_length": 1500, "output_length": 3, "hash_ids": [7, 8, 40]})"
        "\n"
        R"({"timestamp": 5, "input_length": 30, "output_length": 3, "hash_ids": [1, 2], "block_tokens": 16})"
        "\n"
        R"({"timestamp": 9, "input_length": 30, "output_length": 3})";
    const auto plan = bench::parse_trace(text, {.with_blocks = true});
    REQUIRE(plan.has_value());
    CHECK((*plan)[0].blocks == std::vector<bench::BlockRun>{{7, 2}, {40, 1}});
    CHECK((*plan)[0].block_tokens == bench::kTraceBlockTokens);
    CHECK((*plan)[1].blocks == std::vector<bench::BlockRun>{{1, 2}});
    CHECK((*plan)[1].block_tokens == 16);
    CHECK((*plan)[2].blocks.empty());
    CHECK((*bench::parse_trace(text, {}))[0].blocks.empty());
    for (const char* bad : {"[-1]", "[1.5]", "7", "[\"a\"]"}) {
        CAPTURE(bad);
        const std::string line =
            std::string(R"({"timestamp": 0, "input_length": 1, "output_length": 1, "hash_ids": )") + bad + "}";
        CHECK(!bench::parse_trace(line, {.with_blocks = true}).has_value());
    }
}

TEST_CASE("a row of plain numbers is read as any other row is", "[bench][workload]") {
    std::mt19937 random(11);
    const auto number = [&] {
        std::string text = std::to_string(random() % (random() % 2 == 0 ? 20 : 2'000'000'000));
        if (random() % 2 == 0) { text += "." + std::to_string(random() % 100'000); }
        return text;
    };
    const auto space = [&] {
        return std::string(random() % 3 == 0 ? random() % 3 : 0, random() % 2 == 0 ? ' ' : '\t');
    };
    for (int i = 0; i < 2000; ++i) {
        std::vector<std::string> fields{"\"timestamp\"" + space() + ":" + space() + number(),
                                        "\"input_length\":" + space() + number(),
                                        "\"output_length\":" + number() + space()};
        if (random() % 2 == 0) {
            std::string ids;
            for (auto left = random() % 6; left > 0; --left) {
                ids += std::to_string(random() % 50) + (left > 1 ? "," + space() : "");
            }
            fields.push_back("\"hash_ids\": [" + ids + "]" + space());
        }
        if (random() % 3 == 0) { fields.push_back("\"block_tokens\": " + std::to_string(1 + random() % 600)); }
        std::shuffle(fields.begin(), fields.end(), random);
        std::string plain;
        for (const std::string& field : fields) {
            plain += (plain.empty() ? "" : "," + space()) + field;
        }
        const bool with_blocks = random() % 4 != 0;
        // A text in it, and the row goes another way.
        const auto one = bench::json_row("{" + plain + "}", with_blocks);
        const auto other = bench::json_row("{\"name\": \"x\", " + plain + "}", with_blocks);
        CAPTURE(plain);
        REQUIRE(one.has_value());
        REQUIRE(other.has_value());
        CHECK(one->arrival_s == other->arrival_s);  // to the last bit
        CHECK(one->prompt_tokens == other->prompt_tokens);
        CHECK(one->output_tokens == other->output_tokens);
        CHECK(one->blocks == other->blocks);
        CHECK(one->block_tokens == other->block_tokens);
    }
}

TEST_CASE("what is not quite a plain row is read by the rules of JSON", "[bench][workload]") {
    const auto time_of = [](const std::string& number) {
        const auto row =
            bench::json_row(R"({"timestamp": )" + number + R"(, "input_length": 1, "output_length": 1})", true);
        return row ? row->arrival_s * 1e3 : -1;
    };
    CHECK(time_of("12") == 12);
    CHECK(time_of("1.5e3") == Approx(1500));
    CHECK(time_of("123456789012345678") == Approx(123456789012345678.0));
    CHECK(time_of("0.1234567890123456789") == Approx(0.1234567890123456789));
    for (const char* bad : {"012", "1.", ".5", "1.5.5", "+1", "1 2", "\"1\"", "[1]", ""}) {
        CAPTURE(bad);
        CHECK(time_of(bad) == -1);
    }
    for (const char* bad :
         {R"({"timestamp": 1, "input_length": 1, "output_length": 1)",
          R"({"timestamp": 1, "input_length": 1, "output_length": 1} 2)",
          R"({"timestamp": 1, "input_length": 1, "output_length": 1,})", R"({"timestamp": 1, "input_length": 1})",
          R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [1,]})",
          R"({"timestamp": 1, "input_length": 1, "output_length": 1, "hash_ids": [1], "block_tokens": 0})"}) {
        CAPTURE(bad);
        CHECK_FALSE(bench::json_row(bad, true).has_value());
    }
    // Names with escapes, and names that come twice.
    CHECK(bench::json_row(R"({"\u0074imestamp": 1, "input_length": 2, "output_length": 1})", true).has_value());
    CHECK(bench::json_row(R"({"timestamp": 1, "input_length": 2, "input_length": 3, "output_length": 1})", true)
              ->prompt_tokens == 3);
}
