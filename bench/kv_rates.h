#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench rates`: what the command line says.
struct KvRatesOptions {
    std::vector<double> gbits = {0.1, 1, 10, 25};  // of wires that stay as they are
    std::vector<std::uint32_t> tokens = {4096, 8192};
    std::string traces_path;            // JSON lines, {"bw": [Gbit/s, ...]}; empty: none
    std::uint32_t random_traces = 200;  // of ten steps of 0.1 to 10 Gbit/s each, beside those
    std::uint32_t trace_tokens = 9400;
    std::vector<double> deadlines_s = {1, 1.5, 2, 3};
    double frame_mib = 4;
    double trace_step_s = 0.2;                            // where both ends work: a step of a trace lasts so long,
    std::vector<double> slacks = {1.05, 1.1, 1.25, 1.5};  // and all is due at so many times what an oracle takes
    double coders = 1;                                    // cores that code at each side
    double recompute_tokens_per_s = 5000;                 // of the 8B model at the receiving side
    double small_recompute_tokens_per_s = 500;            // of the small one, on a CPU
    std::uint64_t seed = 1;
    std::string out_path;  // JSON; "-": standard output instead of the tables
};

/// One KV over one steady wire.
struct SteadyRow {
    std::string shape;
    std::uint32_t tokens = 0;
    double gbits = 0;
    std::string policy;  // a codec and level, "recompute", "controller ..."
    double seconds = 0;
    double wire_bytes = 0;
};

/// One policy over all traces.
struct TraceRow {
    std::string traces;  // "file" or "random"
    double deadline_s = 0;
    std::string policy;
    std::uint32_t hand_offs = 0;
    std::uint32_t late = 0;
    std::uint32_t late_where_an_oracle_is_not = 0;
    double seconds_mean = 0;
    double bits_per_value = 0;  // of what was sent
    double lossless_share = 0;  // of all KV: sent without loss, or computed
};

/// Hand-offs without loss, some of whose front the other side computes, over wires that change with time.
struct FrontRow {
    std::string traces;
    double slack = 0;
    std::string policy;
    std::uint32_t hand_offs = 0;
    std::uint32_t late = 0;
    double seconds_mean = 0;
    double oracle_seconds_mean = 0;
    double computed_share = 0;  // of all tokens
};

struct KvRates {
    std::vector<SteadyRow> steady;
    std::vector<TraceRow> traces;
    std::vector<FrontRow> fronts;
};

/// Plays hand-offs on a virtual clock. Error: invalid_argument, not_found (the file of traces).
base::Result<KvRates> play_kv_rates(const KvRatesOptions& options);

/// Plays and prints. Exit status: 0; 1 when something fails.
int bench_kv_rates_main(const KvRatesOptions& options);

/// Adds the flags of `bench rates` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_kv_rates(CLI::App& app, KvRatesOptions& options);

}  // namespace bench
