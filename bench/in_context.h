#pragma once

#include <CLI/CLI.hpp>
#include <boost/json.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace bench {

/// `sluice bench in-context`: the in-context cache between two played models whose quality is known, on a virtual
/// clock. Nothing of the quality is told to the cache but what a comparison would show, with noise.
struct InContextBenchOptions {
    std::uint64_t seed = 1;
    std::uint64_t warm_up = 8000;  // requests at load 0.7, from an empty store
    std::uint64_t step = 4000;     // requests at each load
    std::uint64_t swap = 6000;     // requests after each of two swaps of the small model
    std::vector<double> loads = {0.5, 0.75, 1.0, 1.25, 1.5, 1.75, 2.0};  // of the large model's capacity
    std::uint64_t topics = 60;
    double easy = 0.35;         // share of topics in which the small model is as good without help
    double hard = 0.15;         // in which examples do not help it enough
    double loss_target = 0.01;  // of the router's account of quality
    double noise = 0.15;        // standard deviation of a judged answer around its quality
    std::string out_path = "-";
};

/// What a stretch of requests came to. Qualities are the known ones.
struct InContextStretch {
    double load = 0;  // offered, of the large model's capacity
    std::uint64_t requests = 0;
    double offloaded = 0;              // share that the small model answered
    double quality = 0;                // mean of what was answered
    double quality_large = 0;          // had the large model answered all
    double quality_small = 0;          // had the small one, with the examples that were chosen
    double quality_small_alone = 0;    // without any
    double quality_small_nearest = 0;  // with the nearest examples
    double quality_small_random = 0;   // with any
    double regret = 0;                 // mean of what the oracle's arm would have been worth more, price included
    double regret_random = 0;          // of an arm by the toss of a coin
    double large_busy = 0;             // mean of the large model's sequences, of its capacity
    double oracle_offloaded = 0;       // share that the oracle's arm is the small model
    double offloadable = 0;            // most that could be offloaded at a loss of 1 %, by who knows all qualities
    double compared = 0;               // share that both models answered
    double prefix_share = 0;           // of the bytes of examples in prompts: those of a pack that stood there before
    double loss() const { return quality_large > 0 ? 1 - quality / quality_large : 0; }
};
struct InContextSwap {
    double regret_before = 0;      // the last thousand requests
    double regret_after = 0;       // the first 250 afterwards
    double regret_end = 0;         // the last thousand
    std::int64_t adapted_in = -1;  // requests until 250 in a row are as good as before, or nearly; -1: never
    std::uint64_t changes_noticed = 0;
};
struct InContextReport {
    InContextStretch first;  // thousand requests, of an empty store
    InContextStretch warm;   // the last two thousand of the warm-up
    std::vector<InContextStretch> steps;
    InContextSwap better;  // the small model is replaced by one that is as good as the large one, without a word
    InContextSwap worse;   // then by one that is worse by a third
    std::uint64_t examples = 0;
    std::uint64_t example_bytes = 0;
    std::uint64_t comparisons = 0;
    double decide_us = 0;  // mean of this machine's time for a decision; no part of what is compared
};
InContextReport simulate_in_context(const InContextBenchOptions& options);
boost::json::object to_json(const InContextReport& report, const InContextBenchOptions& options);

void add_bench_in_context(CLI::App& app, InContextBenchOptions& options);
int bench_in_context_main(const InContextBenchOptions& options);

}  // namespace bench
