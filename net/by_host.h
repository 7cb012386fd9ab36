#pragma once

#include <array>
#include <cstddef>
#include <memory>
#include <string>
#include <string_view>

#include "base/block_hash.h"
#include "base/ids.h"
#include "base/result.h"
#include "net/transport.h"

namespace net {

/// Processes with the same one can share memory: the kernel's boot, the namespaces of processes and of IPC, /dev/shm,
/// and the user.
using HostId = std::array<std::byte, 16>;
/// Of this process. Nothing about the host can be read from it without the cluster's key. Where the system does not
/// tell, it is this process's alone.
HostId this_host(const base::HashKey& key);

/// The ways to one worker, as its address says them.
struct AddressBook {
    HostId host{};
    std::string local;   // for those on its host
    std::string remote;  // for others
};
/// What a book's seal is made over (base::AddressKind::book). Both addresses below 64 KiB.
std::string write_address_book(const AddressBook& book);
/// Error: invalid_argument.
base::Result<AddressBook> read_address_book(std::string_view bytes);

struct ByHostOptions {
    base::HashKey key = {};
    base::Incarnation life = {};  // that the address names
    HostId host = {};
};

/// One or two transports as one. Peers on this host are reached by `local` (UCX over shared memory), others by `remote`
/// (TLS); either may be null, not both. Its address is a book when it has both, else that of the one; it connects to
/// addresses of all kinds that its transports can use. A peer that was never heard over `local` is tried over `remote`
/// the next time.
std::unique_ptr<Transport> make_by_host_transport(const ByHostOptions& options, std::unique_ptr<Transport> local,
                                                  std::unique_ptr<Transport> remote);

}  // namespace net
