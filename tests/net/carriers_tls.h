#pragma once

#include "base/block_hash.h"
#include "base/check.h"
#include "base/tls_identity.h"
#include "net/tls.h"

namespace net_test {

/// Of a transport of this cluster at a free port of loopback.
inline net::TlsOptions tls_options(const base::HashKey& key = {}) {
    auto identity = base::derive_tls_identity(key);
    CHECK(identity.has_value(), identity.error().message);
    net::TlsOptions options;
    options.key = key;
    options.certificate_pem = identity->certificate_pem;
    options.private_key_pem = identity->private_key_pem;
    return options;
}

}  // namespace net_test
