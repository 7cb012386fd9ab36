#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench embed`: what the command line says.
struct EmbedBenchOptions {
    std::string model_dir;
    std::string texts_path;  // a text a line; lines that are JSON objects: their field "text"
    std::string kernels = "auto";
    std::string weight_format = "auto";
    std::uint32_t threads = 1;
    std::uint32_t batch_tokens_max = 512;  // of a step
    std::uint32_t batch_texts_max = 64;    // of a step
    std::uint32_t rounds = 5;              // over all texts, after one that is not counted
    std::string out_path;                  // JSON; "-": standard output instead of the lines for people
    std::string vectors_path;              // [texts, hidden] floats, little-endian; empty: nowhere
};

/// All texts, from their tokens to their vectors, in steps as a worker's.
struct EmbedBenchReport {
    std::string engine;  // as it describes itself
    std::uint64_t texts = 0;
    std::uint64_t tokens = 0;
    std::uint64_t truncated = 0;       // texts that were longer than the model takes, cut as sentence-transformers does
    std::uint32_t steps = 0;           // of a round
    double tokenize_s = 0;             // once, on one thread
    std::vector<double> rounds_s;      // ascending
    std::vector<double> rounds_cpu_s;  // the same of the processors' time, which busy neighbours do not lengthen
    double flops = 0;                  // of a round: products of the layers and attention
    std::vector<std::vector<float>> vectors;
};

/// Error: the engine's, the tokenizer's; invalid_argument for texts that cannot be read.
base::Result<EmbedBenchReport> measure_embed(const EmbedBenchOptions& options);

/// Measures and prints. Exit status: 0; 1 with a line that says why.
int bench_embed_main(const EmbedBenchOptions& options);

/// Adds the flags of `bench embed` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_embed(CLI::App& app, EmbedBenchOptions& options);

}  // namespace bench
