#pragma once

#include <CLI/CLI.hpp>
#include <atomic>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/metrics.h"
#include "base/result.h"
#include "cli/admin_server.h"
#include "cli/fleet_desk.h"
#include "cli/operator_access.h"
#include "cli/otlp_exporter.h"
#include "cli/process.h"
#include "cli/reload.h"
#include "cli/served_models.h"
#include "cli/stack_pools.h"
#include "cli/top_view.h"
#include "cli/worker_process.h"
#include "gateway/server.h"
#include "scheduler/service.h"

namespace cli {

/// `sluice serve`: every role in one process, over the same protocols as between machines.
struct ServeOptions {
    CommonFlags common;
    std::vector<std::string> models;         // [NAME=]MODEL, a folder or a GGUF file; each on workers of its own
    std::vector<std::string> encoders = {};  // [NAME=]MODEL of sentence encoders, each on workers of its own
    NameFlags names;                         // none: gateway.model of the settings, else the models' own names
    std::map<std::string, std::string> model_names{};  // of paths that do not say it (models of the store)
    std::optional<std::string> host;                   // empty: gateway.host of the settings
    std::optional<std::uint16_t> port;                 // empty: gateway.port of the settings
    std::string plan = {};                             // a placement file, in place of the next three
    std::uint32_t prefill = 1;                         // of each model, like the next two
    std::uint32_t decode = 1;
    std::uint32_t mixed = 0;
    std::uint32_t encode = 1;      // of each encoder
    std::uint32_t threads = 0;     // compute threads of all engines together; 0: the machine's cores
    std::int32_t admin_port = -1;  // -1: no admin listener; 0: any free port
};

/// All roles of one machine, started in order. Ends them in reverse order.
class LocalStack {
public:
    static base::Result<std::unique_ptr<LocalStack>> start(const ServeOptions& options);
    ~LocalStack();

    std::uint16_t port() const;
    /// Of the first model, which is meant where a client names none.
    const std::string& served_name() const { return served_names_.front(); }
    /// Lines for people: addresses and limits in effect.
    std::string banner() const;
    /// Waits until requests can be placed. False when that took longer than `patience`.
    bool wait_until_ready(base::Duration patience) const;
    /// That of the first worker that has lost its device: then none of this process can use it (WorkerProcess).
    std::optional<base::Error> device_lost() const;
    base::Metrics& metrics() { return metrics_; }
    /// As Reloader::Apply.
    base::Result<void> change(const AllSettings& settings);
    void drain_and_stop();

private:
    LocalStack() = default;
    /// The admin listener where one is asked for, with the fleet page where the settings have it.
    base::Result<void> start_admin(const ServeOptions& options, const gateway::GatewayOptions& gateway,
                                   const std::string& keys_file, const proto::ClusterKey& key);
    std::string address() const;  // of the gateway, without a path
    TopMoment look_at_itself();

    base::SystemClock clock_;
    base::Metrics metrics_;
    std::unique_ptr<OtlpExporter> exporter_;  // null: nothing is traced
    std::vector<std::string> served_names_;
    std::vector<ServedNeeds> models_;
    std::size_t workers_each_ = 0;  // of each of models_; they come before those that encode
    std::string host_;
    std::string scheme_;
    std::string merged_config_;
    std::unique_ptr<scheduler::SchedulerServer> scheduler_;
    std::vector<std::unique_ptr<WorkerProcess>> workers_;
    std::unique_ptr<gateway::GatewayServer> gateway_;
    std::shared_ptr<std::atomic<bool>> is_ready_ = std::make_shared<std::atomic<bool>>(false);  // of wait_until_ready()
    bool has_page_ = false;
    bool has_fleet_page_ = false;
    MadeKey fleet_key_;  // empty where there is a file of keys
    std::unique_ptr<SchedulerAccess> scheduler_access_;
    std::unique_ptr<AdminServer> admin_;
};

void add_serve(CLI::App& app, ServeOptions& options);
int serve_main(const ServeOptions& options);

/// Of a process with a gateway, which says itself for which models there are workers (/ready?verbose at its own port).
gateway::ReadyParts ready_parts_of_gateway(bool is_ready);

/// Load progress for people: a line on stderr, rewritten in place on a terminal, every quarter elsewhere.
std::function<void(std::uint64_t, std::uint64_t)> load_progress(std::string label);

}  // namespace cli
