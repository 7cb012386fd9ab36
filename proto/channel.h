#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <span>
#include <string>

#include "base/result.h"
#include "proto/version.h"

namespace sluice::proto {

/// Longest message either way: a prompt of 1M tokens is 5 MB, logprobs of a long prompt are more, a snapshot of a
/// prefix index of a million blocks is 16 MB.
inline constexpr int kMessageBytesMax = 64 << 20;

/// How our processes reach each other. Plain text so far: only loopback and networks that are called trusted are bound;
/// certificates (mTLS) become fields of these two.
struct ChannelOptions {
    std::string address;  // host:port
    int message_bytes_max = kMessageBytesMax;
};
struct ServerOptions {
    std::string listen_address;  // host:port; port 0 takes a free one
    int message_bytes_max = kMessageBytesMax;
};

/// A connection to one address of the cluster, made when first used, tried again within a second, shared with nobody (a
/// process that restarts on the same port is another life). Both ends look after each other: see channel.cpp.
std::shared_ptr<grpc::Channel> make_channel(const ChannelOptions& options);

/// A server that listens, alone on its port, with the standard health service.
struct RunningServer {
    std::unique_ptr<grpc::Server> server;
    int port = 0;
};
/// `services` are borrowed until the server has been shut down. Error: unavailable when the address cannot be bound.
base::Result<RunningServer> start_server(const ServerOptions& options, std::span<grpc::Service* const> services);

}  // namespace sluice::proto
