#pragma once

#include <cstdint>
#include <string>

namespace CLI {
class App;
}

namespace cli {

/// `sluice simulate`: what the command line says.
struct SimulateCommand {
    // A replay of somebody's run of vLLM, from LLMServingSim's files.
    std::string profile;       // PREFIX of PREFIX_dense.csv[.gz] and so on
    std::string model_config;  // config.json
    std::string engine_meta;
    std::string machine;
    std::string requests;
    // A trace through our own scheduler (simulate_plan.h).
    std::string plan;  // plan.yaml
    std::string trace;
    double rate_scale = 1;
    std::uint64_t seed = 1;
    std::string faults;  // YAML
    std::string policy = "sluice";
    std::uint64_t requests_max = 0;  // the first so many; of a FIT: so many are drawn
    std::uint32_t warmup = 0;        // requests before the trace, which no figure of requests counts
    bool records = false;
    std::string out = "-";  // JSON
};

void add_simulate(CLI::App& app, SimulateCommand& command);

/// Exit status: 0; 1 when something cannot be read or done, with the reason on standard error.
int simulate_main(const SimulateCommand& command);

}  // namespace cli
