#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/ids.h"
#include "base/result.h"
#include "cli/process.h"
#include "net/transport.h"

namespace cli {

/// How the KV of a worker travels: section `worker`, the keys kv_*.
struct KvPlaneSettings {
    std::string transport = "auto";            // auto, ucx, tls
    std::string host;                          // where TLS listens; empty: where the worker does
    std::string advertised_host;               // where others reach it; empty: there
    std::uint16_t port = 0;                    // of TLS; 0: any free one
    std::uint16_t ports = 1;                   // so many are tried, from `port` on
    std::string net_devices;                   // net::UcxOptions
    std::vector<std::string> ucx_environment;  // the same
    std::string fault_plan;                    // net::parse_fault_plan; empty: none (tests)
};

/// Error comes from config.finish(), later.
void read_kv_plane(base::Config& config, KvPlaneSettings& settings);

/// Which transports a worker has that listens on `listen_host`.
struct KvWays {
    bool ucx = false;
    bool tls = false;
};
/// auto: UCX, and TLS too where others can reach the worker at all (it listens beyond loopback, at an address that can
/// be told) and no device of a trusted network is named for UCX.
KvWays choose_kv_ways(const KvPlaneSettings& settings, const std::string& listen_host);

/// Error: permission_denied (beyond loopback without --listen-public, UCX on devices of a network that is not trusted),
/// invalid_argument (settings that contradict each other).
base::Result<void> check_kv_plane(const KvPlaneSettings& settings, const CommonFlags& flags,
                                  const ClusterSettings& cluster);

/// The transport of a worker's life, not started. Errors: as the transports'; of the fault plan.
base::Result<std::unique_ptr<net::Transport>> make_kv_transport(const KvPlaneSettings& settings,
                                                                const std::string& listen_host,
                                                                const ClusterSettings& cluster, base::Incarnation life,
                                                                const base::Clock& clock);

}  // namespace cli
