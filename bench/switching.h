#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "bench/switching_machine.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench switching`: what the command line says. FastSwitch's experiment (Shen, Li, Gao, 2024, section 4): more
/// conversations are alive than KV memory holds, priorities change as they talk, and so contexts are switched.
struct SwitchingOptions {
    std::string model_dir;       // empty: a modelled GPU on a virtual clock
    std::string dialogues_path;  // of a real model: .jsonl(.gz), `turns` of [role, text]
    std::uint32_t threads = 1;   // of a real engine
    std::string packed_dir;      // as engine.packed_dir

    std::uint32_t users = 24;           // who talk at once
    std::uint32_t conversations = 120;  // in all
    double turns_mean = 5.5;            // of a conversation: uniform from 1 to twice that less 1
    double think_s = 5;        // mean, exponential: between an answer and the next turn, and before a conversation
    double user_tokens = 120;  // without dialogues: mean of each turn, lognormal
    double answer_tokens = 250;
    std::uint32_t joined = 1;         // of dialogues: so many turns become one
    double memory_share = 1.0 / 3;    // of the KV of all who talk at once, at the ends of their conversations
    std::string pattern = "random";   // of priorities: random; markov: who is hot stays so for a while
    std::uint32_t update_steps = 25;  // priorities change so often (FastSwitch: frequencies 0.04 and 0.02)
    std::vector<std::string> modes;   // empty: all
    std::uint32_t rounds = 1;         // of all modes in turns, each with its own seed
    std::uint32_t seed = 1;
    ModelledGpu gpu;
    std::string out_path;  // JSON; "-": standard output instead of the table
};

/// What of a distribution is told, in seconds.
struct TailFigures {
    std::size_t count = 0;
    double p50 = 0;
    double p95 = 0;
    double p99 = 0;
    double p999 = 0;
};

/// One run of one way to switch.
struct SwitchingFigure {
    SwapMode mode = SwapMode::through;
    std::uint32_t seed = 0;
    double seconds = 0;
    std::uint64_t turns = 0;
    std::uint64_t tokens = 0;  // of answers
    std::uint64_t steps = 0;
    std::uint64_t prompt_tokens = 0;      // of all turns
    std::uint64_t tokens_recomputed = 0;  // computed more often than once: what was neither in the pool nor below
    std::uint64_t preemptions = 0;
    SwapCounts swaps;
    double ahead_used_bytes = 0;    // loaded before their stream had memory, and found by it
    double ahead_wasted_bytes = 0;  // and not found
    TailFigures ttft;               // from a turn's arrival to its first token
    TailFigures tbt;                // between two tokens, also where the stream had given way
    double stall_seconds = 0;       // in which the engine stood still for copies
    double stall_share_p99 = 0;     // of the gaps from the 99th percentile on
    std::uint32_t pool_blocks = 0;
    double block_bytes = 0;
};

/// Runs all modes. Errors: of the model, the dialogues, the bounds; internal when a stream ended with an error.
base::Result<std::vector<SwitchingFigure>> measure_switching(const SwitchingOptions& options);

/// Measures and prints. Exit status: 0; 1 when something fails.
int bench_switching_main(const SwitchingOptions& options);

/// Adds the flags of `bench switching` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_switching(CLI::App& app, SwitchingOptions& options);

}  // namespace bench
