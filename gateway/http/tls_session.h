#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>

#include "base/result.h"

struct ssl_ctx_st;  // OpenSSL's SSL_CTX and SSL
struct ssl_st;

namespace gateway {

/// A certificate with its key, as new connections get it. TLS 1.2 and 1.3, no renegotiation, HTTP/1.1 by ALPN.
/// Immutable: any thread; a connection keeps the one that it began with.
class TlsCertificate {
public:
    /// PEM files: the certificate and those between it and its root, in order; its key, without a passphrase.
    /// Error: invalid_argument (unreadable, no certificate, a key that does not fit), with the path. One that has
    /// run out is taken: clients say so better.
    static base::Result<std::shared_ptr<const TlsCertificate>> load(const std::string& certificate_file,
                                                                    const std::string& key_file);
    ~TlsCertificate();
    TlsCertificate(const TlsCertificate&) = delete;
    TlsCertificate& operator=(const TlsCertificate&) = delete;

    std::int64_t expires_unix_s() const { return expires_unix_s_; }

private:
    friend class TlsSession;
    TlsCertificate() = default;
    ssl_ctx_st* context_ = nullptr;
    std::int64_t expires_unix_s_ = 0;
};

/// The server's end of one TLS connection. No sockets: what came is handed in, what is to go is taken out. What it
/// keeps is bounded by TLS (a record is at most 16 KiB) and by what its owner hands in at a time. One thread.
class TlsSession {
public:
    explicit TlsSession(std::shared_ptr<const TlsCertificate> certificate);
    ~TlsSession();
    TlsSession(const TlsSession&) = delete;
    TlsSession& operator=(const TlsSession&) = delete;

    enum class State { open, peer_ended, spoke_http, broken };
    /// Takes what has arrived and appends what it says to `plain`. `peer_ended`: nothing follows it (close_notify);
    /// `spoke_http`: the client does not know that this is TLS; `broken`: an alert may be left to send.
    State receive(std::string_view cipher, std::string& plain);
    /// Appends `plain` to `cipher` as records. The handshake must be over.
    void send(std::string_view plain, std::string& cipher);
    bool is_established() const;
    /// Appends what the session itself has to say: its part of the handshake, alerts.
    void take_output(std::string& cipher);
    /// Appends that nothing follows. Once.
    void end(std::string& cipher);

private:
    ssl_st* ssl_ = nullptr;
    const std::shared_ptr<const TlsCertificate> certificate_;
    bool is_ended_ = false;
};

}  // namespace gateway
