#include "net/tls_session.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <sys/socket.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <string_view>

#include "base/check.h"
#include "base/log.h"
#include "base/log_limit.h"

namespace net {

using base::ErrorCode;
using base::fail;
using base::Result;

namespace {

// As ALPN writes it: a length, and the name. The same identity serves other protocols, too: none is taken for another.
constexpr std::string_view kProtocol("\x0bsluice-kv/1", 12);
constexpr std::size_t kReadBufferBytes = std::size_t{128} << 10;
constexpr long kPeerCertificatesBytesMax = 16384;
constexpr std::size_t kWordsMax = 600;  // of a line of the log

std::string openssl_error(const char* what) {
    const unsigned long code = ERR_get_error();
    std::string text = std::string(what) + ": ";
    if (code == 0) { return text + "the connection ended"; }
    const char* const reason = ERR_reason_error_string(code);
    ERR_clear_error();
    return text + (reason != nullptr ? reason : "error " + std::to_string(code));
}

/// In place of OpenSSL's chains: whoever has the key of the one identity is of the cluster, nobody else is. That he has
/// it, and not only the certificate, TLS itself checks (CertificateVerify).
int accept_own_identity(X509_STORE_CTX* store, void*) {
    const auto* const ssl =
        static_cast<const SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    const X509* const shown = X509_STORE_CTX_get0_cert(store);
    const X509* const own = SSL_CTX_get0_certificate(SSL_get_SSL_CTX(ssl));
    const bool is_own = shown != nullptr && own != nullptr && X509_get0_pubkey(shown) != nullptr &&
                        EVP_PKEY_eq(X509_get0_pubkey(shown), X509_get0_pubkey(own)) == 1;
    X509_STORE_CTX_set_error(store, is_own ? X509_V_OK : X509_V_ERR_CERT_UNTRUSTED);
    return is_own ? 1 : 0;
}

/// The same for certificates of roles: an authority of ours has signed it, and such a role exchanges KV.
int accept_worker(X509_STORE_CTX* store, void* given) {
    auto* const ssl = static_cast<SSL*>(X509_STORE_CTX_get_ex_data(store, SSL_get_ex_data_X509_STORE_CTX_idx()));
    const auto& certificates = *static_cast<const base::Certificates*>(given);
    const auto side = SSL_is_server(ssl) != 0 ? base::PeerSide::client : base::PeerSide::server;
    auto peer = certificates.current()->verify(X509_STORE_CTX_get0_cert(store), X509_STORE_CTX_get0_untrusted(store),
                                               side, certificates.now_unix_s());
    if (peer && !base::may_call(peer->role, base::PeerCall::kv)) {
        peer = fail(ErrorCode::permission_denied, base::peer_uri(*peer) + " may not take part in " +
                                                      std::string(base::peer_call_name(base::PeerCall::kv)));
    }
    if (peer) {
        X509_STORE_CTX_set_error(store, X509_V_OK);
        return 1;
    }
    base::warn_limited("kv certificate", "net: KV is not exchanged with a peer: {}",
                       base::log_safe(peer.error().message, kWordsMax));
    static_cast<TlsSession*>(SSL_get_app_data(ssl))->refuse(peer.error().message);
    X509_STORE_CTX_set_error(store, X509_V_ERR_CERT_REJECTED);  // the other side is told: bad certificate
    return 0;
}

int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* chosen_bytes, const unsigned char* offered,
                    unsigned offered_bytes, void*) {
    unsigned char* found = nullptr;
    const int outcome =
        SSL_select_next_proto(&found, chosen_bytes, reinterpret_cast<const unsigned char*>(kProtocol.data()),
                              static_cast<unsigned>(kProtocol.size()), offered, offered_bytes);
    *chosen = found;
    return outcome == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_ALERT_FATAL;
}

struct BioFree {
    void operator()(BIO* bio) const { BIO_free(bio); }
};
using MemoryBio = std::unique_ptr<BIO, BioFree>;

MemoryBio memory_of(const std::string& text) {
    return MemoryBio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size())));
}

/// What leads from the own certificate to an authority that others know.
bool use_chain(SSL_CTX& context, BIO* rest) {
    while (true) {
        const std::unique_ptr<X509, void (*)(X509*)> next(PEM_read_bio_X509(rest, nullptr, nullptr, nullptr),
                                                          X509_free);
        if (next == nullptr) { break; }
        if (SSL_CTX_add1_chain_cert(&context, next.get()) != 1) { return false; }
    }
    ERR_clear_error();  // the end of the text is an error to OpenSSL
    return true;
}

Result<void> use_identity(SSL_CTX& context, const std::string& certificate_pem, const std::string& private_key_pem) {
    const MemoryBio certificate_text = memory_of(certificate_pem);
    const MemoryBio key_text = memory_of(private_key_pem);
    const std::unique_ptr<X509, void (*)(X509*)> certificate(
        PEM_read_bio_X509(certificate_text.get(), nullptr, nullptr, nullptr), X509_free);
    const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key(
        PEM_read_bio_PrivateKey(key_text.get(), nullptr, nullptr, nullptr), EVP_PKEY_free);
    if (certificate == nullptr || key == nullptr || SSL_CTX_use_certificate(&context, certificate.get()) != 1 ||
        SSL_CTX_use_PrivateKey(&context, key.get()) != 1 || SSL_CTX_check_private_key(&context) != 1 ||
        !use_chain(context, certificate_text.get())) {
        return fail(ErrorCode::invalid_argument, openssl_error("the identity of the cluster cannot be used for TLS"));
    }
    return {};
}

}  // namespace

Result<SslContext> make_ssl_context(const TlsOptions& options) {
    ERR_clear_error();
    SslContext context(SSL_CTX_new(TLS_method()));
    if (context == nullptr) { return fail(ErrorCode::unavailable, openssl_error("SSL_CTX_new")); }
    SSL_CTX& it = *context;
    const bool is_set = SSL_CTX_set_min_proto_version(&it, TLS1_3_VERSION) == 1 &&
                        SSL_CTX_set_max_proto_version(&it, TLS1_3_VERSION) == 1 &&
                        SSL_CTX_set_ciphersuites(&it,
                                                 "TLS_AES_128_GCM_SHA256:TLS_AES_256_GCM_SHA384:"
                                                 "TLS_CHACHA20_POLY1305_SHA256") == 1 &&
                        SSL_CTX_set1_groups_list(&it, "X25519") == 1 && SSL_CTX_set_num_tickets(&it, 0) == 1 &&
                        SSL_CTX_set_max_early_data(&it, 0) == 1 &&
                        SSL_CTX_set_alpn_protos(&it, reinterpret_cast<const unsigned char*>(kProtocol.data()),
                                                static_cast<unsigned>(kProtocol.size())) == 0;
    if (!is_set) { return fail(ErrorCode::unavailable, openssl_error("TLS 1.3 cannot be set up")); }
    SSL_CTX_set_options(&it, SSL_OP_NO_TICKET | SSL_OP_NO_COMPRESSION | SSL_OP_NO_RENEGOTIATION);
    SSL_CTX_set_session_cache_mode(&it, SSL_SESS_CACHE_OFF);
    SSL_CTX_set_mode(&it, SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_read_ahead(&it, 1);
    SSL_CTX_set_max_cert_list(&it, kPeerCertificatesBytesMax);
    SSL_CTX_set_verify(&it, SSL_VERIFY_PEER | SSL_VERIFY_FAIL_IF_NO_PEER_CERT, nullptr);
    SSL_CTX_set_alpn_select_cb(&it, choose_protocol, nullptr);
    if (options.certificates) {
        const auto set = options.certificates->current();
        SSL_CTX_set_cert_verify_callback(&it, accept_worker,
                                         const_cast<base::Certificates*>(options.certificates.get()));
        if (auto used = use_identity(it, set->chain_pem(), set->key_pem()); !used) { return base::pass_on(used); }
        return context;
    }
    SSL_CTX_set_cert_verify_callback(&it, accept_own_identity, nullptr);
    if (auto used = use_identity(it, options.certificate_pem, options.private_key_pem); !used) {
        return base::pass_on(used);
    }
    return context;
}

Result<std::unique_ptr<TlsSession>> TlsSession::make(SSL_CTX& context, int socket, Side side,
                                                     std::uint64_t records_per_key) {
    ERR_clear_error();
    auto session = std::unique_ptr<TlsSession>(new TlsSession(socket));
    session->records_per_key_ = records_per_key;
    session->ssl_ = SSL_new(&context);
    BIO* const bio = method() == nullptr ? nullptr : BIO_new(method());
    if (session->ssl_ == nullptr || bio == nullptr) {
        BIO_free(bio);
        return fail(ErrorCode::unavailable, openssl_error("SSL_new"));
    }
    SSL_set_app_data(session->ssl_, session.get());
    BIO_set_data(bio, session.get());
    BIO_set_init(bio, 1);
    SSL_set_bio(session->ssl_, bio, bio);
    side == Side::client ? SSL_set_connect_state(session->ssl_) : SSL_set_accept_state(session->ssl_);
    return session;
}

TlsSession::~TlsSession() {
    SSL_free(ssl_);
}

TlsSession::Step TlsSession::step_of(int result, const char* what) {
    switch (SSL_get_error(ssl_, result)) {
        case SSL_ERROR_NONE:
            return Step::done;
        case SSL_ERROR_WANT_READ:
            return Step::wants_read;
        case SSL_ERROR_WANT_WRITE:
            return Step::wants_write;
        case SSL_ERROR_ZERO_RETURN:
            return Step::closed;
        default:
            failure_ = openssl_error(what);
            if (!refused_.empty()) { failure_ = std::string(what) + ": " + refused_; }
            return Step::failed;
    }
}

TlsSession::Step TlsSession::handshake() {
    ERR_clear_error();
    const Step step = step_of(SSL_do_handshake(ssl_), "TLS handshake");
    if (step != Step::done) { return step; }
    const unsigned char* chosen = nullptr;
    unsigned chosen_bytes = 0;
    SSL_get0_alpn_selected(ssl_, &chosen, &chosen_bytes);
    if (std::string_view(reinterpret_cast<const char*>(chosen), chosen_bytes) != kProtocol.substr(1)) {
        failure_ = "TLS handshake: the other side speaks another protocol";
        return Step::failed;
    }
    SSL_set_default_read_buffer_len(ssl_, kReadBufferBytes);  // not before: strangers get little memory
    return step;
}

TlsSession::Read TlsSession::read(std::span<std::byte> to) {
    ERR_clear_error();
    std::size_t bytes = 0;
    const int result = SSL_read_ex(ssl_, to.data(), to.size(), &bytes);
    return {step_of(result, "TLS read"), bytes};
}

TlsSession::Step TlsSession::write(std::span<const std::byte> bytes) {
    CHECK(has_room() && !bytes.empty() && bytes.size() <= kRecordBytes, unsent() << " wait, " << bytes.size());
    ERR_clear_error();
    if (records_ >= records_per_key_) {
        // Takes effect with the record that follows. What we read is for the other side to count.
        if (SSL_key_update(ssl_, SSL_KEY_UPDATE_NOT_REQUESTED) != 1) {
            failure_ = openssl_error("TLS key update");
            return Step::failed;
        }
        records_ = 0;
        ++key_updates_;
    }
    ++records_;
    std::size_t written = 0;
    const Step step = step_of(SSL_write_ex(ssl_, bytes.data(), bytes.size(), &written), "TLS write");
    if (step == Step::done && written == bytes.size()) { return step; }
    if (step != Step::failed) { failure_ = "TLS write: a record did not fit"; }
    return Step::failed;
}

TlsSession::Step TlsSession::flush() {
    while (unsent() > 0) {
        const ssize_t sent = ::send(socket_, out_.data() + out_begin_, unsent(), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent < 0 && errno == EINTR) { continue; }
        if (sent < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) { return Step::wants_write; }
        if (sent < 0) {
            failure_ = std::string("send: ") + std::strerror(errno);
            return Step::failed;
        }
        out_begin_ += static_cast<std::size_t>(sent);
        if (unsent() == 0) {
            out_.clear();
            out_begin_ = 0;
        }
    }
    return Step::done;
}

void TlsSession::say_end() {
    ERR_clear_error();
    if (SSL_is_init_finished(ssl_) != 0) { SSL_shutdown(ssl_); }
    ERR_clear_error();
}

const BIO_METHOD* TlsSession::method() {
    static const BIO_METHOD* const made = [] {
        BIO_METHOD* const fresh = BIO_meth_new(BIO_get_new_index() | BIO_TYPE_SOURCE_SINK, "sluice tls session");
        if (fresh == nullptr) { return fresh; }
        BIO_meth_set_write(fresh, &TlsSession::bio_write);
        BIO_meth_set_read(fresh, &TlsSession::bio_read);
        BIO_meth_set_ctrl(fresh, &TlsSession::bio_control);
        return fresh;
    }();
    return made;
}

int TlsSession::bio_write(BIO* bio, const char* data, int bytes) {
    auto& self = *static_cast<TlsSession*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    const auto count = static_cast<std::size_t>(std::max(bytes, 0));
    if (self.unsent() + count > kBufferBytes) {
        BIO_set_retry_write(bio);
        return -1;
    }
    if (self.out_begin_ + self.unsent() + count > kBufferBytes) {
        self.out_.erase(self.out_.begin(), self.out_.begin() + static_cast<std::ptrdiff_t>(self.out_begin_));
        self.out_begin_ = 0;
    }
    self.out_.insert(self.out_.end(), data, data + count);
    return bytes;
}

int TlsSession::bio_read(BIO* bio, char* data, int bytes) {
    auto& self = *static_cast<TlsSession*>(BIO_get_data(bio));
    BIO_clear_retry_flags(bio);
    ssize_t received = 0;
    do {
        received = ::recv(self.socket_, data, static_cast<std::size_t>(std::max(bytes, 0)), MSG_DONTWAIT);
    } while (received < 0 && errno == EINTR);
    if (received < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) { BIO_set_retry_read(bio); }
    if (received == 0) { self.is_read_closed_ = true; }
    return static_cast<int>(received);
}

long TlsSession::bio_control(BIO* bio, int command, long, void*) {
    const auto& self = *static_cast<TlsSession*>(BIO_get_data(bio));
    if (command == BIO_CTRL_EOF) { return self.is_read_closed_ ? 1 : 0; }
    return command == BIO_CTRL_FLUSH ? 1 : 0;
}

}  // namespace net
