#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "base/ids.h"
#include "base/result.h"
#include "engine/engine.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench perplexity`: what the command line says.
struct PerplexityOptions {
    std::string model_dir;
    std::string text_path;
    std::uint32_t context = 512;             // tokens of a window
    std::uint32_t windows_max = 0;           // 0: as many as the text has
    std::size_t text_bytes_max = 16u << 20;  // of the text; the tokenizer holds all of it at once
    std::string device = "auto";
    std::string kernels = "auto";
    std::string weight_format = "auto";
    std::uint32_t threads = 0;             // 0: the processors that this process may use
    std::uint32_t batch_tokens_max = 512;  // of a step
    std::string packed_dir;                // as engine.packed_dir
    std::string out_path;                  // JSON; "-": standard output instead of the table
};

/// How likely a model found tokens, as sums: figures of parts of a text add up.
struct Likelihood {
    std::uint64_t tokens = 0;
    double nll = 0;          // sum of -ln p
    double nll_squares = 0;  // of their squares

    void add(double token_nll);
    void add(const Likelihood& other);
    /// e^(mean -ln p). NaN without tokens.
    double perplexity() const;
    /// Its standard error: that of the mean, times the perplexity. 0 below two tokens.
    double perplexity_error() const;
};

/// How a text is scored: in windows of `context` tokens that do not overlap and do not see each other, each with the
/// model's BOS in the place of its first token where the model has one. Scored are the tokens of the second half: those
/// behind position context / 2. What is left at the end of the text is not looked at.
/// Source: llama.cpp's llama-perplexity, so that figures can be compared.
struct WindowPlan {
    std::uint32_t context = 0;  // >= 4
    std::size_t windows = 0;
    std::uint32_t first_scored() const { return context / 2 + 1; }
    std::uint32_t scored_each() const { return context - first_scored(); }
};

/// Error: invalid_argument when `tokens` are less than a window, with the numbers.
base::Result<WindowPlan> plan_windows(std::size_t tokens, std::uint32_t context, std::uint32_t windows_max);

/// Runs `window` (at least 4 tokens, in an engine whose pool has room for it) from position 0 and scores its tokens
/// from `first_scored` (> 0) on. In steps of at most `batch_tokens_max` tokens, the engine's limit or less; logits come
/// in rows of the engine's batch_sequences_max, and none are kept. Error: collect()'s, else the entry's.
base::Result<Likelihood> score_window(engine::Engine& engine, std::span<const base::TokenId> window,
                                      std::uint32_t first_scored, std::uint32_t batch_tokens_max);

struct PerplexityReport {
    std::string engine;  // as it describes itself
    std::size_t text_bytes = 0;
    std::size_t text_tokens = 0;
    bool text_is_cut = false;  // text_bytes_max
    bool has_bos = false;
    WindowPlan plan;
    Likelihood likelihood;
    std::uint64_t bytes_scored = 0;  // of the text, that the scored tokens stand for
    double load_s = 0;
    double score_s = 0;
    double bits_per_byte() const;
};

/// Reads the text, loads the model, scores. Error: those of read_text_source(), the tokenizer and the engine;
/// invalid_argument for a window that the model has no room for, or a text that is shorter than one.
base::Result<PerplexityReport> measure_perplexity(const PerplexityOptions& options);

/// Measures and prints. Exit status: 0; 1 when something fails.
int bench_perplexity_main(const PerplexityOptions& options);

/// Adds the flags of `bench perplexity` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_perplexity(CLI::App& app, PerplexityOptions& options);

}  // namespace bench
