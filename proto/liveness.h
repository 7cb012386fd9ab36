#pragma once

#include <grpcpp/grpcpp.h>

namespace proto {

// A peer whose machine or network is gone says nothing, not even goodbye: its connections stay open for ever unless
// somebody asks. Both ends ask (HTTP/2 ping), with or without calls in flight, and close what does not answer: it takes
// kPingInterval + kPingTimeout at most until streams on such a connection end.
inline constexpr int kPingIntervalMs = 5000;
inline constexpr int kPingTimeoutMs = 5000;

/// For every channel between our processes.
inline void watch_peer(grpc::ChannelArguments& arguments) {
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingIntervalMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no limit
}

/// For every server of ours: asks too, and takes the channels' pings for no attack.
inline void watch_peers(grpc::ServerBuilder& builder) {
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kPingIntervalMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kPingIntervalMs / 2);
}

}  // namespace proto
