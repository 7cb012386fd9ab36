#include "cli/kv_plane.h"

#include <spdlog/spdlog.h>

#include <utility>

#include "base/loopback.h"
#include "base/tls_identity.h"
#include "net/by_host.h"
#include "net/fault.h"
#include "net/tls.h"
#include "net/ucx.h"

namespace cli {

using base::ErrorCode;

namespace {

constexpr int kPortMax = 65535;

/// Where TLS listens, without the brackets of an IPv6 address.
std::string tls_host(const KvPlaneSettings& settings, const std::string& listen_host) {
    const std::string& host = settings.host.empty() ? listen_host : settings.host;
    const bool has_brackets = host.size() > 2 && host.front() == '[' && host.back() == ']';
    return has_brackets ? host.substr(1, host.size() - 2) : host;
}

/// Listens everywhere: no address that others could connect to.
bool is_wildcard(const std::string& host) {
    return host == "0.0.0.0" || host == "::" || host == "*";
}

base::Result<std::unique_ptr<net::Transport>> make_ucx(const KvPlaneSettings& settings, const base::HashKey& key,
                                                       base::Incarnation life, const base::Clock& clock) {
    net::UcxOptions options;
    options.net_devices = settings.net_devices;
    options.key = key;
    options.life = life;
    options.environment = settings.ucx_environment;
    return net::make_ucx_transport(options, clock);
}

base::Result<std::unique_ptr<net::Transport>> make_tls(const KvPlaneSettings& settings, const std::string& listen_host,
                                                       const ClusterSettings& cluster, base::Incarnation life,
                                                       const base::Clock& clock) {
    net::TlsOptions options;
    options.key = cluster.key;
    options.certificates = cluster.certificates;
    if (!options.certificates) {
        auto identity = base::derive_tls_identity(cluster.key);
        if (!identity) { return base::pass_on(identity); }
        options.certificate_pem = std::move(identity->certificate_pem);
        options.private_key_pem = std::move(identity->private_key_pem);
    }
    options.life = life;
    options.host = tls_host(settings, listen_host);
    options.advertised_host = settings.advertised_host;
    options.port_first = settings.port;
    options.port_last = static_cast<std::uint16_t>(settings.port + settings.ports - 1);
    auto made = net::make_tls_transport(options, clock);
    if (!made) { return base::pass_on(made, "worker.kv_transport (worker.kv_host, kv_advertised_host, kv_port)"); }
    return made;
}

}  // namespace

void read_kv_plane(base::Config& config, KvPlaneSettings& settings) {
    settings.transport = config.choice("worker.kv_transport", settings.transport, {"auto", "ucx", "tls"});
    settings.host = config.string("worker.kv_host", settings.host);
    settings.advertised_host = config.string("worker.kv_advertised_host", settings.advertised_host);
    settings.port = static_cast<std::uint16_t>(config.integer("worker.kv_port", settings.port, 0, kPortMax));
    const std::int64_t ports_max = settings.port == 0 ? 1 : kPortMax + 1 - settings.port;
    settings.ports = static_cast<std::uint16_t>(config.integer("worker.kv_ports", settings.ports, 1, ports_max));
    settings.net_devices = config.string("worker.kv_net_devices", settings.net_devices);
    settings.ucx_environment = config.strings("worker.kv_ucx_environment", settings.ucx_environment);
    settings.fault_plan = config.string("test.kv_fault_plan", settings.fault_plan);
}

KvWays choose_kv_ways(const KvPlaneSettings& settings, const std::string& listen_host) {
    if (settings.transport == "ucx") { return {.ucx = true}; }
    if (settings.transport == "tls") { return {.tls = true}; }
    const std::string host = tls_host(settings, listen_host);
    const bool is_reachable =
        !base::is_loopback_host(host) && (!is_wildcard(host) || !settings.advertised_host.empty());
    return {.ucx = true, .tls = is_reachable && settings.net_devices.empty()};
}

base::Result<void> check_kv_plane(const KvPlaneSettings& settings, const CommonFlags& flags,
                                  const ClusterSettings& cluster) {
    if (!settings.net_devices.empty() && settings.transport == "tls") {
        return base::fail(ErrorCode::invalid_argument,
                          "worker.kv_net_devices is for UCX, and worker.kv_transport is tls: leave one of them out");
    }
    if (!settings.net_devices.empty() && !cluster.trusted_network) {
        return base::fail(ErrorCode::permission_denied,
                          "worker.kv_net_devices is " + settings.net_devices +
                              ": UCX neither knows who connects nor survives garbage, so this needs a network on which "
                              "everybody is trusted (--set cluster.trusted_network=true); without it workers of one "
                              "host use shared memory, and those of several TLS");
    }
    return settings.host.empty() ? base::Result<void>() : check_listen_host(settings.host, flags);
}

base::Result<std::unique_ptr<net::Transport>> make_kv_transport(const KvPlaneSettings& settings,
                                                                const std::string& listen_host,
                                                                const ClusterSettings& cluster, base::Incarnation life,
                                                                const base::Clock& clock) {
    const base::HashKey& key = cluster.key;
    const KvWays ways = choose_kv_ways(settings, listen_host);
    std::unique_ptr<net::Transport> local;
    std::unique_ptr<net::Transport> remote;
    if (ways.ucx) {
        auto made = make_ucx(settings, key, life, clock);
        if (!made) { return base::pass_on(made); }
        local = std::move(*made);
    }
    if (ways.tls) {
        auto made = make_tls(settings, listen_host, cluster, life, clock);
        if (!made) { return base::pass_on(made); }
        remote = std::move(*made);
    }
    if (!ways.tls && settings.transport == "auto" && settings.net_devices.empty() &&
        is_wildcard(tls_host(settings, listen_host))) {
        spdlog::warn("KV goes to workers of this host alone: {} is no address for others (worker.kv_advertised_host)",
                     listen_host);
    }
    spdlog::info("KV goes over {}", !ways.tls  ? "UCX"
                                    : ways.ucx ? "UCX inside this host and TLS between hosts"
                                               : "TLS");
    auto transport = net::make_by_host_transport({.key = key, .life = life, .host = net::this_host(key)},
                                                 std::move(local), std::move(remote));
    if (settings.fault_plan.empty()) { return transport; }
    auto plan = net::parse_fault_plan(settings.fault_plan);
    if (!plan) { return base::pass_on(plan, "test.kv_fault_plan"); }
    spdlog::warn("the KV plane has faults by configuration: {}", settings.fault_plan);
    return net::make_fault_transport(std::move(transport), std::move(*plan), clock);
}

}  // namespace cli
