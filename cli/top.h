#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <string_view>
#include <vector>

#include "base/result.h"

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

/// The addresses that `urls` name: "http://host:9100-9104" is five. Error: invalid_argument (no address, more than
/// 256).
base::Result<std::vector<std::string>> expand_urls(const std::vector<std::string>& urls);

}  // namespace cli
