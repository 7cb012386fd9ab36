#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>
#include <vector>

#include "base/block_hash.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/result.h"
#include "net/transport.h"

namespace net {

struct UcxOptions {
    Limits limits{};
    /// Network devices for TCP and RDMA: a list of names, or "all". Empty: shared memory alone, and no socket that
    /// listens. UCX has no authentication and its TCP dies of garbage, so name only devices of a trusted network.
    std::string net_devices = {};
    /// Where devices are named: what UCX may use, in its own words (tcp, ...). Empty: whatever it finds.
    std::string transports = {};
    /// Of the cluster. Addresses carry a MAC under it, and UCX is given none whose MAC is wrong.
    base::HashKey key = {};
    /// The life that the address names; none: one drawn at random.
    base::Incarnation life = {};
    /// UCX_* variables of the environment that UCX may see, by name. All others are taken out of it: what UCX does is
    /// for our settings to say.
    std::vector<std::string> environment = {};
    std::size_t commands_max = 4096;        // waiting for the transport's thread
    std::size_t sends_inflight_max = 1024;  // per transport
    std::size_t peers_max = 256;
    base::Duration connect_timeout = std::chrono::seconds(3);
    base::Duration idle_spin = std::chrono::microseconds(20);    // polls so long before it sleeps
    base::Duration moving_spin = std::chrono::microseconds(50);  // the same while a message is on its way
};

/// A transport over UCX: shared memory on one host; where devices are named also TCP or RDMA, as UCX finds. One worker
/// and one thread; several transports may live in one process. The first call sets the UCX_* environment variables
/// that our error handling needs and takes others out: call it before other threads read the environment.
/// Error: unavailable (UCX refuses; with its words). `clock` must outlive the transport.
[[nodiscard]] base::Result<std::unique_ptr<Transport>> make_ucx_transport(const UcxOptions& options,
                                                                          const base::Clock& clock);

/// "1.13.1", for `doctor` and logs.
const char* ucx_version();

}  // namespace net
