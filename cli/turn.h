#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <string>

#include "base/result.h"
#include "cli/operator_access.h"
#include "proto/roles.h"

namespace cli {

/// `sluice turn`: a worker becomes one of another role while it runs.
struct TurnCommand {
    std::string worker;  // as choose_worker()
    std::string role;
    OperatorFlags access;
};
void add_turn(CLI::App& app, TurnCommand& command);
int turn_main(const TurnCommand& command);

/// How far a worker is on its way to another role.
struct TurnState {
    proto::Role role = proto::Role::mixed;  // as which it is registered
    bool is_turning = false;
};
/// Asks the worker of this endpoint to become one of `role`. Errors: those of the call; failed_precondition
/// (worker.may_turn is off there, it drains, it is another life), aborted (it turns to another role).
base::Result<TurnState> turn_worker(const proto::WorkerEndpoint& endpoint, proto::Role role,
                                    const proto::ClusterKey& key, std::chrono::milliseconds patience);

}  // namespace cli
