#pragma once

#include <array>
#include <cstddef>
#include <span>
#include <string>
#include <string_view>

#include "base/block_hash.h"
#include "base/ids.h"
#include "base/result.h"

namespace base {

// What only those who know the cluster's key can make, and everybody who knows it can check. Thread-safe.

using Mac = std::array<std::byte, 32>;

/// HMAC-SHA256 under a key of its own for each purpose, so that what is made for one is nothing for another.
Mac make_mac(const HashKey& key, std::string_view purpose, std::span<const std::byte> data);
/// In a time that does not depend on where they differ; texts of different lengths are different.
bool equal_secrets(std::string_view left, std::string_view right);

/// The token by which a process of the cluster is known to the others: 64 hexadecimal digits.
std::string control_token(const HashKey& key);

/// Whose words an address is in. Each has a MAC of its own, so that no transport is given what was meant for another.
enum class AddressKind {
    ucx,   // UCX's, which reads addresses without looking
    tls,   // of the transport over TLS
    book,  // several of the above, for whoever chooses among them
};

/// Where the KV transport of one life of a worker is reached: the life (8 bytes, little endian), what the transport
/// calls its address, and the MAC of both. Libraries read addresses without looking: nobody gives them one whose MAC
/// was not checked.
std::string seal_address(const HashKey& key, Incarnation life, std::string_view address,
                         AddressKind kind = AddressKind::ucx);
struct OpenedAddress {
    Incarnation life{};
    std::string_view address;  // inside of what was opened
};
/// Error: permission_denied (made by nobody of this cluster, of another kind, or cut).
Result<OpenedAddress> open_address(const HashKey& key, std::string_view sealed, AddressKind kind = AddressKind::ucx);
/// Whether it is the address, of any kind, of this life. An empty one is nobody's. Error: permission_denied.
Result<void> check_address(const HashKey& key, std::string_view sealed, Incarnation life);

}  // namespace base
