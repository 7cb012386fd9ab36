#include "bench/serve.h"

#include <zlib.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>
#include <string>
#include <vector>

#include "tests/bench/scripted_server.h"
#include "tests/support/catch.h"

namespace {

/// Answers as a well-behaved server: two tokens a word, as many tokens as asked.
ScriptedServer::Reply answer(const ScriptedServer::Request& request) {
    if (request.target == "/v1/models") {
        return ScriptedServer::json(200, R"({"object":"list","data":[{"id":"tiny"}]})");
    }
    const auto body = boost::json::parse(request.body);
    const std::string text(body.at("messages").at(0).at("content").as_string());
    const auto words = static_cast<std::uint32_t>(std::count(text.begin(), text.end(), ' ') + 1);
    return ScriptedServer::events(ScriptedServer::chat_stream(
        2 * words + 3, static_cast<std::uint32_t>(body.at("max_completion_tokens").as_int64())));
}

class TemporaryFolder {
public:
    TemporaryFolder() {
        std::string pattern = (std::filesystem::temp_directory_path() / "sluice-bench-XXXXXX").string();
        REQUIRE(mkdtemp(pattern.data()) != nullptr);
        path_ = pattern;
    }
    ~TemporaryFolder() { std::filesystem::remove_all(path_); }
    std::filesystem::path operator/(const char* name) const { return path_ / name; }

private:
    std::filesystem::path path_;
};

boost::json::value read_json(const std::filesystem::path& path) {
    std::ifstream file(path);
    return boost::json::parse(std::string{std::istreambuf_iterator<char>(file), {}});
}

bench::ServeBenchOptions make_options(const ScriptedServer& server) {
    bench::ServeBenchOptions options;
    options.url = server.url();
    options.rate = 1000;
    options.requests = 10;
    options.prompt_tokens = 43;
    options.output_tokens = 5;
    options.quiet = true;
    return options;
}

}  // namespace

TEST_CASE("a whole run writes the figures and every request", "[bench]") {
    const TemporaryFolder folder;
    ScriptedServer server(answer);
    bench::ServeBenchOptions options = make_options(server);
    options.slo_ttft_ms = 1e6;
    options.slo_tpot_ms = 1e6;
    options.out_path = (folder / "out.json").string();
    REQUIRE(bench::bench_serve_main(options) == 0);
    const auto result = read_json(folder / "out.json");
    REQUIRE(result.at("model").as_string() == "tiny");
    REQUIRE(result.at("runs").as_array().size() == 1u);
    const auto& run = result.at("runs").at(0);
    REQUIRE(run.at("report").at("requests_ok").to_number<int>() == 10);
    REQUIRE(run.at("report").at("attainment").to_number<double>() == 1.0);
    REQUIRE(run.at("requests").as_array().size() == 10u);
    REQUIRE(run.at("requests").at(3).at("prompt_tokens").to_number<int>() ==
            43);  // fitted: 20 words of two tokens, and three
    REQUIRE(run.at("requests").at(3).at("itl_ms").as_array().size() == 4u);
    REQUIRE_FALSE(result.at("command").as_string().empty());
    REQUIRE(result.at("machine").at("cores").to_number<int>() > 0);
}

TEST_CASE("the search for the goodput runs several rates", "[bench]") {
    const TemporaryFolder folder;
    ScriptedServer server(answer);
    bench::ServeBenchOptions options = make_options(server);
    options.requests = 4;
    options.slo_ttft_ms = 1e6;
    options.find_goodput = true;
    options.rate_max = 2000;
    options.out_path = (folder / "out.json").string();
    REQUIRE(bench::bench_serve_main(options) == 0);
    const auto result = read_json(folder / "out.json");
    REQUIRE(result.at("runs").as_array().size() == 2u);
    REQUIRE(result.at("goodput_per_s").to_number<double>() == 2000.0);
}

TEST_CASE("a trace is replayed with its own lengths", "[bench]") {
    const TemporaryFolder folder;
    std::ofstream(folder / "trace.csv") << "arrival_s,input_tokens,output_tokens\n0,23,2\n0.001,43,6\n";
    ScriptedServer server(answer);
    bench::ServeBenchOptions options = make_options(server);
    options.trace_path = (folder / "trace.csv").string();
    options.requests = 0;
    options.out_path = (folder / "out.json").string();
    REQUIRE(bench::bench_serve_main(options) == 0);
    const auto rows = read_json(folder / "out.json").at("runs").at(0).at("requests").as_array();
    REQUIRE(rows.size() == 2u);
    REQUIRE(rows[0].at("prompt_tokens").to_number<int>() == 23);
    REQUIRE(rows[1].at("output_tokens").to_number<int>() == 6);
}

TEST_CASE("options that contradict each other are refused before anything is sent", "[bench]") {
    std::atomic<int> received{0};
    ScriptedServer server([&](const ScriptedServer::Request&) {
        ++received;
        return ScriptedServer::Reply{};
    });
    bench::ServeBenchOptions options = make_options(server);
    SECTION("token ids for chat") {
        options.token_ids = true;
    }
    SECTION("a search without targets") {
        options.find_goodput = true;
    }
    SECTION("not a URL") {
        options.url = "localhost";
    }
    SECTION("an empty range of token ids") {
        options.token_id_first = 9;
        options.token_id_last = 8;
    }
    REQUIRE(bench::bench_serve_main(options) == 2);
    REQUIRE(received == 0);
}

TEST_CASE("a server that refuses the first request ends the run with status 1", "[bench]") {
    ScriptedServer server([](const ScriptedServer::Request& request) {
        if (request.target == "/v1/models") { return ScriptedServer::json(200, R"({"data":[{"id":"tiny"}]})"); }
        return ScriptedServer::json(404, R"({"error":{"message":"no such route"}})");
    });
    REQUIRE(bench::bench_serve_main(make_options(server)) == 1);
}

TEST_CASE("the API key is sent as a bearer token", "[bench]") {
    ScriptedServer server([](const ScriptedServer::Request& request) {
        if (request.authorization != "Bearer secret") { return ScriptedServer::json(401, "{}"); }
        return answer(request);
    });
    bench::ServeBenchOptions options = make_options(server);
    REQUIRE(bench::bench_serve_main(options) == 1);
    options.api_key = "secret";
    REQUIRE(bench::bench_serve_main(options) == 0);
}

TEST_CASE("flags of the command line reach the options", "[bench]") {
    CLI::App app;
    bench::ServeBenchOptions options;
    bench::add_bench_serve(app, options);
    app.parse(
        "--url http://h:1 --rate 2.5 --slo-ttft-ms 200 --no-ignore-eos --find-goodput --endpoint completions "
        "--token-ids");
    REQUIRE(options.url == "http://h:1");
    REQUIRE(options.rate == 2.5);
    REQUIRE(*options.slo_ttft_ms == 200);
    REQUIRE_FALSE(options.ignore_eos);
    REQUIRE(options.find_goodput);
    REQUIRE(options.token_ids);
}

TEST_CASE("the names of vLLM's flags are understood", "[bench]") {
    CLI::App app;
    bench::ServeBenchOptions options;
    bench::add_bench_serve(app, options);
    app.parse(
        "--goodput ttft:200 tpot:50 e2el:5000 --request-rate 3 --num-prompts 7 --max-concurrency 9 "
        "--sweep-request-rate 1,2 4 --steady-state --result-block");
    REQUIRE(options.goodput == std::vector<std::string>{"ttft:200", "tpot:50", "e2el:5000"});
    REQUIRE(options.rate == 3);
    REQUIRE(options.requests == 7u);
    REQUIRE(options.in_flight_max == 9u);
    REQUIRE(options.sweep_rates == std::vector<double>{1, 2, 4});
    REQUIRE(options.steady_state);
    REQUIRE(options.result_block);
}

TEST_CASE("turns of a conversation hold the answers before them, and wait for them", "[bench]") {
    const TemporaryFolder folder;
    std::mutex mutex;
    std::multiset<std::size_t> lengths;  // messages of each request
    std::atomic<bool> has_answers{true};
    ScriptedServer server([&](const ScriptedServer::Request& request) {
        if (request.target != "/v1/models") {
            const auto messages = boost::json::parse(request.body).at("messages").as_array();
            const std::scoped_lock lock(mutex);
            lengths.insert(messages.size());
            for (std::size_t i = 1; i < messages.size(); i += 2) {
                has_answers = has_answers && messages[i].at("role").as_string() == "assistant" &&
                              messages[i].at("content").as_string() == "word word word word word ";
            }
        }
        return answer(request);
    });
    bench::ServeBenchOptions options = make_options(server);
    options.requests = 6;
    options.turns = 3;
    options.think_s = 0.001;
    options.warmup = 0;
    options.out_path = (folder / "out.json").string();
    REQUIRE(bench::bench_serve_main(options) == 0);
    REQUIRE(has_answers);
    REQUIRE(lengths == std::multiset<std::size_t>{1, 1, 1, 1, 3, 3, 5, 5});  // two of them are probes
    const auto rows = read_json(folder / "out.json").at("runs").at(0).at("requests").as_array();
    REQUIRE(rows.size() == 6u);
    for (const std::size_t turn : {1u, 2u, 4u, 5u}) {
        REQUIRE(rows[turn].at("due_s").as_double() >= rows[turn - 1].at("end_s").as_double());
        REQUIRE(rows[turn].at("session").to_number<int>() == rows[turn - 1].at("session").to_number<int>());
    }
}

TEST_CASE("what follows a failed turn is not sent and counts as failed", "[bench]") {
    const TemporaryFolder folder;
    ScriptedServer server([&](const ScriptedServer::Request& request) {
        if (request.target != "/v1/models" && boost::json::parse(request.body).at("messages").as_array().size() == 3) {
            return ScriptedServer::json(429, R"({"error":{"message":"full"}})");
        }
        return answer(request);
    });
    bench::ServeBenchOptions options = make_options(server);
    options.requests = 4;
    options.turns = 4;
    options.think_s = 0;
    options.out_path = (folder / "out.json").string();
    REQUIRE(bench::bench_serve_main(options) == 0);
    const auto report = read_json(folder / "out.json").at("runs").at(0).at("report");
    REQUIRE(report.at("requests_ok").to_number<int>() == 1);
    REQUIRE(report.at("errors").at("http_429").to_number<int>() == 1);
    REQUIRE(report.at("errors").at("not_sent").to_number<int>() == 2);
    REQUIRE(report.at("failed").to_number<int>() == 3);
}

TEST_CASE("a sweep runs every rate, with targets in vLLM's form and figures under its names", "[bench]") {
    const TemporaryFolder folder;
    ScriptedServer server(answer);
    bench::ServeBenchOptions options = make_options(server);
    options.requests = 5;
    options.sweep_rates = {500, 1000};
    options.goodput = {"ttft:1000000", "e2el:0.000001"};
    options.steady_state = true;
    options.result_block = true;
    options.out_path = (folder / "out.json").string();
    REQUIRE(bench::bench_serve_main(options) == 0);
    const auto result = read_json(folder / "out.json");
    REQUIRE(result.at("slo_e2el_ms").as_double() == Approx(0.000001));
    REQUIRE(result.at("runs").as_array().size() == 2u);
    const auto& run = result.at("runs").at(1);
    REQUIRE(run.at("rate").to_number<double>() == 1000);
    REQUIRE(run.at("report").at("request_rate").to_number<double>() == 1000);
    REQUIRE(run.at("report").at("completed").to_number<int>() == 5);
    REQUIRE(run.at("report").at("request_goodput").to_number<double>() == 0);
    REQUIRE(run.at("report").at("attainment").to_number<double>() == 0);
    REQUIRE(run.at("report").at("generator_cpu_s").to_number<double>() > 0);
}

TEST_CASE("a trace of conversations, compressed, is replayed turn by turn with its prefixes", "[bench]") {
    const TemporaryFolder folder;
    const std::string path = (folder / "trace.jsonl.gz").string();
    const std::string text = R"({"conv":"a","block_size":64}
{"conv":"a","agent":[],"in":640,"out":160,"think":0,"keep":0,"new":[[1,10]]}
{"conv":"a","agent":[],"in":960,"out":96,"think":0.001,"keep":10,"new":[[11,5]]}
)";
    const gzFile file = gzopen(path.c_str(), "wb");
    REQUIRE(gzwrite(file, text.data(), static_cast<unsigned>(text.size())) == static_cast<int>(text.size()));
    gzclose(file);
    std::mutex mutex;
    std::vector<std::string> prompts;
    ScriptedServer server([&](const ScriptedServer::Request& request) {
        if (request.target != "/v1/models") {
            const std::scoped_lock lock(mutex);
            prompts.emplace_back(boost::json::parse(request.body).at("messages").at(0).at("content").as_string());
        }
        return answer(request);
    });
    bench::ServeBenchOptions options = make_options(server);
    options.trace_path = path;
    options.requests = 0;
    options.warmup = 0;
    options.length_divisor = 16;
    options.out_path = (folder / "out.json").string();
    REQUIRE(bench::bench_serve_main(options) == 0);
    const auto rows = read_json(folder / "out.json").at("runs").at(0).at("requests").as_array();
    REQUIRE(rows.size() == 2u);
    REQUIRE(rows[1].at("output_tokens").to_number<int>() == 6);
    REQUIRE(prompts.size() == 4u);  // two of them are probes
    REQUIRE(prompts[3].starts_with(prompts[2]));
}

TEST_CASE("targets, rates and turns that contradict each other are refused", "[bench]") {
    ScriptedServer server(answer);
    bench::ServeBenchOptions options = make_options(server);
    SECTION("targets twice") {
        options.goodput = {"ttft:1"};
        options.slo_tpot_ms = 1;
    }
    SECTION("targets that are none") {
        options.goodput = {"ttft=1"};
    }
    SECTION("a search and a sweep") {
        options.goodput = {"ttft:1"};
        options.find_goodput = true;
        options.sweep_rates = {1};
    }
    SECTION("turns of token ids") {
        options.endpoint = "completions";
        options.token_ids = true;
        options.turns = 2;
    }
    REQUIRE(bench::bench_serve_main(options) == 2);
}
