#include <zlib.h>

#include <algorithm>
#include <boost/json.hpp>
#include <cstdlib>
#include <filesystem>
#include <iostream>
#include <memory>

#include "sim/percentile.h"
#include "sim/replay_files.h"

#include "tests/support/catch.h"

// The predicted run beside the measured one (LLMServingSim's run of vLLM 0.19: Llama-3.1-8B, one RTX PRO 6000).

namespace {

std::string profiles() {
    const char* configured = std::getenv("SLUICE_SHARED");
    return std::string(configured != nullptr ? configured : SLUICE_SOURCE_DIR "/../shared") +
           "/data/profiles/llmservingsim/";
}

std::string text_of(const std::string& path) {
    const std::unique_ptr<gzFile_s, int (*)(gzFile)> file(gzopen(path.c_str(), "rb"), gzclose);
    REQUIRE(file);
    std::string text(64u << 20, '\0');
    const int count = gzread(file.get(), text.data(), static_cast<unsigned>(text.size()));
    REQUIRE(count > 0);
    text.resize(static_cast<std::size_t>(count));
    return text;
}

}  // namespace

TEST_CASE("a real run of vLLM is predicted within a tenth", "[sim][golden]") {
    if (!std::filesystem::exists(profiles())) {
        std::cout << "SKIPPED: " << profiles() << " is not there (SLUICE_SHARED)" << std::endl;
        return;
    }
    const auto model = *scheduler::planner::read_model(R"({"hidden_size": 4096, "intermediate_size": 14336,
        "num_attention_heads": 32, "num_key_value_heads": 8, "num_hidden_layers": 32, "vocab_size": 128256,
        "max_position_embeddings": 131072, "torch_dtype": "bfloat16"})");
    const std::string run = profiles() + "measured_rtxpro6000_llama3.1-8b";
    auto machine = sim::read_replay_machine(text_of(run + "_config.json"), text_of(run + "_vllm_meta.json"), model);
    REQUIRE(machine);
    const auto memory = sim::replay_memory(*machine, model);
    REQUIRE(memory);
    const std::string prefix = profiles() + "rtxpro6000_llama3.1-8b_tp1";
    const std::string dense = text_of(prefix + "_dense.csv.gz");
    const std::string attention = text_of(prefix + "_attention.csv.gz");
    const std::string per_sequence = text_of(prefix + "_per_sequence.csv.gz");
    auto times = scheduler::planner::times_of_profile(
        {.name = "rtxpro6000", .dense = dense, .attention = attention, .per_sequence = per_sequence}, model, 1, {});
    REQUIRE(times);
    const std::string lines = text_of(run + "_vllm_requests.jsonl.gz");
    const auto requests = sim::read_replay_requests(lines);
    REQUIRE(requests);
    REQUIRE(requests->size() == 300);
    const sim::HostConstants host;
    times->step_seconds = host.step_seconds;
    machine->options.arrival_seconds = host.arrival_seconds;
    machine->options.blocks_total = memory->blocks;
    const auto result = sim::replay_vllm(machine->options, *times, *requests);
    REQUIRE(result);

    // What was measured. Arrivals are wall-clock, the rest monotonic: the first request's queueing joins them.
    std::vector<double> ttft[2];
    std::vector<double> tpot[2];
    double clock = 0;
    std::size_t index = 0;
    for (std::size_t begin = 0; begin < lines.size(); ++index) {
        const std::size_t end = lines.find('\n', begin);
        const boost::json::value json = boost::json::parse(lines.substr(begin, end - begin));
        const auto at = [&](const char* name) { return json.at(name).to_number<double>(); };
        if (index == 0) { clock = at("queued_ts") - host.arrival_seconds - at("arrival_time"); }
        ttft[0].push_back(at("first_token_ts") - clock - at("arrival_time"));
        tpot[0].push_back((at("last_token_ts") - at("first_token_ts")) / (at("output_toks") - 1));
        ttft[1].push_back(result->outcomes[index].ttft_s);
        tpot[1].push_back(*result->outcomes[index].tpot_s);
        begin = end == std::string::npos ? lines.size() : end + 1;
    }
    for (auto* values : {ttft, tpot}) {
        std::sort(values[0].begin(), values[0].end());
        std::sort(values[1].begin(), values[1].end());
        for (const double share : {0.1, 0.5, 0.9, 0.99}) {
            CAPTURE(share, sim::percentile(values[0], share), sim::percentile(values[1], share));
            REQUIRE(sim::percentile(values[1], share) ==
                    Approx(sim::percentile(values[0], share)).epsilon(share == 0.1 ? 0.12 : 0.1));
        }
    }
    REQUIRE(result->makespan_s == Approx(65.93).epsilon(0.03));
}
