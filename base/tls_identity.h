#pragma once

#include <string>

#include "base/block_hash.h"
#include "base/result.h"

namespace base {

/// Who a process of the cluster is in TLS: an Ed25519 key and the certificate of it that it signed itself, both made of
/// the cluster's key alone. So everybody who has the key makes the same two, byte for byte, and knows the other end by
/// exactly this certificate: no authority, nothing to hand out, nothing that runs out.
struct TlsIdentity {
    std::string certificate_pem;
    std::string private_key_pem;

    /// The one name in the certificate, common and alternative: whoever checks names checks for this one.
    static constexpr const char* kName = "sluice-cluster";
};

/// Error: internal (the host's OpenSSL does not make Ed25519 certificates). Thread-safe. About 0.1 ms.
Result<TlsIdentity> derive_tls_identity(const HashKey& key);

}  // namespace base
