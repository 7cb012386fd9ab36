#include "cli/lease_access.h"

#include <string>
#include <utility>

#include "scheduler/folder_lease.h"

namespace cli {
namespace {

using Lease = base::Result<std::unique_ptr<scheduler::LeaderLease>>;

template <class Kind>
Lease opened(base::Result<std::unique_ptr<Kind>> lease) {
    if (!lease) { return base::pass_on(lease, "scheduler.leader_lease"); }
    return std::unique_ptr<scheduler::LeaderLease>(std::move(*lease));
}

}  // namespace

LeaseAccess read_lease_access(base::Config& config) {
    LeaseAccess access;
    read_kubernetes_access(config, access.kubernetes);
    read_etcd_access(config, access.etcd);
    return access;
}

Lease open_lease(const scheduler::SchedulerOptions& options, const LeaseAccess& access) {
    const std::string& name = options.leader_lease;
    if (name.empty()) { return nullptr; }
    if (name.starts_with(kKubernetesPrefix)) {
        return opened(
            open_kubernetes_lease(name.substr(kKubernetesPrefix.size()), access.kubernetes, options.leader_silence));
    }
    if (name.starts_with(kEtcdPrefix)) {
        return opened(open_etcd_lease(name.substr(kEtcdPrefix.size()), access.etcd, options.leader_silence));
    }
    return opened(scheduler::FolderLease::open(name));
}

}  // namespace cli
