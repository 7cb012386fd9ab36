#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench swap`: what the command line says.
struct SwapOptions {
    std::uint32_t layers = 30;  // of the KV: SmolLM2-135M's
    std::uint32_t kv_heads = 3;
    std::uint32_t head_dim = 64;
    std::uint32_t tokens = 1024;   // of a sequence that is swapped
    std::uint32_t sequences = 16;  // of each sample
    double used_share = 0.5;       // of the pool, by others, in pieces of 1 to 32 blocks: what makes it fragmented
    double tier_used_share = 0.5;  // of the tier
    std::uint32_t samples = 9;     // of each figure; medians are told
    bool processor_time = false;   // of this thread, instead of the wall clock: for a machine that others use
    bool synced = false;      // files: written when the disk has them, read from the disk and not from the page cache
    std::string disk_folder;  // where to try a disk; empty: not
    std::uint32_t queue_depth = 8;  // of direct I/O
    std::uint32_t seed = 1;
    std::uint32_t placements = 20;  // of others, for which copies are counted: from this seed on
    std::string out_path;           // JSON; "-": standard output instead of the table
};

/// One way to move the KV of sequences out of a pool and back.
struct SwapFigure {
    std::string level;  // "host", "disk"
    std::string
        name;  // "limit", "block, layer, K or V" (the plain paged layout), "groups" (ours); disks: and which way
    double copies_per_sequence = 0;
    double out_bytes_per_s = 0;
    double in_bytes_per_s = 0;
    // The median over the samples of the share of the best limit of the level that was measured in the same turn.
    double out_of_limit = 0;
    double in_of_limit = 0;
};

/// Error: of memory or the folder; internal, when what came back is not what went out.
base::Result<std::vector<SwapFigure>> measure_swaps(const SwapOptions& options);

/// Copies that a sequence takes in groups, on average over the sequences, for each of `options.placements` seeds. Moves
/// nothing.
std::vector<double> count_copies(const SwapOptions& options);

/// Measures and prints. Exit status: 0; 1 when something fails.
int bench_swap_main(const SwapOptions& options);

/// Adds the flags of `bench swap` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_swap(CLI::App& app, SwapOptions& options);

}  // namespace bench
