#pragma once

#include <boost/json/value.hpp>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/config.h"
#include "base/result.h"
#include "scheduler/leader_lease.h"

namespace cli {

/// Section `scheduler`, the keys kubernetes_*: where the API server is, and who we are to it.
struct KubernetesAccess {
    std::string server;  // https://HOST:PORT; empty: of $KUBERNETES_SERVICE_HOST and _PORT, as in every pod
    /// Folder with `token`, `ca.crt` and `namespace`, as a pod has it of its service account. Read anew when used:
    /// tokens change.
    std::string account_dir = "/var/run/secrets/kubernetes.io/serviceaccount";
};
void read_kubernetes_access(base::Config& config, KubernetesAccess& access);

/// How scheduler.leader_lease names a Lease: kubernetes:NAME, or kubernetes:NAMESPACE/NAME.
inline constexpr std::string_view kKubernetesPrefix = "kubernetes:";

/// A lease for schedulers of several machines: an object of kind Lease (coordination.k8s.io/v1) of a Kubernetes API
/// server. Whatever is written is written over the version that was read, or not at all (resourceVersion). Holder and
/// times are as every Kubernetes client writes them; serial, epoch, beat and workers are annotations.
class KubernetesLease final : public scheduler::LeaderLease {
public:
    /// `name`: NAME or NAMESPACE/NAME. `lease`: as scheduler.leader_lease_ms; a request takes a fifth of it at most.
    /// The server is not asked yet. Errors: invalid_argument (the name, the server), unavailable (no account).
    static base::Result<std::unique_ptr<KubernetesLease>> open(const std::string& name, const KubernetesAccess& access,
                                                               std::chrono::milliseconds lease);
    ~KubernetesLease() override;
    KubernetesLease(const KubernetesLease&) = delete;
    KubernetesLease& operator=(const KubernetesLease&) = delete;

    base::Result<scheduler::LeaderTerm> look() override;
    base::Result<bool> begin(const scheduler::LeaderTerm& seen, const scheduler::LeaderTerm& ours) override;
    base::Result<bool> renew(const scheduler::LeaderTerm& ours) override;
    void resign() override;
    /// Slower than in a folder: each look of a leader is a write of the cluster's store.
    std::chrono::milliseconds pause(std::chrono::milliseconds lease) const override;

private:
    class Http;
    KubernetesLease(std::string path, std::string space, std::string name, std::chrono::milliseconds lease,
                    std::unique_ptr<Http> http);
    /// object_ as it would be with this term, `over`: given back.
    boost::json::value with(const scheduler::LeaderTerm& term, bool over) const;
    /// Writes over object_, or makes it where it is null. False: the server has another version.
    base::Result<bool> write(const scheduler::LeaderTerm& term, bool over = false);

    const std::string path_;  // of all leases of the namespace
    const std::string space_;
    const std::string name_;
    const std::chrono::milliseconds lease_;
    const std::unique_ptr<Http> http_;
    boost::json::value object_;   // as the server had it last; null: it had none
    scheduler::LeaderTerm ours_;  // our term, while is_ours_
    bool is_ours_ = false;
};

}  // namespace cli
