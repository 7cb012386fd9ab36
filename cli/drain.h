#pragma once

#include <CLI/CLI.hpp>
#include <string>
#include <vector>

#include "cli/process.h"

namespace cli {

/// `sluice drain`: asks the scheduler to let a worker finish what it has and give it nothing new.
struct DrainCommand {
    std::string worker;  // id as the logs write it: hexadecimal digits
    std::vector<std::string> schedulers = {kSchedulerDefault};
    bool trusted_network = false;
    bool always_tls = false;
    std::string key_file;                // of the cluster; empty: $SLUICE_CLUSTER_KEY
    base::CertificateFiles certificate;  // of role operator, where processes have certificates
};
void add_drain(CLI::App& app, DrainCommand& command);
int drain_main(const DrainCommand& command);

}  // namespace cli
