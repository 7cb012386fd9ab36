#pragma once

#include <CLI/CLI.hpp>
#include <string>

#include "cli/operator_access.h"

namespace cli {

/// `sluice drain`: asks the scheduler to let a worker finish what it has and give it nothing new.
struct DrainCommand {
    std::string worker;  // as choose_worker()
    bool lists = false;
    bool json = false;  // of the list
    OperatorFlags access;
};
void add_drain(CLI::App& app, DrainCommand& command);
int drain_main(const DrainCommand& command);

}  // namespace cli
