#pragma once

#include <grpcpp/grpcpp.h>
#include <grpcpp/security/tls_certificate_provider.h>

#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <vector>

#include "base/certificates.h"
#include "base/peer_role.h"
#include "base/result.h"

namespace sluice::proto {

/// gRPC between processes that have certificates: what each end shows, and whom it takes the other for. TLS proves that
/// a peer has the key of the certificate that it shows; everything else about it is judged here, with words for both
/// ends. Both judge when a connection is made: one that stands goes on when its certificates run out or are replaced.
/// Thread-safe; lives as long as any credentials that it made.
class Peers : public std::enable_shared_from_this<Peers> {
public:
    static std::shared_ptr<Peers> make(std::shared_ptr<base::Certificates> certificates);

    /// For calls to a process of this kind. Whoever shows something else is shown nothing, and the call says why.
    std::shared_ptr<grpc::ChannelCredentials> channel_credentials(base::PeerKind callee);
    /// Asks callers for a certificate, and lets everybody call: check() tells each why it is not served.
    std::shared_ptr<grpc::ServerCredentials> server_credentials();

    /// Who calls. UNAUTHENTICATED with the reason where that is not known, PERMISSION_DENIED where the matrix
    /// (base::may_call) says no.
    base::Result<base::PeerName> check(const grpc::ServerContextBase& context, base::PeerCall call);
    const base::Certificates& certificates() const { return *certificates_; }

    /// A connection from the bearer of `leaf_pem` is being made (ServerCredentials').
    void judge(const std::string& leaf_pem, const std::string& others_pem);

private:
    explicit Peers(std::shared_ptr<base::Certificates> certificates);
    base::Result<base::PeerName> who_is(const std::string& leaf_pem, const std::string& others_pem);

    const std::shared_ptr<base::Certificates> certificates_;
    const std::shared_ptr<grpc::experimental::CertificateProviderInterface> provider_;
    std::mutex mutex_;                                // guards the next
    std::map<std::string, base::PeerName> accepted_;  // by certificate: at the last connection
};

}  // namespace sluice::proto
