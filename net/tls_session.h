#pragma once

#include <openssl/ssl.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "base/result.h"
#include "net/tls.h"

namespace net {

struct SslContextFree {
    void operator()(SSL_CTX* context) const { SSL_CTX_free(context); }
};
using SslContext = std::unique_ptr<SSL_CTX, SslContextFree>;

/// Either side of the connections of one cluster: TLS 1.3 alone, no tickets, no early data; each side shows the
/// identity and accepts exactly it; with `options.certificates`, which must outlive it, each shows its own and accepts
/// those of workers. Error: invalid_argument (the identity is none), unavailable (OpenSSL refuses).
[[nodiscard]] base::Result<SslContext> make_ssl_context(const TlsOptions& options);

/// TLS over a socket that does not block. What is encrypted waits in a buffer of fixed size, so that a write either
/// fits whole or is not tried, and many records leave with one call of the system. One thread.
class TlsSession {
public:
    enum class Side { client, server };
    enum class Step {
        done,
        wants_read,   // call again when the socket can be read
        wants_write,  // call flush() when the socket can be written, then again
        closed,       // the other side has closed it in order
        failed,       // says why in failure()
    };
    struct Read {
        Step step;
        std::size_t bytes;  // > 0 with done
    };

    /// Plain bytes of one record.
    static constexpr std::size_t kRecordBytes = 16384;

    /// `socket` is borrowed and stays open as long as this. Error: unavailable.
    static base::Result<std::unique_ptr<TlsSession>> make(SSL_CTX& context, int socket, Side side,
                                                          std::uint64_t records_per_key);
    ~TlsSession();
    TlsSession(const TlsSession&) = delete;
    TlsSession& operator=(const TlsSession&) = delete;

    /// done: both have shown who they are, as far as this side can know. What it has written is to be flushed.
    Step handshake();
    /// Some of the next plain bytes. Never blocks.
    Read read(std::span<std::byte> to);
    /// Whether write() would have room.
    bool has_room() const { return unsent() + kReserveBytes <= kBufferBytes; }
    /// Encrypts at most kRecordBytes, > 0, all of them; has_room() was true. done or failed.
    Step write(std::span<const std::byte> bytes);
    /// Hands what is encrypted to the system: done (nothing left), wants_write, failed.
    Step flush();
    std::size_t unsent() const { return out_.size() - out_begin_; }
    /// Adds the end of the stream to what waits; nothing can be written after it.
    void say_end();

    const std::string& failure() const { return failure_; }
    /// Why the certificate of the other side is not accepted; known before the handshake fails by it.
    void refuse(std::string why) { refused_ = std::move(why); }
    /// Times that this side has changed its keys.
    std::uint64_t key_updates() const { return key_updates_; }

private:
    static constexpr std::size_t kBufferBytes = std::size_t{256} << 10;
    static constexpr std::size_t kReserveBytes = kRecordBytes + 1024;  // a record, and what TLS has to say itself

    explicit TlsSession(int socket) : socket_(socket) {}
    Step step_of(int result, const char* what);

    // The BIO's functions.
    static const BIO_METHOD* method();
    static int bio_write(BIO* bio, const char* data, int bytes);
    static int bio_read(BIO* bio, char* data, int bytes);
    static long bio_control(BIO* bio, int command, long number, void* pointer);

    const int socket_;
    SSL* ssl_ = nullptr;
    std::vector<char> out_;  // from out_begin_ on: encrypted, not sent
    std::size_t out_begin_ = 0;
    bool is_read_closed_ = false;
    std::uint64_t records_per_key_ = 0;
    std::uint64_t records_ = 0;
    std::uint64_t key_updates_ = 0;
    std::string failure_;
    std::string refused_;
};

}  // namespace net
