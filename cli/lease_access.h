#pragma once

#include <memory>

#include "base/config.h"
#include "base/result.h"
#include "cli/etcd_lease.h"
#include "cli/kubernetes_lease.h"
#include "scheduler/leader_lease.h"
#include "scheduler/options.h"

namespace cli {

/// What the leases of several machines need besides their name, of the section `scheduler`.
struct LeaseAccess {
    KubernetesAccess kubernetes;
    EtcdAccess etcd;
};
LeaseAccess read_lease_access(base::Config& config);

/// The lease that scheduler.leader_lease names: kubernetes:..., etcd:..., else a folder; null where it names none.
/// Error: as of the kind's open(), with the setting's name.
base::Result<std::unique_ptr<scheduler::LeaderLease>> open_lease(const scheduler::SchedulerOptions& options,
                                                                 const LeaseAccess& access);

}  // namespace cli
