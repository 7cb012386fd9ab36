#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench engine`: what the command line says.
struct EngineBenchOptions {
    std::string model_dir;
    std::string device = "auto";
    std::string kernels = "auto";
    std::string prefill_attention = "auto";
    std::string weight_format = "auto";
    bool dependent_launch = false;
    bool deterministic = false;
    std::uint32_t threads = 1;
    std::vector<std::uint32_t> prompts{128, 512};  // tokens of one prompt each; empty: no prefill
    std::vector<std::uint32_t> batches{1, 8};      // sequences of a decode step; empty: no decode
    std::uint32_t context = 512;                   // tokens of each sequence before the decode steps
    std::uint32_t batch_tokens_max = 2048;         // of a step
    std::uint32_t samples = 9;                     // of each figure, after a few that are not counted
    std::uint32_t beside = 3;                      // other engines that compute at once, as far as there are cores
    float temperature = 0;                         // of decode steps; 0: greedy
    float top_p = 1;
    std::string out_path;  // JSON; "-": standard output instead of the table
};

/// A prompt of `tokens` tokens of one sequence, from its first token to its next one.
struct PrefillFigure {
    std::uint32_t tokens = 0;
    double median_s = 0;
    double best_s = 0;
    double flops = 0;  // products of the layers and attention for every token, the head for one
};

/// One decode step of `batch` sequences, from the tokens to the next ones: host work, sampling and copies included.
struct DecodeFigure {
    std::uint32_t batch = 0;
    std::uint32_t context = 0;  // of the median step
    double median_s = 0;
    double best_s = 0;
    double bytes = 0;  // weights of layers and head once, KV once
};

/// How many times as long a step took while `engines` others of the same model computed, each on cores of its own.
struct BesideFigure {
    std::uint32_t engines = 0;  // 0: not measured
    double prefill_by_prefill = 1;
    double prefill_by_decode = 1;
    double decode_by_prefill = 1;
    double decode_by_decode = 1;
};

struct EngineBenchReport {
    std::string engine;         // as it describes itself
    std::uint32_t threads = 0;  // that it was given
    std::uint32_t cores = 0;    // of the machine, that this process may use
    double load_s = 0;
    std::vector<PrefillFigure> prefill;
    std::vector<DecodeFigure> decode;
    BesideFigure beside;
};

/// Loads the model and measures whole steps of the engine, as a worker takes them. Error: the engine's;
/// invalid_argument for lengths that the model has no room for.
base::Result<EngineBenchReport> measure_engine(const EngineBenchOptions& options);

/// Measures and prints. Exit status: 0; 1 when the engine cannot be loaded, a step fails, or the file cannot be
/// written.
int bench_engine_main(const EngineBenchOptions& options);

/// Adds the flags of `bench engine` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_engine(CLI::App& app, EngineBenchOptions& options);

}  // namespace bench
