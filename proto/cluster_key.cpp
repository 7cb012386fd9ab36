#include "proto/cluster_key.h"

#include <string_view>
#include <utility>

#include "base/ids.h"
#include "base/loopback.h"
#include "base/seal.h"
#include "proto/status.h"

namespace sluice::proto {

ClusterKey::ClusterKey(const base::HashKey& key, bool admit_without, Encryption encryption)
    : key_(key), token_(base::control_token(key)), admit_without_(admit_without), encryption_(encryption) {}

base::Result<std::optional<base::TlsIdentity>> ClusterKey::identity_at(const std::string& address) const {
    const bool is_loopback = base::is_loopback_host(std::string_view(address).substr(0, address.rfind(':')));
    if (encryption_ == Encryption::never || (encryption_ == Encryption::beyond_loopback && is_loopback)) {
        return std::optional<base::TlsIdentity>();
    }
    auto identity = base::derive_tls_identity(key_);
    if (!identity) { return base::pass_on(identity); }
    return std::optional(std::move(*identity));
}

ClusterKey ClusterKey::with(std::shared_ptr<Peers> peers) const {
    ClusterKey certified = *this;
    certified.peers_ = std::move(peers);
    return certified;
}

grpc::Status ClusterKey::check(const grpc::CallbackServerContext& context, base::PeerCall call) const {
    std::optional<base::PeerName> ignored;
    return check(context, call, ignored);
}

grpc::Status ClusterKey::check(const grpc::CallbackServerContext& context, base::PeerCall call,
                               std::optional<base::PeerName>& caller) const {
    if (const grpc::Status known = check_token(context); !known.ok() || peers_ == nullptr) { return known; }
    auto peer = peers_->check(context, call);
    if (!peer) { return status_of(peer.error()); }
    caller = std::move(*peer);
    return grpc::Status::OK;
}

grpc::Status ClusterKey::check_token(const grpc::CallbackServerContext& context) const {
    const auto& metadata = context.client_metadata();
    const auto shown = metadata.find(kMetadata);
    if (shown == metadata.end()) {
        if (admit_without_) { return grpc::Status::OK; }
        return {grpc::StatusCode::UNAUTHENTICATED,
                "the caller does not show that it knows this cluster's key: give all processes the same "
                "cluster.key_file (or SLUICE_CLUSTER_KEY)"};
    }
    if (!base::equal_secrets({shown->second.data(), shown->second.size()}, token_)) {
        return {grpc::StatusCode::UNAUTHENTICATED,
                "the caller has another cluster key: give all processes the same cluster.key_file (or "
                "SLUICE_CLUSTER_KEY)"};
    }
    return grpc::Status::OK;
}

base::Result<void> ClusterKey::check_address(const WorkerEndpoint& endpoint) const {
    if (endpoint.kv_address().empty()) { return {}; }
    return base::check_address(key_, endpoint.kv_address(), base::Incarnation{endpoint.incarnation()});
}

}  // namespace sluice::proto
