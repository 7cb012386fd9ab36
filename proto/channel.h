#pragma once

#include <grpcpp/grpcpp.h>

#include <chrono>
#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "proto/cluster_key.h"
#include "proto/version.h"

namespace sluice::proto {

/// Longest message either way: a prompt of 1M tokens is 5 MB, logprobs of a long prompt are more, a snapshot of a
/// prefix index of a million blocks is 16 MB.
inline constexpr int kMessageBytesMax = 64 << 20;

/// How our processes reach each other: inside TLS, where the key says so for the address (ClusterKey::identity_at). The
/// caller takes exactly the certificate that the cluster's key makes, so nobody without the key can stand in between;
/// who the caller is, its token says, inside. Where processes have certificates of their own (ClusterKey::peers), all
/// is TLS, and each end judges the other's (peers.h).
struct ChannelOptions {
    std::string address;            // host:port
    ClusterKey key = ClusterKey();  // whose token goes with every call; whose identity the server must have
    int message_bytes_max = kMessageBytesMax;
    base::PeerKind callee = base::PeerKind::scheduler;  // where there are certificates
};
struct ServerOptions {
    std::string listen_address;     // host:port; port 0 takes a free one
    ClusterKey key = ClusterKey();  // whose identity it shows in TLS
    int message_bytes_max = kMessageBytesMax;
    int streams_per_peer = 1024;  // calls and streams at once on one connection; more wait at the caller
    /// Where there are certificates: callers are asked for a new connection so often, and judged again with it. What is
    /// under way on the old one ends there.
    std::chrono::milliseconds connection_age{60'000};
};

inline constexpr int kHandshakeMs = 5000;

/// A connection to one address of the cluster, made when first used, tried again within a second, shared with nobody (a
/// process that restarts on the same port is another life). Both ends look after each other: see channel.cpp. Where
/// there is no TLS on this machine and the address needs it, every call fails and says so.
std::shared_ptr<grpc::Channel> make_channel(const ChannelOptions& options);

/// A server that listens, alone on its port, with the standard health service. Who connects and does not speak HTTP/2
/// is cut off after kHandshakeMs. Its services check the callers (ClusterKey).
struct RunningServer {
    std::unique_ptr<grpc::Server> server;
    int port = 0;
};
/// `services` are borrowed until the server has been shut down. Error: unavailable when the address cannot be bound,
/// internal (ClusterKey::identity_at).
base::Result<RunningServer> start_server(const ServerOptions& options, std::span<grpc::Service* const> services);

}  // namespace sluice::proto
