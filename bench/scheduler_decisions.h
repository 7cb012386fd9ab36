#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/result.h"
#include "bench/statistics.h"

namespace CLI {
class App;
}

namespace bench {

/// `sluice bench scheduler`: what the command line says.
struct SchedulerBenchOptions {
    std::vector<std::uint32_t> workers{10, 100, 1'000, 10'000};
    std::uint32_t placements = 50'000;          // for each number of workers
    std::uint32_t prompt_tokens = 100'000;      // of every request
    double prefill_share = 0.5;                 // of the workers, the rest for decode; 0: all are mixed
    double load = 0.6;                          // of the time of the workers that prefill
    std::uint32_t scans = 200;                  // of the placements are decided a second time, over all workers
    std::uint32_t service_workers_max = 1'000;  // the service is measured with up to so many; 0: not at all
    std::uint32_t service_placements = 5'000;
    std::uint32_t seed = 1;
    std::string out_path;  // JSON; "-": standard output instead of the table
};

/// With one number of workers.
struct SchedulerFigure {
    std::uint32_t workers = 0;
    std::uint32_t placements = 0;
    Summary decide_us = {};  // one decision, its prefix search included
    /// Decisions and what is remembered of each, by CPU time of the one thread, less what reading the clocks takes.
    double placements_per_s = 0;
    double clocks_us = 0;  // that is, for each placement
    double refused_share = 0;
    double events_us = 0;           // that came between two placements, on average: the generator's own part included
    Summary scan_us = {};           // the same decision by a look at all workers
    double same_as_scan_share = 0;  // of those that were decided both ways
    double as_good_share = 0;       // the same, or predicted to cost no more but for what is alike (scheduler/lineup.h)
    Summary service_us = {};        // Place over gRPC on the loopback interface, one at a time; count 0: not measured
    double service_per_s = 0;       // several at once
};

/// Decides for a played cluster (played_cluster.h): requests with long prompts, nearly all of which somebody holds most
/// of. Error: invalid_argument for sizes that make no sense.
base::Result<std::vector<SchedulerFigure>> measure_scheduler(const SchedulerBenchOptions& options);

/// Place over gRPC, into `figure`. Error: the service's.
base::Result<void> measure_service(const SchedulerBenchOptions& options, SchedulerFigure& figure);

/// Measures and prints. Exit status: 0; 1 when it cannot measure or write the file.
int bench_scheduler_main(const SchedulerBenchOptions& options);

/// Adds the flags of `bench scheduler` to its subcommand; they write into `options`, which must outlive the parsing.
void add_bench_scheduler(CLI::App& app, SchedulerBenchOptions& options);

}  // namespace bench
