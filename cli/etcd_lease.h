#pragma once

#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"
#include "base/result.h"
#include "scheduler/leader_lease.h"

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
class EtcdLease final : public scheduler::LeaderLease {
public:
    /// `lease`: as scheduler.leader_lease_ms; a request takes a fifth of it at most, and after one without an answer
    /// the next goes to another member. Nobody is asked yet. Error: invalid_argument (the key, the servers, files).
    static base::Result<std::unique_ptr<EtcdLease>> open(const std::string& key, const EtcdAccess& access,
                                                         std::chrono::milliseconds lease);
    ~EtcdLease() override;
    EtcdLease(const EtcdLease&) = delete;
    EtcdLease& operator=(const EtcdLease&) = delete;

    base::Result<scheduler::LeaderTerm> look() override;
    base::Result<bool> begin(const scheduler::LeaderTerm& seen, const scheduler::LeaderTerm& ours) override;
    base::Result<bool> renew(const scheduler::LeaderTerm& ours) override;
    void resign() override;
    /// Slower than in a folder: each renewal is a write of all members.
    std::chrono::milliseconds pause(std::chrono::milliseconds lease) const override;

private:
    class Http;
    EtcdLease(std::string key, std::unique_ptr<Http> http);
    /// Writes over the revision that was seen last. False: there is another one.
    base::Result<bool> write(const scheduler::LeaderTerm& term);

    const std::string key_;  // in base64, as the gateway wants it
    const std::unique_ptr<Http> http_;
    std::int64_t revision_ = 0;   // of the key as it was seen last; 0: there was none
    scheduler::LeaderTerm seen_;  // at that revision
    scheduler::LeaderTerm ours_;  // our term, while is_ours_
    bool is_ours_ = false;
};

}  // namespace cli
