#include <CLI/CLI.hpp>

#include "bench/kernels.h"
#include "bench/machine.h"

namespace bench {

void add_bench_machine(CLI::App& app, MachineBenchOptions& options) {
    app.add_option("--threads", options.threads, "of the second column (0: all processors)")->capture_default_str();
    app.add_option("--samples", options.samples, "of each figure; medians are told")
        ->check(CLI::Range(1u, 1000u))
        ->capture_default_str();
    app.add_option("--sample-ms", options.sample_ms, "least time of one sample")
        ->check(CLI::PositiveNumber)
        ->capture_default_str();
    app.add_flag("--quick", options.quick, "DRAM and peak rates only");
    app.add_flag("--cpu-time", options.processor_time, "processor time instead of the wall clock (busy machines)");
    app.add_option("--out", options.out_path, "JSON file; - writes it to standard output instead of the table");
}

void add_bench_kernels(CLI::App& app, KernelsBenchOptions& options) {
    app.add_option("--threads", options.threads, "compute threads")
        ->check(CLI::Range(1u, 1024u))
        ->capture_default_str();
    app.add_option("--family", options.family, "auto, avx512, avx2 or reference")->capture_default_str();
    app.add_option("--format", options.format, "bf16 or f32")
        ->check(CLI::IsMember({"bf16", "f32"}))
        ->capture_default_str();
    app.add_flag("--cpu-time", options.processor_time, "processor time instead of the wall clock (busy machines)");
    app.add_option("--only", options.only, "linear, model or attention (default: all)");
}

}  // namespace bench
