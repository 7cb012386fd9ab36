#include "proto/peers.h"

#include <grpc/grpc_security_constants.h>
#include <grpc/support/log.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <functional>
#include <limits>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "base/log_limit.h"

namespace sluice::proto {
namespace {

using base::ErrorCode;
using base::PeerName;
using base::PeerSide;

/// Certificates that are remembered as accepted. One is forgotten for another, and judged again when it is met.
constexpr std::size_t kAcceptedMax = 4096;
/// gRPC looks so often at the file in memory that has key and certificate.
constexpr unsigned kLookSeconds = 1;
constexpr std::size_t kWordsMax = 600;  // of a line of the log
/// Where nobody ever listens: below a file there is no folder.
constexpr const char* kNowhere = "unix:/dev/null/nobody";

std::string text_of(grpc::string_ref text) {
    return {text.data(), text.size()};
}

/// Of a caller: whether the other end is what is to be called.
class ServerIs final : public grpc::experimental::ExternalCertificateVerifier {
public:
    ServerIs(std::shared_ptr<Peers> peers, base::PeerKind kind) : peers_(std::move(peers)), kind_(kind) {}
    bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
                grpc::Status* status) override {
        const auto peer = peers_->certificates().verify(text_of(request->peer_cert()),
                                                        text_of(request->peer_cert_full_chain()), PeerSide::server);
        std::string problem;
        if (!peer) {
            problem = peer.error().message;
        } else if (!is_of_kind(peer->role, kind_)) {
            problem = std::string("a ") + (kind_ == base::PeerKind::scheduler ? "scheduler" : "worker") +
                      " was called, and " + base::peer_uri(*peer) + " answers";
        }
        if (problem.empty()) { return true; }
        base::warn_limited("server certificate", "{} is not spoken to: {}",
                           base::log_safe(text_of(request->target_name())), base::log_safe(problem, kWordsMax));
        *status = {grpc::StatusCode::UNAUTHENTICATED, problem};
        return true;
    }
    void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}

private:
    const std::shared_ptr<Peers> peers_;
    const base::PeerKind kind_;
};

/// Of a server: notes what there is to say of who connects, and says it when he calls.
class NotesCaller final : public grpc::experimental::ExternalCertificateVerifier {
public:
    explicit NotesCaller(std::shared_ptr<Peers> peers) : peers_(std::move(peers)) {}
    bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest* request, std::function<void(grpc::Status)>,
                grpc::Status*) override {
        peers_->judge(text_of(request->peer_cert()), text_of(request->peer_cert_full_chain()));
        return true;
    }
    void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}

private:
    const std::shared_ptr<Peers> peers_;
};

/// Keeps the certificates of `provider` watched: a connection that is tried once and never made. Without it a process
/// whose last connection goes while it makes another can be left without a certificate (gRPC 1.51): the provider is
/// told of the two watchers in either order, and takes the new one for gone for as long as that one lives.
std::shared_ptr<grpc::Channel> watch(
    const std::shared_ptr<grpc::experimental::CertificateProviderInterface>& provider) {
    constexpr int kNever = std::numeric_limits<int>::max();
    grpc::experimental::TlsChannelCredentialsOptions options;
    options.set_certificate_provider(provider);
    options.watch_identity_key_cert_pairs();
    options.set_verify_server_certs(false);
    grpc::ChannelArguments arguments;
    arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, kNever);
    arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, kNever);
    arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, kNever);
    arguments.SetInt(GRPC_ARG_CLIENT_IDLE_TIMEOUT_MS, kNever);
    auto channel = grpc::CreateCustomChannel(kNowhere, grpc::experimental::TlsCredentials(options), arguments);
    channel->GetState(true);
    return channel;
}

/// What gRPC shows of the file at `path`, from the first credentials on that ask for it. gRPC reads that file once a
/// second, and goes on when all that asked has gone (1.51): so who only looks at settings must not begin it, for the
/// file's descriptor is soon another one's.
class OnDemand final : public grpc::experimental::CertificateProviderInterface {
public:
    explicit OnDemand(std::string path) : path_(std::move(path)) {}
    grpc_tls_certificate_provider* c_provider() override {
        std::call_once(is_begun_, [this] {
            provider_ =
                std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(path_, path_, kLookSeconds);
            watch_ = watch(provider_);
        });
        return provider_->c_provider();
    }

private:
    const std::string path_;
    std::once_flag is_begun_;
    std::shared_ptr<grpc::experimental::FileWatcherCertificateProvider> provider_;
    std::shared_ptr<grpc::Channel> watch_;  // holds what `provider_` has
};

/// gRPC's own words, in our log. A server says with each connection that the caller named a host which its certificate
/// does not: ours name none.
void log_of_grpc(gpr_log_func_args* said) {
    const std::string_view message = said->message;
    if (message.starts_with("No match found for server name")) { return; }
    const auto level = said->severity == GPR_LOG_SEVERITY_ERROR  ? spdlog::level::warn
                       : said->severity == GPR_LOG_SEVERITY_INFO ? spdlog::level::debug
                                                                 : spdlog::level::trace;
    base::log_limited(level, "gRPC", "gRPC: {}", base::log_safe(message, kWordsMax));
}

}  // namespace

std::shared_ptr<Peers> Peers::make(std::shared_ptr<base::Certificates> certificates) {
    gpr_set_log_function(log_of_grpc);
    return std::shared_ptr<Peers>(new Peers(std::move(certificates)));
}

Peers::Peers(std::shared_ptr<base::Certificates> certificates)
    : certificates_(std::move(certificates)), provider_(std::make_shared<OnDemand>(certificates_->identity_path())) {}

std::shared_ptr<grpc::ChannelCredentials> Peers::channel_credentials(base::PeerKind callee) {
    grpc::experimental::TlsChannelCredentialsOptions options;
    options.set_certificate_provider(provider_);
    options.watch_identity_key_cert_pairs();
    options.set_verify_server_certs(false);  // by OpenSSL's rules and words: ServerIs does, by ours
    options.set_check_call_host(false);
    options.set_certificate_verifier(
        grpc::experimental::ExternalCertificateVerifier::Create<ServerIs>(shared_from_this(), callee));
    return grpc::experimental::TlsCredentials(options);
}

std::shared_ptr<grpc::ServerCredentials> Peers::server_credentials() {
    grpc::experimental::TlsServerCredentialsOptions options(provider_);
    options.watch_identity_key_cert_pairs();
    options.set_cert_request_type(GRPC_SSL_REQUEST_CLIENT_CERTIFICATE_BUT_DONT_VERIFY);
    options.set_certificate_verifier(
        grpc::experimental::ExternalCertificateVerifier::Create<NotesCaller>(shared_from_this()));
    return grpc::experimental::TlsServerCredentials(options);
}

void Peers::judge(const std::string& leaf_pem, const std::string& others_pem) {
    auto peer = certificates_->verify(leaf_pem, others_pem, PeerSide::client);
    const std::scoped_lock lock(mutex_);
    if (!peer) {
        accepted_.erase(leaf_pem);  // and of who is refused each call is judged anew: what he lacks may come
        return;
    }
    if (accepted_.size() >= kAcceptedMax && !accepted_.contains(leaf_pem)) { accepted_.erase(accepted_.begin()); }
    accepted_.insert_or_assign(leaf_pem, std::move(*peer));
}

base::Result<PeerName> Peers::who_is(const std::string& leaf_pem, const std::string& others_pem) {
    {
        const std::scoped_lock lock(mutex_);
        if (const auto known = accepted_.find(leaf_pem); known != accepted_.end()) { return known->second; }
    }
    return certificates_->verify(leaf_pem, others_pem, PeerSide::client);
}

base::Result<PeerName> Peers::check(const grpc::ServerContextBase& context, base::PeerCall call) {
    const auto shown = context.auth_context();
    const auto property = [&shown](const char* name) {
        const auto values = shown == nullptr ? std::vector<grpc::string_ref>() : shown->FindPropertyValues(name);
        return values.empty() ? std::string() : text_of(values.front());
    };
    auto peer = who_is(property(GRPC_X509_PEM_CERT_PROPERTY_NAME), property(GRPC_X509_PEM_CERT_CHAIN_PROPERTY_NAME));
    if (peer && !base::may_call(peer->role, call)) {
        peer = base::fail(ErrorCode::permission_denied,
                          base::peer_uri(*peer) + " may not call " + std::string(base::peer_call_name(call)));
    }
    if (!peer) {
        base::warn_limited("caller's certificate", "a caller at {} is not served: {}", context.peer(),
                           base::log_safe(peer.error().message, kWordsMax));
    }
    return peer;
}

}  // namespace sluice::proto
