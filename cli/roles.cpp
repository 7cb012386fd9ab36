#include "cli/roles.h"

#include <fmt/format.h>
#include <unistd.h>

#include <atomic>
#include <boost/json.hpp>
#include <cstdio>
#include <memory>
#include <utility>

#include "base/clock.h"
#include "base/config_asked.h"
#include "base/log.h"
#include "base/log_file.h"
#include "base/metrics.h"
#include "cli/admin_server.h"
#include "cli/certificate_watch.h"
#include "cli/config_schema.h"
#include "cli/divide_cores.h"
#include "cli/lease_access.h"
#include "cli/otlp_exporter.h"
#include "cli/reload.h"
#include "cli/serve.h"
#include "cli/served_models.h"
#include "cli/worker_process.h"
#include "cli/worker_readiness.h"
#include "gateway/server.h"
#include "scheduler/service.h"

namespace cli {
namespace {

/// The admin listener where one was asked for; says its address.
base::Result<std::unique_ptr<AdminServer>> start_admin(std::int32_t port, const std::string& host,
                                                       const std::string& keys_file, const CommonFlags& flags,
                                                       const base::Clock& clock, base::Metrics& metrics,
                                                       AdminServer::Ready ready,
                                                       std::function<void()> before_metrics = {}) {
    if (port < 0) { return nullptr; }
    auto admin = AdminServer::start(host, static_cast<std::uint16_t>(port), flags.listen_public, clock, metrics,
                                    std::move(ready), std::move(before_metrics), nullptr, keys_file);
    if (admin) { std::fprintf(stderr, "  admin at http://%s:%u/metrics\n", host.c_str(), unsigned{(*admin)->port()}); }
    return admin;
}

void wait_then_say_goodbye() {
    wait_for_end();
    unblock_signals();
    spdlog::info("ending: finishing what runs (a second signal ends at once)");
}

/// One file serves all roles: a role knows the sections of the others, too, and says what is wrong in them.
void know_worker_sections(base::Config& config) {
    WorkerSetup unused;
    read_worker_config(config, unused);
}
void know_scheduler_section(base::Config& config) {
    scheduler::SchedulerOptions::read(config);
    read_lease_access(config);
}
void know_gateway_sections(base::Config& config) {
    gateway::GatewayOptions::read(config);
    read_text_config(config);
}
void know_tracing_section(base::Config& config) {
    TracingOptions::read(config);
}

base::Result<void> run_scheduler(const SchedulerCommand& command) {
    const base::SystemClock clock;
    base::Metrics metrics;
    Reloader reloader;
    tell_version(metrics);
    auto config = read_config(command.common);
    if (!config) { return base::pass_on(config); }
    set_log_level(read_log_level(*config, command.common));
    const auto log_file = base::LogFile::read(*config);
    const auto admin_keys_file = read_admin_keys_file(*config);
    const auto options = scheduler::SchedulerOptions::read(*config);
    const LeaseAccess lease_access = read_lease_access(*config);
    const auto cluster = read_cluster(*config, false);
    if (!cluster) { return base::pass_on(cluster); }
    if (auto fits = cluster->check_role(base::PeerRole::scheduler); !fits) { return fits; }
    know_gateway_sections(*config);
    know_worker_sections(*config);
    know_tracing_section(*config);
    if (const auto read = config->finish(); !read) { return base::pass_on(read); }
    if (const auto opened = log_file.open("scheduler"); !opened) { return base::pass_on(opened); }
    const auto address = split_address(command.listen);
    if (!address) { return base::pass_on(address); }
    if (const auto allowed = check_listen_host(address->first, command.common); !allowed) {
        return base::pass_on(allowed);
    }

    const CertificateWatch certificates(cluster->certificates, cluster->certificates_look, metrics);
    auto lease = open_lease(options, lease_access);
    if (!lease) { return base::pass_on(lease); }
    const bool may_stand_by = *lease != nullptr;
    auto server = scheduler::SchedulerServer::start(options, command.listen, clock, metrics, cluster->control(),
                                                    std::move(*lease));
    if (!server) { return base::pass_on(server); }
    std::fprintf(stderr, "sluice scheduler at %s%s\n", (*server)->address().c_str(),
                 may_stand_by ? (", one of those that share " + options.leader_lease).c_str() : "");
    const auto is_ending = std::make_shared<std::atomic<bool>>(false);
    const auto admin = start_admin(
        command.admin_port, address->first, admin_keys_file, command.common, clock, metrics,
        [served = server->get(), may_stand_by, is_ending] {
            const bool leads = served->leads();
            return gateway::ReadyParts{
                {.name = "requests", .is_ready = !*is_ending, .words = *is_ending ? "it ends" : "taken where it leads"},
                {.name = "lease",
                 .words = !may_stand_by ? "this scheduler is alone"
                          : leads       ? "it leads"
                                        : "it stands by, which is what it is for"}};
        });
    if (!admin) { return base::pass_on(admin); }
    reloader.start(command.common, false, metrics,
                   [served = server->get()](const AllSettings& settings) -> base::Result<void> {
                       served->set_class_rules(settings.class_rules);
                       return {};
                   });
    wait_then_say_goodbye();
    *is_ending = true;
    reloader.stop();
    (*server)->drain_and_stop();
    return {};
}

base::Result<void> run_worker(const WorkerCommandLine& command) {
    const base::SystemClock clock;
    base::Metrics metrics;
    Reloader reloader;
    tell_version(metrics);
    auto config = read_config(command.common);
    if (!config) { return base::pass_on(config); }
    set_log_level(read_log_level(*config, command.common));
    const auto log_file = base::LogFile::read(*config);
    const auto admin_keys_file = read_admin_keys_file(*config);
    const auto cluster = read_cluster(*config, false);
    if (!cluster) { return base::pass_on(cluster); }
    if (const auto role = base::peer_role_of(worker::role_name(command.role))) {
        if (auto fits = cluster->check_role(*role); !fits) { return fits; }
    }
    WorkerSetup setup;
    read_worker_config(*config, setup);
    know_scheduler_section(*config);
    know_gateway_sections(*config);
    setup.text = read_text_config(*config);
    const auto tracing = TracingOptions::read(*config);
    if (const auto read = config->finish(); !read) { return base::pass_on(read); }
    if (const auto opened = log_file.open(std::string(worker::role_name(command.role))); !opened) {
        return base::pass_on(opened);
    }
    const auto address = split_address(command.listen);
    if (!address) { return base::pass_on(address); }
    if (const auto allowed = check_listen_host(address->first, command.common); !allowed) {
        return base::pass_on(allowed);
    }
    if (const auto allowed = check_kv_plane(setup.kv_plane, command.common, *cluster); !allowed) {
        return base::pass_on(allowed);
    }
    if (const auto allowed = check_kv_events(setup.kv_events, *cluster); !allowed) { return base::pass_on(allowed); }

    const CertificateWatch certificates(cluster->certificates, cluster->certificates_look, metrics);
    setup.role = command.role;
    setup.name = fmt::format("{}-{}", worker::role_name(command.role), getpid());
    setup.served_name = served_name(first_name(command.served_names), gateway::GatewayOptions{}.model,
                                    command.model_name.empty() ? command.model_dir : command.model_name);
    setup.scheduler_addresses = command.schedulers;
    setup.listen_host = address->first;
    setup.listen_port = address->second;
    setup.worker_id = command.worker_id;
    setup.cluster = *cluster;
    setup.engine.model_dir = command.model_dir;
    setup.engine.threads = command.threads == 0 ? usable_cores() : command.threads;
    const auto exporter = start_exporter(tracing, "sluice-" + std::string(worker::role_name(command.role)), metrics);
    if (!exporter) { return base::pass_on(exporter); }
    setup.spans = exporter->get();
    std::unique_ptr<WorkerProcess> process;  // outlives who tells of it
    WorkerReadiness readiness(clock);
    const auto admin = start_admin(command.admin_port, address->first, admin_keys_file, command.common, clock, metrics,
                                   [&readiness] { return readiness.parts(); });
    if (!admin) { return base::pass_on(admin); }
    auto started =
        WorkerProcess::start(std::move(setup), clock, metrics,
                             [&readiness, show = load_progress(std::string(worker::role_name(command.role)))](
                                 std::uint64_t done, std::uint64_t total) {
                                 readiness.at(done, total);
                                 show(done, total);
                             });
    if (!started) { return base::pass_on(started); }
    process = std::move(*started);
    readiness.started([worker = process.get()] { return worker->ready_parts(); });
    std::fprintf(stderr, "sluice %s\n", process->describe().c_str());
    reloader.start(command.common, false, metrics);
    wait_then_say_goodbye();
    reloader.stop();
    process->drain_and_stop();
    if (auto lost = process->device_lost()) { return tl::unexpected(std::move(*lost)); }
    return {};
}

base::Result<void> run_gateway(const GatewayCommand& command) {
    const base::SystemClock clock;
    base::Metrics metrics;
    Reloader reloader;
    tell_version(metrics);
    auto config = read_config(command.common);
    if (!config) { return base::pass_on(config); }
    set_log_level(read_log_level(*config, command.common));
    const auto log_file = base::LogFile::read(*config);
    const auto admin_keys_file = read_admin_keys_file(*config);
    const auto cluster = read_cluster(*config, false);
    if (!cluster) { return base::pass_on(cluster); }
    if (auto fits = cluster->check_role(base::PeerRole::gateway); !fits) { return fits; }
    auto options = gateway::GatewayOptions::read(*config);
    const auto text_options = read_text_config(*config);
    const auto tracing = TracingOptions::read(*config);
    know_scheduler_section(*config);
    know_worker_sections(*config);
    if (const auto read = config->finish(); !read) { return base::pass_on(read); }
    if (const auto opened = log_file.open("gateway"); !opened) { return base::pass_on(opened); }
    options.http.host = command.host.value_or(options.http.host);
    options.http.port = command.port.value_or(options.http.port);
    options.http.allow_public |= command.common.listen_public;
    add_aliases(command.names, options);
    if (command.models.empty() && command.encoders.empty()) {
        return base::fail(base::ErrorCode::invalid_argument, "name what is served: --model MODEL, --encoder MODEL");
    }
    const CertificateWatch certificates(cluster->certificates, cluster->certificates_look, metrics);
    auto named = command.models.empty() ? base::Result<std::vector<NamedModel>>()
                                        : read_models(command.models, first_name(command.names.served_names),
                                                      options.model, command.model_names);
    if (!named) { return base::pass_on(named); }
    const auto encoders = read_encoders(command.encoders, command.model_names);
    if (!encoders) { return base::pass_on(encoders); }
    named->insert(named->end(), encoders->begin(), encoders->end());
    auto models = load_text(*named, text_options);
    if (!models) { return base::pass_on(models); }
    const auto exporter = start_exporter(tracing, "sluice-gateway", metrics);
    if (!exporter) { return base::pass_on(exporter); }
    auto server =
        gateway::GatewayServer::start({.options = options,
                                       .models = std::move(*models),
                                       .scheduler_addresses = command.schedulers,
                                       .hash_key = cluster->key,
                                       .control = cluster->control(),
                                       .clock = clock,
                                       .metrics = metrics,
                                       .tracing = {.spans = exporter->get(), .sampled_share = tracing.sampled_share}});
    if (!server) { return base::pass_on(server); }
    std::fprintf(stderr, "sluice gateway serves %s at %s://%s:%u/v1\n", joined(names_of(*named)).c_str(),
                 options.tls_certificate_file.empty() ? "http" : "https", options.http.host.c_str(),
                 unsigned{(*server)->port()});
    const auto is_ready = std::make_shared<std::atomic<bool>>(false);
    (*server)->when_ready([is_ready] { *is_ready = true; });
    const auto admin = start_admin(
        command.admin_port, options.http.host, admin_keys_file, command.common, clock, metrics,
        [is_ready] { return ready_parts_of_gateway(*is_ready); },
        [served = server->get()] { served->refresh_metrics(); });
    if (!admin) { return base::pass_on(admin); }
    reloader.start(command.common, false, metrics,
                   [served = server->get()](const AllSettings& settings) { return served->change(settings.gateway); });
    wait_then_say_goodbye();
    reloader.stop();
    *is_ready = false;
    (*server)->drain_and_stop();
    return {};
}

int status_of(const base::Result<void>& result) {
    return result ? 0 : report(result.error());
}

}  // namespace

void add_scheduler(CLI::App& app, SchedulerCommand& command) {
    app.add_option("--listen", command.listen, "HOST:PORT of the control plane")->capture_default_str();
    app.add_option("--admin-port", command.admin_port, "serve /metrics, /live, /ready here; 0: any free port");
    add_common_flags(app, command.common);
}

void add_worker(CLI::App& app, WorkerCommandLine& command) {
    app.add_option("--model", command.model_dir, kModelHelp)->required();
    app.add_option("--served-name", command.served_names,
                   "model name in the API; default: the folder's or the file's name; further ones are the gateway's")
        ->allow_extra_args(false);
    add_scheduler_flag(app, command.schedulers);
    app.add_option("--listen", command.listen, "HOST:PORT of this worker's control plane")->capture_default_str();
    app.add_option("--threads", command.threads, "compute threads; 0: the machine's cores")->capture_default_str();
    app.add_option("--id", command.worker_id, "worker id that survives a restart; default: a random one");
    app.add_option("--admin-port", command.admin_port, "serve /metrics, /live, /ready here; 0: any free port");
    add_common_flags(app, command.common);
}

void add_gateway(CLI::App& app, GatewayCommand& command) {
    app.add_option("--model", command.models,
                   std::string("[NAME=]MODEL: ") + kModelHelp +
                       "; of it tokenizer and chat template; several times for several models")
        ->allow_extra_args(false);
    app.add_option("--encoder", command.encoders,
                   "[NAME=]MODEL: a sentence encoder that workers of role encode run; of it the tokenizer; several "
                   "times for several")
        ->allow_extra_args(false);
    add_name_flags(app, command.names);
    add_scheduler_flag(app, command.schedulers);
    app.add_option("--host", command.host, "address to listen on; default 127.0.0.1");
    app.add_option("--port", command.port, "port to listen on; 0: any free one; default 8000");
    app.add_option("--admin-port", command.admin_port,
                   "also serve /metrics, /live and /ready on this port, with API keys if admin.keys_file names some; "
                   "0: any free one; default: not");
    add_common_flags(app, command.common);
}

int scheduler_main(const SchedulerCommand& command) {
    base::init_log({.role = "scheduler", .level = command.common.log_level});
    return status_of(run_scheduler(command));
}

int worker_main(const WorkerCommandLine& command) {
    base::init_log({.role = std::string(worker::role_name(command.role)), .level = command.common.log_level});
    return status_of(run_worker(command));
}

int gateway_main(const GatewayCommand& command) {
    base::init_log({.role = "gateway", .level = command.common.log_level});
    return status_of(run_gateway(command));
}

int config_main(const ConfigCommand& command) {
    CommonFlags flags = command.common;
    flags.config_files.insert(flags.config_files.end(), command.files.begin(), command.files.end());
    const auto settings = read_all_settings(flags, true);
    if (!settings) { return report(settings.error()); }
    if (command.print) {
        std::printf("%s", settings->merged.c_str());
    } else {
        std::printf("the configuration is valid\n");
    }
    return 0;
}

void add_config_diff(CLI::App& app, ConfigDiffCommand& command) {
    app.add_option("before", command.before, "YAML settings; with one file alone the defaults are compared with it")
        ->required();
    app.add_option("after", command.after, "YAML settings in their place");
    app.add_flag("--json", command.json, "as JSON");
}

int config_diff_main(const ConfigDiffCommand& command) {
    const bool is_alone = command.after.empty();
    CommonFlags before;
    CommonFlags after;
    if (!is_alone) { before.config_files = {command.before}; }
    after.config_files = {is_alone ? command.before : command.after};
    const auto old_settings = read_all_settings(before, true);
    if (!old_settings) { return report(old_settings.error()); }
    const auto new_settings = read_all_settings(after, true);
    if (!new_settings) { return report(new_settings.error()); }
    boost::json::array all;
    for (const ChangedSetting& one : changed_settings(old_settings->merged, new_settings->merged)) {
        if (command.json) {
            all.push_back(boost::json::object{{"setting", one.key},
                                              {"before", one.before},
                                              {"after", one.after},
                                              {"takes_effect", may_change(one.key) ? "reload" : "restart"}});
        } else {
            std::printf("%s: %s -> %s%s\n", one.key.c_str(), one.before.c_str(), one.after.c_str(),
                        may_change(one.key) ? "  (reload)" : "");
        }
    }
    if (command.json) { std::printf("%s\n", boost::json::serialize(all).c_str()); }
    return 0;
}

int config_schema_main() {
    // Sections whose keys are names of the user's are asked for once one is there.
    CommonFlags flags;
    for (const char* section : {"slo_classes.any-name.ttft_ms=0", "scheduler.tenant_weights.any-name=1",
                                "caching.semantic.categories.any-name.prototypes=[a question]"}) {
        flags.settings.emplace_back(section);
    }
    const base::AskedKeys asked;
    if (const auto settings = read_all_settings(flags, true); !settings) { return report(settings.error()); }
    std::printf("%s", pretty_json(config_schema(asked.keys())).c_str());
    return 0;
}

}  // namespace cli
