#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "base/peer_role.h"
#include "base/result.h"

namespace base {

/// A certificate and its key, as PEM.
struct IssuedCertificate {
    std::string certificate_pem;
    std::string private_key_pem;
};
/// Seconds of the UNIX epoch.
struct Validity {
    std::int64_t from_unix_s = 0;
    std::int64_t until_unix_s = 0;
};

/// A new authority (ECDSA, P-256), signed by itself, that signs certificates of processes and no further authorities.
/// Error: internal (OpenSSL).
Result<IssuedCertificate> make_authority(const std::string& name, const Validity& validity);

struct CertificateRequest {
    PeerName peer;
    /// Further alternative names, as OpenSSL writes them: DNS:host, IP:address. Nothing of ours looks at them.
    std::vector<std::string> other_names = {};
    Validity validity = {};
};
/// A new key (ECDSA, P-256) and the certificate of it for both sides of TLS. Errors: invalid_argument (the authority is
/// none, a name that is none), internal (OpenSSL).
Result<IssuedCertificate> issue_certificate(const IssuedCertificate& authority, const CertificateRequest& request);

}  // namespace base
