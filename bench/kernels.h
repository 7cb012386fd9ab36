#pragma once

#include <cstdint>
#include <string>

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench kernels`: what the command line says.
struct KernelsBenchOptions {
    std::uint32_t threads = 1;
    std::string family = "auto";
    std::string format = "bf16";  // of weights and KV
    bool processor_time = false;  // of the calling thread, instead of the wall clock: for a busy machine and 1 thread
    std::string only;             // linear, model, attention; empty: all
};

/// The engine's operators beside this machine's limits, measured in the same run: matrix products by rows, attention,
/// and the operators of one step of a model of 110M parameters. Exit status: 0; 1 when the family cannot run here.
int bench_kernels_main(const KernelsBenchOptions& options);

/// Adds the flags of `bench kernels` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_kernels(CLI::App& app, KernelsBenchOptions& options);

}  // namespace bench
