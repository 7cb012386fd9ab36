#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/process.h"

namespace cli {

/// `sluice plan`: what the command line says.
struct PlanCommand {
    std::string model;              // config.json, a folder with one, a GGUF file, or a name of the store
    std::vector<std::string> gpus;  // NAME[=COST], "this"
    std::string like;               // a GPU whose tables stand in where one of `gpus` has none; empty: none
    std::string profiles;           // folder of measured operator times; empty: datasheets alone
    std::string engine_times;       // `bench engine --out` of this machine, for --gpu this
    double this_kv_tokens = 65'536;
    /// Cores that all workers of `this` share; 0: each has its own; empty: as measured.
    std::optional<std::uint32_t> this_cores;
    std::string fitted;             // DistServe's profile of the GPU, in place of operators
    std::string fitted_model;       // which of its models
    std::vector<std::string> also;  // units to look at besides: "2x1+1x1"
    std::string workload;           // a trace or a FIT
    std::string slo = "ttft=1,tpot=0.1,attainment=0.9";
    double rate = 0;          // requests a second; 0: not given
    std::uint32_t count = 0;  // GPUs; 0: not given
    double link_gbits = 0;    // of each worker's network; 0: the GPU's datasheet
    double kv_ratio = 1;      // of KV on the wire: what a codec leaves of it
    std::string kv_host;      // level below each worker's KV: "BYTES,BYTES_PER_S[,SAVE_BYTES_PER_S[,LAUNCH_S]]"
    std::string kv_disk;      // the same on its disk
    std::string affinity = "high";
    std::uint32_t seeds = 3;
    bool no_what_ifs = false;
    bool no_pipelines = false;      // workers of one stage: what Sluice's own workers are
    bool whole_workers = false;     // workers of one GPU: what `serve --plan` can start
    std::string out;                // plan.yaml
    std::string helm_values;        // YAML for the chart
    std::string json;               // everything that was tried
    std::vector<std::string> live;  // addresses of a running cluster's processes, instead of a workload and a rate
    std::string live_model;         // as its gateway calls it; empty: the only one
    double live_window_s = 30;      // between two looks
    std::string api_key;            // where its gateway has keys
};

void add_plan(CLI::App& app, PlanCommand& command);

/// Exit status: 0; 1 when nothing fits or no candidate meets the targets; 2 for bad input.
int plan_main(const PlanCommand& command);

/// `sluice plan fit`.
struct PlanFitCommand {
    std::string trace;
    std::string out = "-";
};
void add_plan_fit(CLI::App& app, PlanFitCommand& command);
int plan_fit_main(const PlanFitCommand& command);

/// `sluice plan pools`: a placement file as the processes that this machine would start, for scripts.
struct PlanPoolsCommand {
    CommonFlags common;
    std::string plan;
    std::string model;
    std::map<std::string, std::string> model_names{};
};
void add_plan_pools(CLI::App& app, PlanPoolsCommand& command);
/// A line `common FLAGS` for scheduler and gateway, then a line `ROLE THREADS FLAGS` for each worker (THREADS 0: not
/// said). What is not as planned is told on standard error. Exit status: 0; 1; 2 for bad input.
int plan_pools_main(const PlanPoolsCommand& command);

}  // namespace cli
