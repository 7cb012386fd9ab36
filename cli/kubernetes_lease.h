#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>

#include "base/config.h"
#include "base/result.h"
#include "cli/record_lease.h"

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
/// `name`: NAME or NAMESPACE/NAME. `lease`: as scheduler.leader_lease_ms; a request takes a fifth of it at most. The
/// server is not asked yet. Errors: invalid_argument (the name, the server), unavailable (no account).
base::Result<std::unique_ptr<RecordLease>> open_kubernetes_lease(const std::string& name,
                                                                 const KubernetesAccess& access,
                                                                 std::chrono::milliseconds lease);

}  // namespace cli
