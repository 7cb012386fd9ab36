#include "gateway/http/tls_session.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509.h>

#include <algorithm>
#include <array>
#include <ctime>
#include <utility>

#include "base/check.h"

namespace gateway {
namespace {

constexpr std::size_t kPieceBytes = 16 * 1024;

/// What OpenSSL has to say, and nothing left of it for who asks next.
std::string openssl_words() {
    std::array<char, 256> text{};
    const unsigned long error = ERR_peek_last_error();
    ERR_clear_error();
    if (error == 0) { return "no reason given"; }
    ERR_error_string_n(error, text.data(), text.size());
    return text.data();
}

/// HTTP/1.1 where the client offers it. Who offers other things only gets no answer to that, and HTTP/1.1 all the same.
int choose_protocol(SSL*, const unsigned char** chosen, unsigned char* bytes, const unsigned char* offered,
                    unsigned offered_bytes, void*) {
    static constexpr unsigned char kOurs[] = "\x08http/1.1";
    unsigned char* found = nullptr;
    const int how = SSL_select_next_proto(&found, bytes, kOurs, sizeof kOurs - 1, offered, offered_bytes);
    *chosen = found;
    return how == OPENSSL_NPN_NEGOTIATED ? SSL_TLSEXT_ERR_OK : SSL_TLSEXT_ERR_NOACK;
}

int no_passphrase(char*, int, int, void*) {
    return 0;
}

}  // namespace

base::Result<std::shared_ptr<const TlsCertificate>> TlsCertificate::load(const std::string& certificate_file,
                                                                         const std::string& key_file) {
    ERR_clear_error();
    const auto failure = [](const std::string& what) {
        return base::fail(base::ErrorCode::invalid_argument, what + ": " + openssl_words());
    };
    std::shared_ptr<TlsCertificate> made(new TlsCertificate());
    made->context_ = SSL_CTX_new(TLS_server_method());
    SSL_CTX* const context = made->context_;
    if (context == nullptr || SSL_CTX_set_min_proto_version(context, TLS1_2_VERSION) != 1) {
        return failure("no TLS on this machine");
    }
    SSL_CTX_set_options(context, SSL_OP_NO_RENEGOTIATION | SSL_OP_NO_COMPRESSION | SSL_OP_CIPHER_SERVER_PREFERENCE);
    SSL_CTX_set_mode(context, SSL_MODE_RELEASE_BUFFERS);  // an idle connection keeps no 32 KiB
    SSL_CTX_set_default_passwd_cb(context, no_passphrase);
    SSL_CTX_set_alpn_select_cb(context, choose_protocol, nullptr);
    if (SSL_CTX_use_certificate_chain_file(context, certificate_file.c_str()) != 1) {
        return failure("the certificate " + certificate_file + " cannot be used");
    }
    if (SSL_CTX_use_PrivateKey_file(context, key_file.c_str(), SSL_FILETYPE_PEM) != 1) {
        return failure("the key " + key_file + " cannot be used with the certificate " + certificate_file +
                       " (PEM, without a passphrase)");
    }
    std::tm until{};
    if (ASN1_TIME_to_tm(X509_get0_notAfter(SSL_CTX_get0_certificate(context)), &until) == 1) {
        made->expires_unix_s_ = static_cast<std::int64_t>(::timegm(&until));
    }
    return std::shared_ptr<const TlsCertificate>(std::move(made));
}

TlsCertificate::~TlsCertificate() {
    SSL_CTX_free(context_);
}

TlsSession::TlsSession(std::shared_ptr<const TlsCertificate> certificate)
    : ssl_(SSL_new(certificate->context_)), certificate_(std::move(certificate)) {
    CHECK(ssl_ != nullptr);
    BIO* const in = BIO_new(BIO_s_mem());
    BIO* const out = BIO_new(BIO_s_mem());
    CHECK(in != nullptr && out != nullptr);
    SSL_set_bio(ssl_, in, out);  // its own from now on
    SSL_set_accept_state(ssl_);
}

TlsSession::~TlsSession() {
    SSL_free(ssl_);
}

bool TlsSession::is_established() const {
    return SSL_is_init_finished(ssl_) == 1;
}

TlsSession::State TlsSession::receive(std::string_view cipher, std::string& plain) {
    ERR_clear_error();
    if (!cipher.empty()) {
        const int taken = BIO_write(SSL_get_rbio(ssl_), cipher.data(), static_cast<int>(cipher.size()));
        CHECK(taken == static_cast<int>(cipher.size()));  // it grows
    }
    std::array<char, kPieceBytes> piece;
    while (true) {
        const int count = SSL_read(ssl_, piece.data(), static_cast<int>(piece.size()));
        if (count > 0) {
            plain.append(piece.data(), static_cast<std::size_t>(count));
            continue;
        }
        switch (SSL_get_error(ssl_, count)) {
            case SSL_ERROR_WANT_READ:
            case SSL_ERROR_WANT_WRITE:
                return State::open;
            case SSL_ERROR_ZERO_RETURN:
                return State::peer_ended;
            default: {
                const bool is_http = ERR_GET_REASON(ERR_peek_error()) == SSL_R_HTTP_REQUEST;
                ERR_clear_error();
                return is_http ? State::spoke_http : State::broken;
            }
        }
    }
}

void TlsSession::send(std::string_view plain, std::string& cipher) {
    CHECK(is_established());
    ERR_clear_error();
    while (!plain.empty()) {
        const std::size_t bytes = std::min(plain.size(), kPieceBytes);
        const int count = SSL_write(ssl_, plain.data(), static_cast<int>(bytes));
        if (count <= 0) {  // the session is broken: the reading side says so, too
            ERR_clear_error();
            break;
        }
        plain.remove_prefix(static_cast<std::size_t>(count));
    }
    take_output(cipher);
}

void TlsSession::take_output(std::string& cipher) {
    BIO* const out = SSL_get_wbio(ssl_);
    char* data = nullptr;
    const long bytes = BIO_get_mem_data(out, &data);
    if (bytes > 0) { cipher.append(data, static_cast<std::size_t>(bytes)); }
    (void)BIO_reset(out);
}

void TlsSession::end(std::string& cipher) {
    if (std::exchange(is_ended_, true) || !is_established()) { return; }
    ERR_clear_error();
    (void)SSL_shutdown(ssl_);
    ERR_clear_error();
    take_output(cipher);
}

}  // namespace gateway
