#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "cli/process.h"
#include "cli/served_models.h"
#include "worker/options.h"

namespace cli {

/// `sluice scheduler`: one role in this process.
struct SchedulerCommand {
    CommonFlags common;
    std::string listen = kSchedulerDefault;
    std::int32_t admin_port = -1;  // -1: no admin listener; 0: any free port
};
void add_scheduler(CLI::App& app, SchedulerCommand& command);
int scheduler_main(const SchedulerCommand& command);

/// `sluice prefill`, `sluice decode`, `sluice mixed`, `sluice encode`.
struct WorkerCommandLine {
    CommonFlags common;
    worker::Role role = worker::Role::mixed;
    std::string model_dir;
    std::string model_name;                 // where its path does not say it (a model of the store)
    std::vector<std::string> served_names;  // the first is the cluster's; the others are for the gateway
    std::vector<std::string> schedulers = {kSchedulerDefault};
    std::string listen = "127.0.0.1:0";
    std::uint32_t threads = 0;  // 0: the machine's cores
    std::uint64_t worker_id = 0;
    std::int32_t admin_port = -1;
};
void add_worker(CLI::App& app, WorkerCommandLine& command);
int worker_main(const WorkerCommandLine& command);

/// `sluice gateway`.
struct GatewayCommand {
    CommonFlags common;
    std::int32_t admin_port = -1;
    std::vector<std::string> models;                   // [NAME=]DIR
    std::vector<std::string> encoders = {};            // [NAME=]DIR
    std::map<std::string, std::string> model_names{};  // of paths that do not say it (models of the store)
    NameFlags names;
    std::vector<std::string> schedulers = {kSchedulerDefault};
    std::optional<std::string> host;    // empty: gateway.host of the settings
    std::optional<std::uint16_t> port;  // empty: gateway.port of the settings
};
void add_gateway(CLI::App& app, GatewayCommand& command);
int gateway_main(const GatewayCommand& command);

/// `sluice config check|print`: the sections of all roles, with defaults, files and settings merged.
struct ConfigCommand {
    CommonFlags common;
    std::vector<std::string> files;  // as if they stood behind --config
    bool print = false;
};
int config_main(const ConfigCommand& command);
/// `sluice config diff`: the settings that two files have otherwise, and whether a process that runs takes the new one.
struct ConfigDiffCommand {
    std::string before;  // empty: the defaults
    std::string after;
    bool json = false;
};
void add_config_diff(CLI::App& app, ConfigDiffCommand& command);
int config_diff_main(const ConfigDiffCommand& command);
/// `sluice config schema`: a JSON Schema of all settings.
int config_schema_main();

}  // namespace cli
