#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench codec`: what the command line says.
struct CodecSpeedOptions {
    std::uint32_t layers = 8;  // of a chunk: a layer group
    std::uint32_t kv_heads = 8;
    std::uint32_t head_dim = 128;
    std::uint32_t tokens = 256;
    std::uint32_t samples = 9;    // of each figure; medians are told
    double sample_ms = 20;        // least time of one sample
    bool processor_time = false;  // of this thread, instead of the wall clock: for a machine that others use
    std::uint32_t seed = 1;
    std::string out_path;  // JSON; "-": standard output instead of the table
};

/// One way to make KV smaller, on one core.
struct CodecFigure {
    std::string stage;  // "copy", "entropy", "chunk", "library"
    std::string name;   // "memcpy", "rans/avx512", "arithmetic", "sluice/4", "zstd -1 of int8"
    double bits_per_value = 0;
    double encode_values_per_s = 0;
    double decode_values_per_s = 0;
    /// The same as bytes of the BF16 KV.
    double encode_bytes_per_s() const { return 2 * encode_values_per_s; }
    double decode_bytes_per_s() const { return 2 * decode_values_per_s; }
};

/// Codes and decodes a chunk of normal values whose channels have deviations and means of their own. zstd and lz4 are
/// measured where the system has their libraries. Error: internal, when what was decoded is not what it should be.
base::Result<std::vector<CodecFigure>> measure_codecs(const CodecSpeedOptions& options);

/// Measures and prints. Exit status: 0; 1 when something fails.
int bench_codec_main(const CodecSpeedOptions& options);

/// Adds the flags of `bench codec` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_codec(CLI::App& app, CodecSpeedOptions& options);

}  // namespace bench
