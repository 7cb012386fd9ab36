#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/config.h"
#include "base/result.h"
#include "cli/record_lease.h"

namespace cli {

/// Section `scheduler`, the keys etcd_*: where etcd is, and who we are to it.
struct EtcdAccess {
    std::string servers;               // https://HOST:PORT of its members, with commas; http:// on loopback alone
    std::string authority_file;        // PEM of who signed their certificates; empty: the system's
    std::string certificate_file;      // PEM that we show; empty: none
    std::string certificate_key_file;  // its key
};
void read_etcd_access(base::Config& config, EtcdAccess& access);

/// How scheduler.leader_lease names a key of etcd: etcd:KEY.
inline constexpr std::string_view kEtcdPrefix = "etcd:";

/// A lease for schedulers of several machines: one key of an etcd (3.4 or newer), whose value is the term as JSON,
/// spoken to through etcd's JSON gateway (/v3/kv). Whatever is written is written over the revision that was read, or
/// not at all. That a leader is silent is judged by who reads: no lease of etcd's own is needed.
/// `lease`: as scheduler.leader_lease_ms; a request takes a fifth of it at most, and after one without an answer the
/// next goes to another member. Nobody is asked yet. Error: invalid_argument (the key, the servers, files).
base::Result<std::unique_ptr<RecordLease>> open_etcd_lease(const std::string& key, const EtcdAccess& access,
                                                           std::chrono::milliseconds lease);

}  // namespace cli
