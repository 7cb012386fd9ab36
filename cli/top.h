#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

namespace cli {

/// `sluice top`: what the processes of a cluster do, from their /metrics.
struct TopCommand {
    std::vector<std::string> urls = {"http://127.0.0.1:8000"};
    std::string api_key;  // where the gateway has keys
    double interval_s = 2;
    bool once = false;
    bool json = false;
};
void add_top(CLI::App& app, TopCommand& command);
int top_main(const TopCommand& command);

}  // namespace cli
