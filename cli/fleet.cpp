#include "cli/fleet.h"

#include <chrono>
#include <cstdint>
#include <cstdio>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/metrics.h"
#include "cli/admin_server.h"
#include "cli/certificate_watch.h"
#include "cli/fleet_desk.h"
#include "cli/served_models.h"
#include "cli/top_look.h"

namespace cli {
namespace {

constexpr std::chrono::seconds kDescribeTimeout{3};
constexpr std::chrono::seconds kDrainTimeout{5};

base::Result<void> run_fleet(const FleetCommand& command) {
    const base::SystemClock clock;
    base::Metrics metrics;
    tell_version(metrics);
    const auto urls = expand_urls(command.urls);
    if (!urls) { return base::pass_on(urls); }
    const auto address = split_address(command.listen);
    if (!address) { return base::pass_on(address); }
    CommonFlags flags;
    flags.listen_public = command.listen_public;
    if (auto allowed = check_listen_host(address->first, flags); !allowed) { return allowed; }
    const auto cluster = operator_cluster(command.access);
    if (!cluster) { return base::pass_on(cluster); }
    const CertificateWatch certificates(cluster->certificates, cluster->certificates_look, metrics);

    SchedulerAccess schedulers(command.access.schedulers, cluster->control());
    MadeKey made;
    FleetDesk::Setup setup{
        .look = [&] { return look_at(*urls, command.api_key, clock); },
        .describe = [&]() -> base::Result<proto::DescribeReply> {
            auto told = schedulers.describe(kDescribeTimeout);
            if (!told) { return base::pass_on(told, joined(command.access.schedulers)); }
            return told;
        },
        .drain = [&](std::uint64_t worker,
                     std::uint64_t incarnation) { return schedulers.drain(worker, incarnation, kDrainTimeout); },
        .keys_file = command.keys_file,
        .clock = clock,
        .look_interval = std::chrono::duration_cast<base::Duration>(std::chrono::duration<double>(command.interval_s))};
    if (command.keys_file.empty()) {
        made = make_admin_key();
        setup.keys = {made.key};
    }
    auto desk = FleetDesk::open(std::move(setup));
    if (!desk) { return base::pass_on(desk, "--keys-file"); }
    const auto admin = AdminServer::start(
        address->first, address->second, command.listen_public, clock, metrics, [] { return gateway::ReadyParts(); },
        {}, std::move(*desk));
    if (!admin) { return base::pass_on(admin); }
    std::fprintf(stderr, "sluice fleet at http://%s:%u/fleet, %s\n", address->first.c_str(), unsigned{(*admin)->port()},
                 made.secret.empty() ? ("for keys of scope admin in " + command.keys_file).c_str()
                                     : ("with the key " + made.secret + ", made for this run").c_str());
    wait_for_end();
    unblock_signals();
    return {};
}

}  // namespace

void add_fleet(CLI::App& app, FleetCommand& command) {
    add_look_flags(app, command.urls, command.api_key);
    add_operator_flags(app, command.access);
    app.add_option("--keys-file", command.keys_file,
                   "API keys (sluice keys add --scopes admin): who has one of scope admin may look and drain; default: "
                   "a key that is made for this run, and printed");
    app.add_option("--listen", command.listen, "HOST:PORT of the page; port 0: any free one")->capture_default_str();
    app.add_option("--interval", command.interval_s, "seconds between two looks at the cluster, while somebody watches")
        ->check(CLI::Range(0.1, 3600.0))
        ->capture_default_str();
    app.add_flag("--listen-public", command.listen_public,
                 "allow listening beyond loopback: the page is in the clear, and so are the keys that are shown to it");
}

int fleet_main(const FleetCommand& command) {
    base::init_log({.role = "fleet", .level = "info"});
    const auto done = run_fleet(command);
    return done ? 0 : report(done.error());
}

}  // namespace cli
