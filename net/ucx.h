#pragma once

#include <chrono>
#include <cstddef>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/result.h"
#include "net/transport.h"

namespace net {

struct UcxOptions {
    Limits limits{};
    /// UCX listens on these network devices: a list of names, or "all". The user's UCX_NET_DEVICES wins. Shared memory
    /// needs none. Nothing listens beyond loopback unless told so: UCX has no authentication.
    std::string net_devices = "lo";
    std::size_t commands_max = 4096;        // waiting for the transport's thread
    std::size_t sends_inflight_max = 1024;  // per transport
    std::size_t peers_max = 256;
    base::Duration connect_timeout = std::chrono::seconds(3);
    base::Duration idle_spin = std::chrono::microseconds(20);  // polls so long before it sleeps
};

/// A transport over UCX: shared memory on one host, else TCP or RDMA, as UCX finds. One worker and one thread; several
/// transports may live in one process. The first call sets the UCX_* environment variables that our error handling
/// needs, unless the user set them: call it before other threads read the environment.
/// Error: unavailable (UCX refuses; with its words). `clock` must outlive the transport.
[[nodiscard]] base::Result<std::unique_ptr<Transport>> make_ucx_transport(const UcxOptions& options,
                                                                          const base::Clock& clock);

/// "1.13.1", for `doctor` and logs.
const char* ucx_version();

}  // namespace net
