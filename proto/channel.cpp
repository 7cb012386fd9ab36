#include "proto/channel.h"

#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/support/client_interceptor.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/log.h"
#include "base/tls_identity.h"

namespace sluice::proto {
namespace {

// A peer whose machine or network is gone says nothing, not even goodbye: its connections stay open for ever unless
// somebody asks. Both ends ask (HTTP/2 ping), with or without calls in flight, and close what does not answer: it takes
// kPingIntervalMs + kPingTimeoutMs at most until streams on such a connection end.
constexpr int kPingIntervalMs = 5000;
constexpr int kPingTimeoutMs = 5000;
/// Off: gRPC would ask with a ping behind each message how far the other side is, so that its windows grow with the
/// way. Ours are short ways and small messages; the pings were half of all wake-ups of an idle server.
constexpr int kProbeBandwidth = 0;
/// How long one try to connect may take, its TLS included: over a long way, or to a busy machine, several round trips
/// are more than the pause between tries.
constexpr int kConnectMs = kHandshakeMs;
constexpr int kReconnectMsMin = 100;
constexpr int kReconnectMsMax = 1000;

/// Shows the token with every call of a channel.
class ShowsToken final : public grpc::experimental::Interceptor {
public:
    explicit ShowsToken(const std::string& token) : token_(token) {}
    void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
        if (methods->QueryInterceptionHookPoint(
                grpc::experimental::InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
            methods->GetSendInitialMetadata()->emplace(ClusterKey::kMetadata, token_);
        }
        methods->Proceed();
    }

private:
    const std::string& token_;  // the factory's
};
class ShowsTokenFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
public:
    explicit ShowsTokenFactory(std::string token) : token_(std::move(token)) {}
    grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo*) override {
        return new ShowsToken(token_);
    }

private:
    const std::string token_;
};

/// Credentials by the cluster's key alone; those of certificates: Peers.
std::shared_ptr<grpc::ChannelCredentials> channel_credentials(const std::optional<base::TlsIdentity>& identity) {
    if (!identity) { return grpc::InsecureChannelCredentials(); }
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = identity->certificate_pem;
    return grpc::SslCredentials(options);
}
std::shared_ptr<grpc::ServerCredentials> server_credentials(const std::optional<base::TlsIdentity>& identity) {
    if (!identity) { return grpc::InsecureServerCredentials(); }
    grpc::SslServerCredentialsOptions options;
    options.pem_key_cert_pairs.push_back({identity->private_key_pem, identity->certificate_pem});
    return grpc::SslServerCredentials(options);
}

}  // namespace

std::shared_ptr<grpc::Channel> make_channel(const ChannelOptions& options) {
    grpc::ChannelArguments arguments;
    std::shared_ptr<grpc::ChannelCredentials> credentials;
    if (const auto& peers = options.key.peers()) {
        credentials = peers->channel_credentials(options.callee);
    } else if (const auto identity = options.key.identity_at(options.address); !identity) {
        spdlog::error("{}: {}", options.address, identity.error().message);
    } else {
        credentials = channel_credentials(*identity);
        if (*identity) { arguments.SetSslTargetNameOverride(base::TlsIdentity::kName); }
    }
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kReconnectMsMin);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kConnectMs);  // of a try; a refused one ends at once
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kReconnectMsMax);
    arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
    arguments.SetInt(GRPC_ARG_ENABLE_HTTP_PROXY, 0);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, kPingIntervalMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
    arguments.SetInt(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    arguments.SetInt(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);  // no limit
    arguments.SetInt(GRPC_ARG_HTTP2_BDP_PROBE, kProbeBandwidth);
    arguments.SetMaxReceiveMessageSize(options.message_bytes_max);
    arguments.SetMaxSendMessageSize(options.message_bytes_max);
    std::vector<std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface>> interceptors;
    interceptors.push_back(std::make_unique<ShowsTokenFactory>(options.key.token()));
    return grpc::experimental::CreateCustomChannelWithInterceptors(options.address, credentials, arguments,
                                                                   std::move(interceptors));
}

base::Result<RunningServer> start_server(const ServerOptions& options, std::span<grpc::Service* const> services) {
    std::shared_ptr<grpc::ServerCredentials> credentials;
    if (const auto& peers = options.key.peers()) {
        credentials = peers->server_credentials();
    } else {
        const auto identity = options.key.identity_at(options.listen_address);
        if (!identity) { return base::pass_on(identity); }
        credentials = server_credentials(*identity);
    }
    grpc::EnableDefaultHealthCheckService(true);
    grpc::ServerBuilder builder;
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kPingIntervalMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kPingTimeoutMs);
    builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_PINGS_WITHOUT_DATA, 0);
    builder.AddChannelArgument(GRPC_ARG_HTTP2_BDP_PROBE, kProbeBandwidth);
    // The channels' pings are no attack.
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, kPingIntervalMs / 2);
    builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);  // two servers on one port would split their peers
    builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeMs);
    builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, options.streams_per_peer);
    if (options.key.peers()) {
        builder.AddChannelArgument(GRPC_ARG_MAX_CONNECTION_AGE_MS, static_cast<int>(options.connection_age.count()));
    }
    builder.SetMaxReceiveMessageSize(options.message_bytes_max);
    builder.SetMaxSendMessageSize(options.message_bytes_max);
    RunningServer running;
    builder.AddListeningPort(options.listen_address, credentials, &running.port);
    for (grpc::Service* service : services) {
        builder.RegisterService(service);
    }
    running.server = builder.BuildAndStart();
    if (running.server == nullptr || running.port == 0) {
        return base::fail(base::ErrorCode::unavailable, "cannot listen on " + options.listen_address);
    }
    return running;
}

}  // namespace sluice::proto
