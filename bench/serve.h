#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "bench/workload.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench serve`: what the command line says. Times are in the unit of their name.
struct ServeBenchOptions {
    std::string url = "http://127.0.0.1:8000";
    std::string api_key;
    std::string model;              // empty: the first that the server lists
    std::string endpoint = "chat";  // chat, completions
    bool token_ids = false;         // prompts as token ids (completions only): exact lengths
    std::int32_t token_id_first = 10;
    std::int32_t token_id_last = 400;

    double rate = 4;                  // requests/s
    std::string arrival = "poisson";  // poisson, constant
    std::string trace_path;           // instead of rate and lengths
    double trace_scale = 1;
    std::uint32_t prompt_tokens_max = std::numeric_limits<std::uint32_t>::max();  // trace only
    std::uint32_t output_tokens_max = std::numeric_limits<std::uint32_t>::max();  // trace only
    std::size_t requests = 100;                                                   // of each run; with a trace 0 is all
    std::uint64_t seed = 0;
    std::uint32_t prompt_tokens = 128;
    std::uint32_t output_tokens = 64;
    double length_spread = 0;
    std::string prompts_path;  // texts to send instead of random words
    std::string lengths_path;  // lengths (and texts) drawn from a file
    std::uint32_t shared_prefix_tokens = 0;
    std::uint32_t length_divisor = 1;  // of the lengths and blocks of --trace and --lengths
    std::uint32_t turns = 0;           // of a conversation, without a trace; with one: at most; 0: none, all
    double think_s = 1;                // without a trace: from an answer to the next turn, on average
    double think_max_s = std::numeric_limits<double>::infinity();  // with a trace
    bool ignore_eos = true;
    double temperature = 0;

    std::size_t warmup = 4;         // requests before the measured ones, one after the other
    std::size_t in_flight_max = 0;  // 0: open loop
    double timeout_s = 600;

    std::optional<double> slo_ttft_ms;
    std::optional<double> slo_tpot_ms;
    std::vector<std::string> goodput;  // targets in vLLM's form, instead
    double attainment = 0.9;           // what goodput asks for
    bool find_goodput = false;         // vary the rate (trace: its speed) until the highest good one is known
    double rate_max = 1024;
    double precision = 0.1;
    std::vector<double> sweep_rates;  // a run at each of them
    bool steady_state = false;        // also the figures without the beginning and the end of a run
    bool result_block = false;        // print vLLM's block of results, too

    std::string out_path;  // JSON with every request
    bool quiet = false;    // no progress
};

/// Runs the benchmark; SIGINT ends it early with what was measured. The report goes to standard output, progress to
/// standard error. Exit status: 0; 1 when it could not run, the file could not be written or no request was answered; 2
/// when the options contradict each other.
int bench_serve_main(const ServeBenchOptions& options);

/// Adds the flags of `bench serve` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_serve(CLI::App& app, ServeBenchOptions& options);

}  // namespace bench
