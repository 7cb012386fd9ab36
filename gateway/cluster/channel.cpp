#include "gateway/cluster/channel.h"

#include "proto/liveness.h"

namespace gateway {
namespace {

constexpr int kReconnectMsMin = 100;
constexpr int kReconnectMsMax = 1000;
constexpr int kMessageBytesMax = 64 << 20;  // logprobs of a long prompt

}  // namespace

std::shared_ptr<grpc::Channel> make_channel(const std::string& address) {
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMsMin);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kReconnectMsMin);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
    // A worker that restarts on the same port is another life: its connection is not to be shared with the former
    // one's.
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    ::proto::watch_peer(arguments);
    arguments.SetMaxReceiveMessageSize(kMessageBytesMax);
    arguments.SetMaxSendMessageSize(kMessageBytesMax);
    return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

}  // namespace gateway
