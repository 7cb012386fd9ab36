#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/operator_access.h"
#include "cli/process.h"

namespace cli {

/// `sluice fleet`: the fleet page (docs/fleet.md) of a cluster, from a process of its own.
struct FleetCommand {
    OperatorFlags access;
    std::vector<std::string> urls = {"http://127.0.0.1:8000"};
    std::string api_key;    // where the gateway has keys
    std::string keys_file;  // of those who may look and drain; empty: one key for this run
    std::string listen = "127.0.0.1:8010";
    double interval_s = 2;
    bool listen_public = false;
};
void add_fleet(CLI::App& app, FleetCommand& command);
int fleet_main(const FleetCommand& command);

}  // namespace cli
