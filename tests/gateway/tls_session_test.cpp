// The server's end of TLS without sockets, against OpenSSL's client.
#include "gateway/http/tls_session.h"

#include <openssl/bio.h>
#include <openssl/err.h>
#include <openssl/ssl.h>

#include <array>
#include <filesystem>
#include <fstream>
#include <memory>
#include <random>
#include <string>

#include "base/tls_identity.h"

#include "tests/support/catch.h"
#include "tests/support/seeds.h"

namespace {

using gateway::TlsCertificate;
using gateway::TlsSession;

struct Files {
    Files() {
        char name[] = "/tmp/sluice-tls-XXXXXX";
        path = mkdtemp(name);
        const auto identity = base::derive_tls_identity(base::random_hash_key()).value();
        certificate_text = identity.certificate_pem;
        write("certificate.pem", identity.certificate_pem);
        write("key.pem", identity.private_key_pem);
    }
    ~Files() { std::filesystem::remove_all(path); }
    std::string file(const std::string& name) const { return path + "/" + name; }
    void write(const std::string& name, const std::string& text) const { std::ofstream(file(name)) << text; }
    std::string path;
    std::string certificate_text;
};

/// OpenSSL's client over memory.
class Client {
public:
    explicit Client(int version_max = TLS1_3_VERSION, const char* protocols = nullptr)
        : context_(SSL_CTX_new(TLS_client_method())) {
        SSL_CTX_set_max_proto_version(context_, version_max);
        SSL_CTX_set_min_proto_version(context_, TLS1_VERSION);
        if (version_max < TLS1_2_VERSION) { SSL_CTX_set_cipher_list(context_, "ALL:@SECLEVEL=0"); }
        ssl_ = SSL_new(context_);
        SSL_set_bio(ssl_, BIO_new(BIO_s_mem()), BIO_new(BIO_s_mem()));
        SSL_set_connect_state(ssl_);
        if (protocols != nullptr) {
            SSL_set_alpn_protos(ssl_, reinterpret_cast<const unsigned char*>(protocols),
                                static_cast<unsigned>(std::string(protocols).size()));
        }
    }
    ~Client() {
        SSL_free(ssl_);
        SSL_CTX_free(context_);
    }
    void receive(const std::string& cipher) {
        if (!cipher.empty()) { BIO_write(SSL_get_rbio(ssl_), cipher.data(), static_cast<int>(cipher.size())); }
        std::array<char, 4096> piece;
        while (true) {
            const int count = SSL_read(ssl_, piece.data(), piece.size());
            if (count <= 0) { break; }
            plain.append(piece.data(), static_cast<std::size_t>(count));
        }
        ERR_clear_error();
    }
    std::string output() {
        std::string text;
        std::array<char, 4096> piece;
        while (true) {
            const int count = BIO_read(SSL_get_wbio(ssl_), piece.data(), piece.size());
            if (count <= 0) { break; }
            text.append(piece.data(), static_cast<std::size_t>(count));
        }
        return text;
    }
    void send(const std::string& text) { REQUIRE(SSL_write(ssl_, text.data(), static_cast<int>(text.size())) > 0); }
    void end() { SSL_shutdown(ssl_); }
    bool is_established() const { return SSL_is_init_finished(ssl_) == 1; }
    bool saw_end() const { return (SSL_get_shutdown(ssl_) & SSL_RECEIVED_SHUTDOWN) != 0; }
    std::string protocol() const {
        const unsigned char* data = nullptr;
        unsigned bytes = 0;
        SSL_get0_alpn_selected(ssl_, &data, &bytes);
        return {reinterpret_cast<const char*>(data), bytes};
    }

    std::string plain;

private:
    SSL_CTX* context_;
    SSL* ssl_ = nullptr;
};

/// Both ends in turns, `step` bytes at a time towards the server, until nobody has anything to say.
TlsSession::State talk(Client& client, TlsSession& session, std::string& plain, std::size_t step = 1 << 20) {
    auto state = TlsSession::State::open;
    std::string to_client;
    while (true) {
        client.receive(to_client);
        to_client.clear();
        const std::string to_server = client.output();
        if (to_server.empty()) { return state; }
        for (std::size_t at = 0; at < to_server.size(); at += step) {
            state = session.receive(std::string_view(to_server).substr(at, step), plain);
        }
        session.take_output(to_client);
    }
}

}  // namespace

TEST_CASE("a client and the server's end understand each other, whatever the pieces", "[gateway][tls]") {
    const Files files;
    const auto certificate = TlsCertificate::load(files.file("certificate.pem"), files.file("key.pem")).value();
    CHECK(certificate->expires_unix_s() > 4'000'000'000);
    for (const int version : {TLS1_2_VERSION, TLS1_3_VERSION}) {
        for (const std::size_t step : {std::size_t{1}, std::size_t{7}, std::size_t{1} << 20}) {
            CAPTURE(version, step);
            Client client(version, "\x02h2\x08http/1.1");
            TlsSession session(certificate);
            std::string plain;
            REQUIRE(talk(client, session, plain, step) == TlsSession::State::open);
            REQUIRE(session.is_established());
            REQUIRE(client.protocol() == "http/1.1");
            client.send("GET / HTTP/1.1\r\n\r\n");
            REQUIRE(talk(client, session, plain, step) == TlsSession::State::open);
            REQUIRE(plain == "GET / HTTP/1.1\r\n\r\n");
            const std::string answer(100'000, 'x');
            std::string cipher;
            session.send(answer, cipher);
            session.end(cipher);
            session.end(cipher);
            client.receive(cipher);
            REQUIRE(client.plain == answer);
            REQUIRE(client.saw_end());
            client.end();
            REQUIRE(session.receive(client.output(), plain) == TlsSession::State::peer_ended);
        }
    }
}

TEST_CASE("old TLS, plain HTTP and garbage are not let in", "[gateway][tls]") {
    const Files files;
    const auto certificate = TlsCertificate::load(files.file("certificate.pem"), files.file("key.pem")).value();
    std::string plain;
    {
        Client old(TLS1_1_VERSION);
        TlsSession session(certificate);
        REQUIRE(talk(old, session, plain) == TlsSession::State::broken);
        REQUIRE_FALSE(old.is_established());
    }
    for (const char* request : {"GET / HTTP/1.1\r\n\r\n", "POST /v1/chat/completions HTTP/1.1\r\n"}) {
        TlsSession session(certificate);
        REQUIRE(session.receive(request, plain) == TlsSession::State::spoke_http);
    }
    TlsSession session(certificate);
    REQUIRE(session.receive(std::string(100, 'z'), plain) == TlsSession::State::broken);
    std::string alert;
    session.take_output(alert);
    session.end(alert);  // nothing to end
    REQUIRE(plain.empty());
}

TEST_CASE("whatever bytes come, before or after the handshake, the session ends and gives nothing made up",
          "[gateway][tls]") {
    const Files files;
    const auto certificate = TlsCertificate::load(files.file("certificate.pem"), files.file("key.pem")).value();
    const unsigned seed = GENERATE(range(0u, test_support::seeds_of(50)));
    INFO("seed " << seed);
    std::mt19937 random(seed);
    Client client;
    TlsSession session(certificate);
    std::string plain;
    if (seed % 2 == 0) { REQUIRE(talk(client, session, plain) == TlsSession::State::open); }
    std::string bytes;
    if (seed % 3 == 0 && client.is_established()) {
        client.send(std::string(1000, 'p'));
        bytes = client.output();
        bytes[random() % bytes.size()] ^= static_cast<char>(1 + random() % 255);  // one byte of a record is another
    } else {
        bytes.resize(1 + random() % 5000);
        for (char& byte : bytes) {
            byte = static_cast<char>(random());
        }
    }
    auto state = TlsSession::State::open;
    for (std::size_t at = 0; at < bytes.size() && state == TlsSession::State::open;) {
        const std::size_t count = std::min<std::size_t>(1 + random() % 700, bytes.size() - at);
        state = session.receive(std::string_view(bytes).substr(at, count), plain);
        at += count;
    }
    REQUIRE(plain.empty());
    std::string out;
    session.take_output(out);
    if (session.is_established()) { session.send("late", out); }
    session.end(out);
}

TEST_CASE("a certificate that cannot be used says which file", "[gateway][tls]") {
    const Files files;
    const Files other;
    const auto message = [&](const std::string& certificate, const std::string& key) {
        const auto loaded = TlsCertificate::load(certificate, key);
        REQUIRE_FALSE(loaded);
        return loaded.error().message;
    };
    CHECK(message(files.file("none.pem"), files.file("key.pem")).find("none.pem") != std::string::npos);
    CHECK(message(files.file("certificate.pem"), files.file("none.pem")).find("none.pem") != std::string::npos);
    CHECK(message(files.file("certificate.pem"), other.file("key.pem")).find("key.pem") != std::string::npos);
    files.write("empty.pem", "");
    CHECK(message(files.file("empty.pem"), files.file("key.pem")).find("empty.pem") != std::string::npos);
    CHECK(message(files.file("key.pem"), files.file("key.pem")).find("certificate") != std::string::npos);
}
