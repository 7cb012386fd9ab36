#pragma once

#include <CLI/CLI.hpp>
#include <string>

namespace cli {

/// `sluice drain`: asks the scheduler to let a worker finish what it has and give it nothing new.
struct DrainCommand {
    std::string worker;  // id as the logs write it: hexadecimal digits
    std::string scheduler = "127.0.0.1:7000";
    bool trusted_network = false;
    bool always_tls = false;
    std::string key_file;  // of the cluster; empty: $SLUICE_CLUSTER_KEY
};
void add_drain(CLI::App& app, DrainCommand& command);
int drain_main(const DrainCommand& command);

}  // namespace cli
