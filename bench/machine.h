#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench machine`: what the command line says.
struct MachineBenchOptions {
    std::uint32_t threads = 0;  // of the second column; 0: all processors this process may use
    std::uint32_t samples = 9;  // of each figure; medians are told
    double sample_ms = 40;      // least time of one sample
    bool quick = false;         // memory from DRAM and peak rates only
    bool processor_time =
        false;             // instead of the wall clock: for a machine that others use; of little use above 1 thread
    std::string out_path;  // JSON; "-": standard output instead of the table
};

/// One measured figure.
struct MachineFigure {
    std::string name;   // "read", "triad", "f32_fma_avx512", ...
    std::string level;  // "L2", "L3", "DRAM"; empty for rates
    std::uint32_t threads = 1;
    std::string unit;  // "GB/s" or "Gop/s" (a multiply-add is two)
    double median = 0;
    double best = 0;
};

struct MachineReport {
    std::string processor;
    std::uint32_t threads = 1;
    std::size_t l2_bytes = 0;
    std::size_t l3_bytes = 0;
    /// Round trip of a cache line between the first two processors, before and after, in ns; 0 with one processor.
    /// A guest's processors may be moved within a machine: near (below 250 ns) they share a third-level cache, far they
    /// do not, and their joint memory bandwidth differs. Compare figures only in one state.
    double round_trip_ns_before = 0;
    double round_trip_ns_after = 0;
    std::vector<MachineFigure> figures;
};

/// "near", "far", or "-" with one processor.
const char* round_trip_state(double round_trip_ns);

/// The figure, or 0 when this machine has none of the name.
double figure_of(const MachineReport& report, const std::string& name, const std::string& level, std::uint32_t threads);

/// Measures. Uses up to 3 * 256 MiB a thread.
MachineReport measure_machine(const MachineBenchOptions& options);

/// Measures and prints. Exit status: 0; 1 when the file cannot be written.
int bench_machine_main(const MachineBenchOptions& options);

/// Adds the flags of `bench machine` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_machine(CLI::App& app, MachineBenchOptions& options);

}  // namespace bench
