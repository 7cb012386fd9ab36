#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "base/clock.h"
#include "base/result.h"
#include "gateway/http/client_address.h"
#include "gateway/http/cors.h"
#include "gateway/http/exchange.h"
#include "gateway/http/tls_session.h"

namespace boost::asio {
class io_context;
}

namespace gateway {

/// Bounds and times of the HTTP server.
struct HttpServerOptions {
    std::string host = "127.0.0.1";
    std::uint16_t port = 8000;  // 0: any free one
    bool allow_public = false;  // may listen on more than loopback
    HttpLimits limits;
    std::vector<std::string> hosts;            // names that it answers to; as SiteCheck
    std::vector<std::string> trusted_proxies;  // addresses and networks; as TrustedProxies
    ForwardedField forwarded_field = ForwardedField::x_forwarded_for;
    std::size_t connections_max = 1024;
    std::size_t connections_per_client_max = 512;           // of one address; behind a trusted proxy: requests in work
    std::uint64_t bodies_bytes_max = 256ull * 1024 * 1024;  // of requests that come or are prepared, all together
    std::uint64_t bodies_bytes_per_client_max = 128ull * 1024 * 1024;  // of one client, or tenant, of these
    std::size_t send_buffer_bytes_max = 1024 * 1024;           // per connection, beyond the kernel's; more cuts it
    std::size_t socket_send_bytes = 0;                         // SO_SNDBUF; 0: the kernel's choice
    base::Duration idle_timeout = std::chrono::seconds(75);    // between requests
    base::Duration header_timeout = std::chrono::seconds(10);  // first byte to end of the head
    base::Duration body_timeout = std::chrono::seconds(60);    // end of the head to end of the body
    base::Duration write_timeout = std::chrono::seconds(30);   // a socket that takes nothing for so long is cut
    base::Duration linger_timeout = std::chrono::seconds(2);   // last byte written to the client's end
};

/// Strict HTTP/1.1 server over Boost.Asio. Runs wholly on the thread of its io_context.
class HttpServer {
public:
    /// Called for every whole request; must answer through the exchange, at once or later.
    using Handler = std::function<void(HttpRequest request, std::shared_ptr<Exchange> exchange)>;
    /// Tells of requests that were refused at the door.
    using RefusalObserver = std::function<void(const HttpRefusal& refusal)>;
    struct Setup {
        HttpServerOptions options;
        const base::Clock& clock;  // borrowed; of every deadline and of HttpRequest::received_at
        Handler handler;
        RefusalObserver refused;
        std::function<std::string(const HttpRefusal& refusal)> refusal_body;  // JSON
        Cors cors;                                                            // put on every answer
        /// What a new connection shows, in TLS; empty: connections are in the clear.
        std::function<std::shared_ptr<const TlsCertificate>()> certificate = {};
        /// Who is not let in, once the head is read and before its body is; empty: everybody is.
        std::function<std::optional<HttpRefusal>(const RequestHead& head)> door = {};
        /// Whom a request of `client` is counted for; empty: the client.
        std::function<std::string(const RequestHead& head, const std::string& client)> payer = {};
    };
    struct Load {
        std::size_t connections = 0;
        std::size_t unanswered = 0;  // neither idle nor only waiting for the client to close
        std::uint64_t send_buffer_bytes = 0;
        std::size_t slow_clients = 0;
    };

    /// Listens. Error: invalid_argument (bad host, name or proxy), permission_denied (not loopback and not allowed),
    /// unavailable (in use).
    static base::Result<std::unique_ptr<HttpServer>> start(boost::asio::io_context& io, Setup setup);
    ~HttpServer();
    HttpServer(const HttpServer&) = delete;
    HttpServer& operator=(const HttpServer&) = delete;

    std::uint16_t port() const;
    Load load() const;
    /// Of requests whose head is read from now on, in place of Setup::cors.
    void set_cors(const Cors& cors);
    /// Closes connections that are idle after an answer; the others, and those that still come (probes must hear that
    /// we are going), close after one answer. `progress` is called whenever load().unanswered may have fallen.
    void drain(std::function<void()> progress);
    bool draining() const;
    /// Cuts every connection.
    void cut_all();

    struct Shared;

private:
    explicit HttpServer(std::shared_ptr<Shared> shared);
    std::shared_ptr<Shared> shared_;
};

}  // namespace gateway
