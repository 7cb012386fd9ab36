#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <optional>
#include <string>

#include "base/block_hash.h"
#include "base/result.h"
#include "base/tls_identity.h"
#include "proto/common.pb.h"
#include "proto/peers.h"

namespace sluice::proto {

/// Which connections between the processes are TLS. Both ends must come to the same: neither tries the other way.
enum class Encryption {
    beyond_loopback,  // those to an address that is not loopback
    always,
    never,  // everybody on the network is trusted
};

/// What every process of a cluster knows and shows to the others: the one place that decides whom a gRPC server of ours
/// listens to. A channel shows the token with each call (make_channel); a service asks check() before it looks at
/// anything else. The health service alone answers everybody. Where processes have certificates, every connection is
/// TLS with those, and check() looks at the caller's, too. Thread-safe.
class ClusterKey {
public:
    /// `admit_without`: who shows no token is served, too (versions before there were tokens, while a cluster is
    /// replaced process by process); a wrong one is refused all the same.
    explicit ClusterKey(const base::HashKey& key = {}, bool admit_without = false,
                        Encryption encryption = Encryption::beyond_loopback);
    /// The same process with a certificate.
    ClusterKey with(std::shared_ptr<Peers> peers) const;

    /// Whether the caller is of this cluster and may call this: UNAUTHENTICATED, PERMISSION_DENIED otherwise, with what
    /// to do. Takes as long for every wrong token of the right length.
    grpc::Status check(const grpc::CallbackServerContext& context, base::PeerCall call) const;
    /// The same, and who it is; nullopt where there are no certificates, and nobody is told from others.
    grpc::Status check(const grpc::CallbackServerContext& context, base::PeerCall call,
                       std::optional<base::PeerName>& caller) const;
    /// Whether `endpoint` carries the KV address of the life that it names, or none. permission_denied otherwise.
    base::Result<void> check_address(const WorkerEndpoint& endpoint) const;

    /// Who this process is in TLS to or at `address` (host:port); nullopt where that is spoken in the clear.
    /// Error: internal (no TLS on this machine). Not where there are certificates: peers().
    base::Result<std::optional<base::TlsIdentity>> identity_at(const std::string& address) const;

    /// None: this process has no certificate.
    const std::shared_ptr<Peers>& peers() const { return peers_; }
    const std::string& token() const { return token_; }
    bool admits_without() const { return admit_without_; }

    /// Where the token is in the metadata of a call.
    static constexpr const char* kMetadata = "sluice-token";

private:
    grpc::Status check_token(const grpc::CallbackServerContext& context) const;

    base::HashKey key_;
    std::string token_;
    bool admit_without_;
    Encryption encryption_;
    std::shared_ptr<Peers> peers_;
};

}  // namespace sluice::proto
