#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "base/config.h"
#include "base/metrics.h"
#include "base/result.h"
#include "cli/process.h"
#include "gateway/core.h"
#include "scheduler/class_rules.h"

namespace cli {

/// Setting `log.level`: of what is written to the log; empty: as --log-level says.
std::string read_log_level(base::Config& config, const CommonFlags& flags);
void set_log_level(const std::string& level);

/// The settings of all roles, read as at a start, of which some may change while a process runs.
struct AllSettings {
    std::string log_level;
    gateway::GatewayChange gateway;
    scheduler::ClassRules class_rules;
    std::string merged;  // base::Config::merged()
};
/// `mint`: as read_cluster. Error: invalid_argument, with every mistake.
base::Result<AllSettings> read_all_settings(const CommonFlags& flags, bool mint);

/// A setting with its values in two texts of base::Config::merged(); "-": not there.
struct ChangedSetting {
    std::string key;
    std::string before;
    std::string after;
};
/// Those that differ, sorted by key. Pure.
std::vector<ChangedSetting> changed_settings(std::string_view before, std::string_view after);
/// Their keys.
std::vector<std::string> changed_keys(std::string_view before, std::string_view after);
/// Whether a change of the setting comes into effect without a restart. Pure.
bool may_change(std::string_view key);

/// SIGHUP reads the settings anew. What may change does; of the rest that has changed a line says that it needs a
/// restart. Where the settings are invalid the old ones stay, and a line, `sluice_config_valid` and
/// `sluice_config_reloads_total` tell.
class Reloader {
public:
    /// From here on SIGHUP does not end the process; one that comes before start() is looked at then. Before there are
    /// other threads.
    Reloader();
    ~Reloader();
    Reloader(const Reloader&) = delete;
    Reloader& operator=(const Reloader&) = delete;

    /// `flags`: with which the process was started, and started well. `apply`: takes in what is of a gateway or a
    /// scheduler; its error says why nothing of it can be taken. `metrics` is borrowed.
    using Apply = std::function<base::Result<void>(const AllSettings&)>;
    void start(const CommonFlags& flags, bool mint, base::Metrics& metrics, Apply apply = {});
    /// After this nothing is applied any more. May be called twice.
    void stop();

private:
    int ended_;  // an eventfd
    std::jthread thread_;
};

}  // namespace cli
