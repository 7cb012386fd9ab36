#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

#include "cli/operator_access.h"
#include "cli/plan.h"

namespace cli {

/// `sluice autopilot`: looks at a running cluster again and again, and keeps its workers in the roles that its workload
/// asks for.
struct AutopilotCommand {
    PlanCommand plan;  // what of it `plan --live` has
    OperatorFlags access;
    bool acts = false;  // else it only tells
    double hold_s = 30;
    std::uint32_t confirmations = 2;
    double turn_patience_s = 120;  // one worker's way to its other role
    std::uint32_t looks = 0;       // then it ends; 0: when it is asked to
    std::int32_t admin_port = -1;
};
void add_autopilot(CLI::App& app, AutopilotCommand& command);
/// Exit status: 0 when it was asked to end or has looked often enough; 1; 2 for bad input.
int autopilot_main(const AutopilotCommand& command);

}  // namespace cli
