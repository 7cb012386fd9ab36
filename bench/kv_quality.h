#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "base/result.h"
#include "bench/kv_trial.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench kv`: what the command line says.
struct KvQualityOptions {
    KvTrialOptions trial;
    std::vector<std::string> codecs = {"exact"};  // "raw", "zstd" (the system's), policies among them, or "all"
    std::vector<std::uint32_t> levels;            // empty: every level of the codec
    std::string profile_path;                     // for sluice
    KvChunks chunks;
    std::string out_path;  // JSON; "-": standard output instead of the table
};

/// What a codec at a level does to a model.
struct KvQuality {
    std::string codec;
    std::uint32_t level = 0;
    double bits_per_value = 0;           // all of the chunks, headers included
    double relative_error = 0;           // square of the error of KV over its square
    double perplexity = 0;               // of the continuations
    double perplexity_change = 0;        // over that of the KV as it is, - 1
    double perplexity_change_error = 0;  // its standard error, from the differences token by token
    double logprob_change_rms = 0;       // of one token, in nats
    double answers_equal = 0;            // share of greedy answers that are the same to the end
    double tokens_equal = 0;             // mean share of an answer before the first other token
    double recall = 0;                   // where something is to be found: share of prompts in which it was
    double answer_logprob = 0;           // there: of the right answer, in nats, the mean
};

struct KvQualityReport {
    std::string engine;
    std::size_t text_tokens = 0;
    std::uint32_t windows = 0;  // that have been tried
    std::uint64_t tokens_scored = 0;
    double perplexity = 0;  // with the KV as it is, like the next two
    double recall = 0;
    double answer_logprob = 0;
    std::vector<KvQuality> rows;
};

/// For each window of the text: the prompt is computed, its KV taken out, coded and decoded in chunks and put back, and
/// what follows scored and answered, beside the same with the KV as it was. `after_window`, where there is one, gets
/// what is known so far after each window, and ends the measurement by an error. Error: those of KvTrial::make(), the
/// codecs', the profile's, and that.
base::Result<KvQualityReport> measure_kv_quality(
    const KvQualityOptions& options,
    const std::function<base::Result<void>(const KvQualityReport& so_far)>& after_window = {});

/// Measures and prints. Exit status: 0; 1 when something fails.
int bench_kv_main(const KvQualityOptions& options);

/// Adds the flags of `bench kv` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_kv(CLI::App& app, KvQualityOptions& options);
/// Those that say which model, text and windows.
void add_kv_trial_flags(CLI::App& app, KvTrialOptions& options);

}  // namespace bench
