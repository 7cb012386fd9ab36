#pragma once

#include <CLI/CLI.hpp>
#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/certificates.h"
#include "base/clock.h"
#include "base/config.h"
#include "base/metrics.h"
#include "base/result.h"
#include "proto/cluster_key.h"
#include "proto/version.h"

namespace cli {

/// What `--model` takes (cli/model/resolve.h).
inline constexpr const char* kModelHelp =
    "a model's folder, a GGUF file, or a name of the store or the catalogue (sluice model list)";
/// The same where one need not be named (cli::model::kDefaultModel).
inline constexpr const char* kChatModelHelp =
    "a model's folder, a GGUF file, or a name of the store or the catalogue (sluice model list); default: "
    "smollm2-135m-instruct, pulled at its first use, or the built-in stories260k where it cannot be had";

/// Flags that every long-running subcommand takes.
struct CommonFlags {
    std::vector<std::string> config_files;
    std::vector<std::string> settings;  // key=value
    std::string log_level = "info";
    bool listen_public = false;  // may listen on more than loopback
};
void add_common_flags(CLI::App& app, CommonFlags& flags);

/// Where a scheduler listens, and is looked for, if nothing is said.
inline constexpr const char* kSchedulerDefault = "127.0.0.1:7000";
/// `--scheduler`: the addresses of all schedulers of a cluster.
void add_scheduler_flag(CLI::App& app, std::vector<std::string>& addresses);

/// Files first, then settings; both count over `below`, settings as text that came from `name`. Error: as base::Config.
base::Result<base::Config> read_config(const CommonFlags& flags, const std::string& below = {},
                                       const std::string& name = {});

/// Section `cluster`: what all processes of one cluster have in common.
struct ClusterSettings {
    base::HashKey key;               // one of cluster.key, cluster.key_file, $SLUICE_CLUSTER_KEY
    bool is_minted = false;          // or made up for this process
    bool trusted_network = false;    // everybody on the network between the processes is trusted: no TLS is needed
    bool always_tls = false;         // also between processes of one host, and in a trusted network
    bool admit_without_key = false;  // serve processes that show no key (older versions, during an upgrade)
    /// Of this process, in its role; null: all are one identity, by the key.
    std::shared_ptr<base::Certificates> certificates = {};
    std::shared_ptr<proto::Peers> peers = {};
    std::chrono::milliseconds certificates_look{1000};

    proto::ClusterKey control() const;
    /// Takes the certificates of these files. Errors of base::Certificates::open.
    base::Result<void> use(base::CertificateFiles files);
    /// Error: invalid_argument where there is a certificate, and it is of another role.
    base::Result<void> check_role(base::PeerRole role) const;
};
/// `mint`: make a key up where there is none (a process that holds all roles).
/// Errors: invalid_argument (no key, two keys, not a key; certificates that contradict other settings),
/// permission_denied (a key file that others can read), those of ClusterSettings::use.
base::Result<ClusterSettings> read_cluster(base::Config& config, bool mint);
/// 32 hexadecimal digits from a file that nobody but its owner and his group can read. Errors as read_cluster.
base::Result<base::HashKey> read_key_file(const std::string& path);
/// $SLUICE_CLUSTER_KEY; none where it is not set. Error: invalid_argument.
base::Result<std::optional<base::HashKey>> key_of_environment();

/// Error: permission_denied when `host` is more than loopback and `flags` do not allow it.
base::Result<void> check_listen_host(const std::string& host, const CommonFlags& flags);
/// "host:port" taken apart. Error: invalid_argument.
base::Result<std::pair<std::string, std::uint16_t>> split_address(const std::string& address);

/// Something that may happen once, on any thread.
class Event {
public:
    Event();
    ~Event();
    Event(const Event&) = delete;
    Event& operator=(const Event&) = delete;

    void set();
    /// True once it is set. Ends without it after `patience`, and when the process is asked to end (a signal, or
    /// ask_to_end(); whoever waits for that sees it still). In the main thread.
    bool wait(base::Duration patience) const;

private:
    int descriptor_;
};

/// Blocks SIGINT and SIGTERM in this thread and all that it starts later. Call first in main.
void block_signals();
/// Waits for SIGINT, SIGTERM or ask_to_end().
void wait_for_end();
/// Ends the wait of wait_for_end(), also one that begins later. Any thread.
void ask_to_end();
/// True once SIGINT or SIGTERM has come: for steps that end in order when asked to (a download). In the main thread.
bool end_asked();
/// Ends the process now if SIGINT or SIGTERM has come: for steps before there is anything to finish (loading).
void end_if_asked();
/// From now on a second signal ends the process at once (the first has begun an orderly end). In the main thread.
void unblock_signals();

/// This program in a line: its name, version, commit and kind of build.
std::string version_line();
/// The same, and the protocol that it speaks, as one object of JSON.
std::string version_json();

/// The row `sluice_build_info`, always 1: which version this process is of.
void tell_version(base::Metrics& metrics);

/// Prints "sluice: message" to stderr; returns the exit status (2 for bad input, 130 when it was interrupted, else 1).
int report(const base::Error& error);

}  // namespace cli
